//! Bytes and ends on their way between a client and its backend.

use std::{
    io::{Read, Write},
    thread,
};

use crate::harness::{Backend, Client, End, Strace, Tinylb, until};

/// More than all buffers on the way can hold.
const LONG: usize = 16 << 20;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

#[test]
fn a_client_that_has_sent_all_it_had_gets_its_long_answer() {
    let backend = Backend::with("a", |socket| {
        let mut request = Vec::new();
        socket.read_to_end(&mut request)?;
        assert_eq!(request, b"all of it, please");
        socket.write_all(&bytes(LONG))
    });
    let tinylb = Tinylb::balance([&backend], &[]);
    let mut client = Client::connect(&tinylb.address());
    client.socket.write_all(b"all of it, please").unwrap();
    client.socket.shutdown_write();
    let mut answer = Vec::new();
    client.socket.read_to_end(&mut answer).unwrap();
    assert!(answer == bytes(LONG), "{} bytes came", answer.len());
    until("the backend's end", || backend.ends() == [End::Clean]);
    tinylb.stop();
}

#[test]
fn a_backend_that_has_sent_all_it_had_still_gets_the_long_request() {
    let backend = Backend::with("a", |socket| {
        socket.write_all(b"go on")?;
        socket.shutdown_write();
        let mut request = Vec::new();
        socket.read_to_end(&mut request)?;
        assert!(request == bytes(LONG), "{} bytes came", request.len());
        Ok(())
    });
    let tinylb = Tinylb::balance([&backend], &[]);
    let mut client = Client::connect(&tinylb.address());
    let mut answer = String::new();
    client.socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "go on");
    client.socket.write_all(&bytes(LONG)).unwrap();
    client.socket.shutdown_write();
    until("the backend's end", || backend.ends() == [End::Clean]);
    tinylb.stop();
}

#[test]
fn bytes_arrive_intact_in_both_directions_at_once() {
    let backend = Backend::echo("a");
    let tinylb = Tinylb::balance([&backend], &[]);
    let mut client = Client::connect(&tinylb.address());
    let mut writer = client.socket.another();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes(LONG)).unwrap();
        writer.shutdown_write();
    });
    let mut answer = Vec::new();
    client.socket.read_to_end(&mut answer).unwrap();
    writing.join().unwrap();
    assert!(answer == bytes(LONG), "{} bytes came", answer.len());
}

#[test]
fn a_clients_reset_is_passed_on_and_looks_like_no_end() {
    let backend = Backend::echo("a");
    let tinylb = Tinylb::balance([&backend], &["--log-level", "debug"]);
    let mut client = Client::connect(&tinylb.address());
    client.echo(1).unwrap();
    client.socket.reset();
    until("the backend's end", || !backend.ends().is_empty());
    assert_eq!(backend.ends(), [End::Reset]);
    assert_eq!(tinylb.line("connection ended").field("reason"), "client_failed");
    tinylb.stop();
}

#[test]
fn a_backends_reset_is_passed_on_and_looks_like_no_end() {
    let backend = Backend::with("a", |socket| {
        socket.read_exact(&mut [0])?;
        socket.another().reset();
        Ok(())
    });
    let tinylb = Tinylb::balance([&backend], &["--log-level", "debug"]);
    let mut client = Client::connect(&tinylb.address());
    client.socket.write_all(b"x").unwrap();
    assert_eq!(client.end(), End::Reset);
    assert_eq!(tinylb.line("connection ended").field("reason"), "backend_failed");
    tinylb.stop();
}

#[test]
fn a_slow_reader_slows_nobody_else() {
    let backend = Backend::with("a", |socket| {
        let mut request = [0];
        socket.read_exact(&mut request)?;
        socket.write_all(&bytes(LONG))
    });
    let tinylb = Tinylb::balance([&backend], &[]);
    let mut slow = Client::several(&tinylb.address(), 4);
    for client in &mut slow {
        client.socket.write_all(b"x").unwrap();
    }
    for _ in 0..4 {
        let mut quick = Client::connect(&tinylb.address());
        quick.socket.write_all(b"x").unwrap();
        let mut answer = Vec::new();
        quick.socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), LONG);
    }
    // What they have not read is still there for them.
    for client in &mut slow {
        let mut answer = Vec::new();
        client.socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), LONG);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn bytes_that_cannot_be_spliced_are_copied() {
    for error in ["ENOMEM", "EINVAL", "EIO"] {
        let backend = Backend::with("a", |socket| {
            socket.read_exact(&mut [0])?;
            socket.write_all(&bytes(LONG))
        });
        let tinylb = Tinylb::balance([&backend], &["--splice", "always"]);
        let mut client = Client::connect(&tinylb.address());
        let Some(_strace) = Strace::fail(&tinylb, "splice", error) else { return };
        client.socket.write_all(b"x").unwrap();
        let mut answer = Vec::new();
        client.socket.read_to_end(&mut answer).unwrap();
        assert!(answer == bytes(LONG), "{} bytes came, after {error}", answer.len());
    }
}
