use std::{
    io::{self, Read},
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use super::eventually;

/// Runs a command to its end, with what it wrote. It is killed if it takes too long to be true.
pub(crate) fn output(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Kill(command.spawn().unwrap());
    let stdout = read(child.0.stdout.take());
    let stderr = read(child.0.stderr.take());
    let status = eventually("the end of the program", || child.0.try_wait().unwrap());
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// A child that is killed when dropped.
pub(crate) struct Kill(pub(crate) std::process::Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads to the end, on a thread of its own.
fn read(stream: Option<impl io::Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    let mut stream = stream.unwrap();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        Read::read_to_end(&mut stream, &mut bytes).unwrap();
        bytes
    })
}
