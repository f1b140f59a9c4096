//! What a side sent before it failed arrives, whatever moves the bytes.

use std::{
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    sync::{Arc, Barrier},
};

use crate::harness::{Backend, Client, End, Socket, Tinylb, put, until};

const SPLICES: [&str; 3] = ["never", "hot", "always"];

/// More than a reader's system takes of what isn't read, and less than what a writer's system and a
/// reader's hold together.
const MUCH: usize = 2 << 20;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// Reads until the stream is over: what came, and how it ended.
fn read_to_end(socket: &mut Socket) -> (Vec<u8>, End) {
    let mut came = Vec::new();
    let end = socket.read_to_end(&mut came).map(|_| ()).into();
    (came, end)
}

#[test]
fn an_answer_arrives_though_its_backend_closes_before_it_has_read_the_question() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 too large\r\n\r\n";
    for splice in SPLICES {
        let backend = Backend::with("a", |socket| {
            socket.read_exact(&mut [0; 64 << 10])?;
            // And goes, with the rest unread: its system resets the connection.
            socket.write_all(ANSWER)
        });
        let tinylb = Tinylb::balance([&backend], &["--splice", splice]);
        let address = tinylb.address();
        for round in 0..100 {
            let mut client = Client::connect(&address);
            let mut reader = client.socket.another();
            let sent = std::thread::spawn(move || client.socket.write_all(&[0; 5 << 20]));
            let (came, _) = read_to_end(&mut reader);
            assert_eq!(came, ANSWER, "round {round} with --splice {splice}");
            let _ = sent.join().unwrap();
        }
        tinylb.stop();
    }
}

/// Bytes that this end's system has not seen acknowledged (proc_net_tcp(5)).
fn unacknowledged(socket: &Socket) -> u64 {
    let Socket::Tcp(stream) = socket else { panic!("this is about TCP") };
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_le_bytes(v4.ip().octets());
            format!("{ip:08X}:{:04X}", v4.port())
        }
        SocketAddr::V6(_) => panic!("this is about IPv4"),
    };
    let ends = [stream.local_addr().unwrap(), stream.peer_addr().unwrap()].map(hex).join(" ");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&ends)).unwrap();
    let queue = line.split_whitespace().nth(4).and_then(|queues| queues.split(':').next());
    u64::from_str_radix(queue.unwrap(), 16).unwrap()
}

/// Writes, waits until the other end's system has all of it, and resets the connection.
fn send_and_reset(socket: Socket) -> io::Result<()> {
    socket.another().write_all(&bytes(MUCH))?;
    until("the system has sent it all", || unacknowledged(&socket) == 0);
    socket.reset();
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_backend_sent_before_it_reset_reaches_a_client_that_reads_it_late() {
    for splice in SPLICES {
        let has_reset = Arc::new(Barrier::new(2));
        let backend = {
            let has_reset = Arc::clone(&has_reset);
            Backend::with("a", move |socket| {
                send_and_reset(socket.another())?;
                has_reset.wait();
                Ok(())
            })
        };
        let tinylb = Tinylb::balance([&backend], &["--splice", splice, "--log-level", "debug"]);
        let mut client = Client::connect(&tinylb.address());
        has_reset.wait();
        // By this the program learns of the reset, if it doesn't know yet.
        client.socket.write_all(b"?").unwrap();
        let (came, end) = read_to_end(&mut client.socket);
        assert!(came == bytes(MUCH), "{} bytes came of {MUCH}, with --splice {splice}", came.len());
        assert_eq!(end, End::Reset, "with --splice {splice}");
        let ended = tinylb.line("connection ended");
        assert_eq!(ended.field("reason"), "backend_failed");
        assert_eq!(ended.json["bytes_to_client"], "a\n".len() + MUCH, "with --splice {splice}");
        tinylb.stop();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_client_sent_before_it_reset_reaches_a_backend_that_reads_it_late() {
    for splice in SPLICES {
        let has_reset = Arc::new(Barrier::new(2));
        let backend = {
            let has_reset = Arc::clone(&has_reset);
            Backend::with("a", move |socket| {
                has_reset.wait();
                socket.write_all(b"?")?;
                let (came, end) = read_to_end(socket);
                assert!(came == bytes(MUCH), "{} bytes came of {MUCH}", came.len());
                assert_eq!(end, End::Reset);
                Ok(())
            })
        };
        let tinylb = Tinylb::balance([&backend], &["--splice", splice, "--log-level", "debug"]);
        let client = Client::connect(&tinylb.address());
        send_and_reset(client.socket).unwrap();
        has_reset.wait();
        until("the backend is through", || backend.ends() == [End::Clean]);
        let ended = tinylb.line("connection ended");
        assert_eq!(ended.field("reason"), "client_failed");
        assert_eq!(ended.json["bytes_to_backend"], MUCH, "with --splice {splice}");
        tinylb.stop();
    }
}

#[test]
fn a_removal_resets_a_client_that_has_not_read_what_its_backend_had_sent() {
    let has_reset = Arc::new(Barrier::new(2));
    let backend = {
        let has_reset = Arc::clone(&has_reset);
        Backend::with("a", move |socket| {
            send_and_reset(socket.another())?;
            has_reset.wait();
            Ok(())
        })
    };
    let tinylb = Tinylb::balance(
        [&backend],
        &["--admin", "127.0.0.1:0", "--admin-write", "--log-level", "debug"],
    );
    let mut client = Client::connect(&tinylb.address());
    has_reset.wait();
    client.socket.write_all(b"?").unwrap();
    let removed = put(&tinylb.admin(), "default", "{}");
    assert_eq!(removed.status, 200);
    let (came, end) = read_to_end(&mut client.socket);
    assert_eq!(end, End::Reset);
    let ended = tinylb.line("connection ended");
    assert_eq!(ended.field("reason"), "backend_removed");
    // What had arrived in its system, which the program knows.
    assert_eq!(ended.json["bytes_to_client"], "a\n".len() + came.len());
    assert!(came.len() < MUCH, "all of it was there already");
    tinylb.stop();
}
