//! The files of Unix sockets.

use std::{fs, os::unix::net::UnixListener, path::PathBuf, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{
    Backend, Client, ConfigFile, End, Tinylb, binary, get, output, service, until,
};

/// A place for a socket: its path, and the address.
fn place(dir: &TempDir, name: &str) -> (PathBuf, String) {
    let path = dir.path().join(name);
    let address = format!("unix:{}", path.display());
    (path, address)
}

fn listen(address: &str, backend: &Backend, more: &[&str]) -> Tinylb {
    let argument = backend.argument();
    let args = [&["--listen", address, "--backend", &argument], more].concat();
    Tinylb::run(&args)
}

#[test]
fn a_file_that_nobody_listens_on_is_replaced() {
    let (dir, a) = (TempDir::new().unwrap(), Backend::echo("a"));
    let (path, address) = place(&dir, "front");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let tinylb = listen(&address, &a, &[]);
    assert_eq!(tinylb.address(), address);
    assert_eq!(Client::connect(&address).backend, "a");
}

#[test]
fn what_a_killed_program_left_is_replaced() {
    let (dir, a) = (TempDir::new().unwrap(), Backend::echo("a"));
    let (path, address) = place(&dir, "front");
    let (admin_path, admin) = place(&dir, "admin");
    for _ in 0..2 {
        let tinylb = listen(&address, &a, &["--admin", &admin]);
        tinylb.address();
        assert_eq!(Client::connect(&address).backend, "a");
        assert_eq!(get(&admin, "/healthz").status, 200);
        drop(tinylb);
        assert!(path.exists() && admin_path.exists());
    }
}

/// The program can't listen there, and leaves what is there alone.
fn refuses(address: &str, message: &str) {
    for args in [["--listen", address], ["--listen=127.0.0.1:0", &format!("--admin={address}")]] {
        let mut command = Command::new(binary());
        command.arg("run").args(args).args(["--backend", "a=127.0.0.1:1"]);
        let output = output(&mut command);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("\"ERROR\"") && error.contains(message), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_socket_in_use_is_an_error_and_stays_in_use() {
    let (dir, a) = (TempDir::new().unwrap(), Backend::echo("a"));
    let (_, address) = place(&dir, "front");
    let tinylb = listen(&address, &a, &[]);
    tinylb.address();
    refuses(&address, "somebody listens there");
    assert_eq!(Client::connect(&address).backend, "a");
    tinylb.stop();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let (path, address) = place(&dir, "precious");
    fs::write(&path, "precious").unwrap();
    refuses(&address, "no socket");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_files_are_removed_at_the_end() {
    // Several times: at its end, the program has threads that may be faster or slower.
    for signals in [1, 2].repeat(8) {
        let (dir, a) = (TempDir::new().unwrap(), Backend::echo("a"));
        let (path, address) = place(&dir, "front");
        let (admin_path, admin) = place(&dir, "admin");
        let mut tinylb = listen(&address, &a, &["--admin", &admin]);
        tinylb.address();
        let client = Client::connect(&address);
        assert!(path.exists() && admin_path.exists());
        tinylb.signal(Signal::TERM);
        tinylb.line("shutting down");
        match signals {
            1 => drop(client.finish()),
            _ => tinylb.signal(Signal::TERM),
        }
        assert_eq!(tinylb.exit_code(), 0);
        assert!(!path.exists(), "the listener's file is left behind");
        assert!(!admin_path.exists(), "the admin address's file is left behind");
    }
}

#[test]
fn a_start_that_fails_leaves_no_file_behind() {
    let (dir, taken) = (TempDir::new().unwrap(), Backend::echo("a"));
    let (path, address) = place(&dir, "front");
    let (admin_path, admin) = place(&dir, "admin");
    let mut command = Command::new(binary());
    command.args(["run", "--listen", &address, "--listen", &taken.address]);
    command.args(["--admin", &admin, "--backend", "a=127.0.0.1:1"]);
    assert_eq!(output(&mut command).status.code(), Some(1));
    assert!(!path.exists(), "the listener's file is left behind");
    assert!(!admin_path.exists(), "the admin address's file is left behind");
}

#[test]
fn the_file_goes_with_an_address_that_is_taken_out_of_the_configuration() {
    let (dir, a) = (TempDir::new().unwrap(), Backend::echo("a"));
    let (path, address) = place(&dir, "front");
    let file = ConfigFile::new(&service("s", &format!("127.0.0.1:0 {address}"), [&a], ""));
    let tinylb = file.run();
    tinylb.addresses(2);
    let mut client = Client::connect(&address);
    file.edit(&service("s", "127.0.0.1:0", [&a], ""));
    until("the file's removal", || !path.exists());
    assert!(client.is_served());
    assert_eq!(client.finish(), End::Clean);
    tinylb.stop();
}

#[test]
fn a_file_that_another_program_put_in_its_place_is_left_alone() {
    let (dir, a) = (TempDir::new().unwrap(), Backend::echo("a"));
    let (path, address) = place(&dir, "front");
    let tinylb = listen(&address, &a, &[]);
    tinylb.address();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    tinylb.stop();
    assert!(path.exists());
}
