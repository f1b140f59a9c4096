//! The program is stopped for longer than its time limits, as by a freezer or on a suspended
//! machine, and resumes. What arrived meanwhile counts.

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{Backend, Client, ConfigFile, End, Hung, Socket, Tinylb, service};

/// Enough that each worker has some, and that a lucky order can't save them all.
const SESSIONS: usize = 20;

/// Longer than the limits of these tests.
const PAUSE: Duration = Duration::from_millis(2500);

/// Stops the program, and resumes it after a pause in which something happens.
fn paused(tinylb: &Tinylb, meanwhile: impl FnOnce()) {
    // Until all workers wait in their reactors.
    thread::sleep(Duration::from_millis(100));
    tinylb.signal(Signal::STOP);
    thread::sleep(Duration::from_millis(100));
    meanwhile();
    thread::sleep(PAUSE);
    tinylb.signal(Signal::CONT);
}

#[test]
fn a_session_that_has_data_waiting_outlives_a_pause_longer_than_idle_timeout() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "idle_timeout = \"2s\""));
    let tinylb = file.run();
    let mut clients = Client::several(&tinylb.address(), SESSIONS);
    assert!(clients.iter_mut().all(Client::is_served));
    paused(&tinylb, || {
        for client in &mut clients {
            client.socket.write_all(&[1]).unwrap();
        }
    });
    for (number, client) in clients.iter_mut().enumerate() {
        let mut byte = [0];
        let read = client.socket.read_exact(&mut byte);
        assert!(read.is_ok(), "session {number} of {SESSIONS}: {read:?}");
    }
    // Now nothing is sent.
    assert!(clients.iter_mut().all(|client| client.end() == End::Reset));
    tinylb.stop();
}

#[test]
fn an_answer_that_came_in_a_pause_longer_than_half_close_timeout_arrives() {
    let (resume, resumed) = std::sync::mpsc::channel::<()>();
    let resumed = std::sync::Mutex::new(resumed);
    let a = Backend::with("a", move |socket| {
        let mut question = Vec::new();
        socket.read_to_end(&mut question)?;
        resumed.lock().unwrap().recv().unwrap();
        socket.write_all(b"answer")
    });
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "half_close_timeout = \"2s\""));
    let tinylb = file.run();
    let mut clients = Client::several(&tinylb.address(), SESSIONS);
    clients.iter().for_each(|client| client.socket.shutdown_write());
    paused(&tinylb, || (0..SESSIONS).for_each(|_| resume.send(()).unwrap()));
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = String::new();
        let read = client.socket.read_to_string(&mut answer);
        assert!(read.is_ok() && answer == "answer", "session {number}: {read:?}, {answer:?}");
    }
    tinylb.stop();
}

#[test]
fn a_dial_that_came_through_in_a_pause_longer_than_dial_timeout_counts() {
    let hung = Hung::tcp();
    let address = hung.address.clone();
    let text = format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ a = {address:?} }}\n\
         dial_timeout = \"2s\"\ndial_attempts_max = 1\n"
    );
    let file = ConfigFile::new(&text);
    let tinylb = file.run();
    let client = Socket::connect(&tinylb.address()).unwrap();
    // Room in the backlog: the kernel asks again, one second after its first try.
    paused(&tinylb, || hung.answer("a"));
    assert_eq!(Client::greeted(client).unwrap().backend, "a");
    assert!(!tinylb.log().iter().any(|line| line.says("dial failed")), "{:?}", tinylb.log());
    tinylb.stop();
}
