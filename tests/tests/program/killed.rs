//! Whatever ends the program, or keeps it from serving a connection, no stream that it cuts looks
//! like one that ended.

use std::{
    io::{self, Read, Write},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use rustix::process::Signal;

use crate::harness::{Backend, Client, End, Socket, Strace, Tinylb, until};

/// How a write to a program that dies may fail.
const CUT: [End; 2] = [End::Reset, End::Other(io::ErrorKind::BrokenPipe)];

/// Writes until that fails.
fn write_for_ever(socket: &mut Socket) -> io::Result<()> {
    loop {
        socket.write_all(&[0; 64 << 10])?;
    }
}

/// Sessions of every kind, up to the moment that the program is killed.
fn kill_in_mid_stream(signal: Signal) {
    let idle = Backend::echo("idle");
    let down = Backend::with("down", write_for_ever);
    let up = Backend::with("up", |socket| socket.read_to_end(&mut Vec::new()).map(|_| ()));
    let half_closed = Backend::with("half_closed", |socket| {
        socket.read_to_end(&mut Vec::new())?;
        write_for_ever(socket)
    });
    let tinylb = Tinylb::balance([&down, &half_closed, &idle, &up], &[]);
    let mut clients = Client::several(&tinylb.address(), 4);
    clients.sort_by(|one, other| one.backend.cmp(&other.backend));
    let [mut downloads, mut half_closes, mut idles, mut uploads] =
        clients.try_into().map_err(|_| "four").unwrap();
    half_closes.socket.shutdown_write();
    let is_uploading = AtomicBool::new(false);
    thread::scope(|scope| {
        let uploading = scope.spawn(|| {
            uploads.socket.write_all(&[0; 8 << 20])?;
            is_uploading.store(true, SeqCst);
            write_for_ever(&mut uploads.socket)
        });
        for client in [&mut downloads, &mut half_closes] {
            client.socket.read_exact(&mut [0; 1 << 20]).unwrap();
        }
        until("bytes go up", || is_uploading.load(SeqCst));
        tinylb.signal(signal);
        for client in [&mut downloads, &mut half_closes, &mut idles] {
            assert_eq!(client.end(), End::Reset, "for the client of {}", client.backend);
        }
        let uploaded = End::from(uploading.join().unwrap());
        assert!(CUT.contains(&uploaded), "{uploaded:?} for the client that was sending");
    });
    for backend in [&down, &half_closed] {
        until("the backend's end", || !backend.ends().is_empty());
        assert!(CUT.contains(&backend.ends()[0]), "{:?} for {}", backend.ends(), backend.key);
    }
    for backend in [&idle, &up] {
        until("the backend's end", || !backend.ends().is_empty());
        assert_eq!(backend.ends(), [End::Reset], "for {}", backend.key);
    }
}

#[test]
fn half_a_stream_does_not_pass_for_a_whole_one_when_the_program_is_killed() {
    kill_in_mid_stream(Signal::KILL);
}

#[test]
fn half_a_stream_does_not_pass_for_a_whole_one_when_the_program_aborts() {
    kill_in_mid_stream(Signal::ABORT);
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_cannot_be_watched_is_reset_and_the_next_is_served() {
    for error in ["ENOSPC", "ENOMEM", "EPERM"] {
        let backend = Backend::echo("a");
        let tinylb = Tinylb::balance([&backend], &[]);
        let address = tinylb.address();
        let Some(strace) = Strace::fail(&tinylb, "epoll_ctl", error) else { return };
        let mut client = Socket::connect(&address).unwrap();
        assert_eq!(End::from(client.read_exact(&mut [0])), End::Reset, "after {error}");
        drop(strace);
        assert!(Client::connect(&address).is_served(), "after {error}");
        tinylb.stop();
    }
}
