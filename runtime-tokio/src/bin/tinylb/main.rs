//! The program `tinylb`.

mod config;

fn main() {}
