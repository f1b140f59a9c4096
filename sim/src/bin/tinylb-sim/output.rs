//! What the program prints and writes, and why it may fail.

use std::{
    fmt, fs,
    io::{self, Write},
    path::Path,
};

/// Why the program ends otherwise than well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments, or a file that they name, are wrong: exit code 2. With cause and remedy.
    Usage(String),
    /// A law is broken, or something can't be done: exit code 1. With what to print.
    Error(String),
    /// The same, and what there is to say has been printed.
    Reported,
}

/// Prints to standard output. Whether anybody reads it makes no difference.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

/// Prints to standard error.
pub(crate) fn print_error(text: fmt::Arguments<'_>) {
    let mut out = io::stderr().lock();
    let _ = out.write_fmt(text);
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| {
        Failure::Usage(format!("{} can't be written: {error}; name another file", path.display()))
    })
}
