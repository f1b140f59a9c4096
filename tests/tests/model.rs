//! The simulation's model of a system's sockets, beside Linux: both get the same questions.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // Tests and what serves only them.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{RecvFlags, SendFlags, Shutdown},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use socket2::SockRef;
use tinylb_sim::relay::{Answer, Question, SocketLevel, answers};

/// How long what was sent may take over the loopback, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection as the balancer has it, and its peer.
struct Linux {
    ours: TcpStream,
    peer: Option<TcpStream>,
}

impl Linux {
    fn new(listener: &TcpListener) -> Self {
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        SockRef::from(&ours).set_out_of_band_inline(true).unwrap();
        SockRef::from(&ours).set_tcp_nodelay(true).unwrap();
        SockRef::from(&peer).set_tcp_nodelay(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        Self { ours, peer: Some(peer) }
    }

    fn answer(&mut self, question: Question) -> String {
        let done = || String::from("done");
        match question {
            Question::PeerSends(bytes) => {
                let _ = self.peer.as_ref().map(|mut peer| peer.write(&vec![7; bytes as usize]));
                done()
            }
            Question::PeerSendsUrgent => {
                let _ = self.peer.as_ref().map(|peer| SockRef::from(peer).send_out_of_band(b"!"));
                done()
            }
            Question::PeerEnds => {
                let _ = self.peer.as_ref().map(|peer| peer.shutdown(std::net::Shutdown::Write));
                done()
            }
            Question::PeerReads => {
                let mut buffer = [0; 4096];
                while self
                    .peer
                    .as_ref()
                    .is_some_and(|mut peer| peer.read(&mut buffer).is_ok_and(|length| length > 0))
                {
                }
                done()
            }
            Question::PeerCloses => {
                self.peer = None;
                done()
            }
            Question::PeerAborts => {
                if let Some(peer) = self.peer.take() {
                    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
                }
                done()
            }
            Question::Receive(bytes) => {
                let mut buffer = vec![0; bytes as usize];
                let received = rustix::net::recv(&self.ours, &mut buffer[..], RecvFlags::DONTWAIT);
                text(received.map(|(_, length)| length))
            }
            Question::Send(bytes) => {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                text(rustix::net::send(&self.ours, &vec![7; bytes as usize], flags))
            }
            Question::Fill(bytes) => {
                let (_read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
                let flags = SpliceFlags::NONBLOCK;
                text(splice(&self.ours, None, &write, None, bytes as usize, flags))
            }
            Question::ShutDown => {
                text(rustix::net::shutdown(&self.ours, Shutdown::Write).map(|()| 0))
            }
            Question::TakeError => match self.ours.take_error().unwrap() {
                Some(error) => failure(&error),
                None => "none".into(),
            },
            Question::IsConnected => self.ours.peer_addr().is_ok().to_string(),
        }
    }

    fn level(&self) -> SocketLevel {
        let wanted = PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::RDHUP;
        let mut polled = [PollFd::from_borrowed_fd(self.ours.as_fd(), wanted)];
        poll(&mut polled, Some(&Default::default())).unwrap();
        let flags = polled[0].revents();
        let has = |flag| flags.contains(flag);
        // As mio and tokio have it.
        SocketLevel {
            is_readable: has(PollFlags::IN) || has(PollFlags::PRI),
            is_read_closed: has(PollFlags::HUP) || has(PollFlags::IN) && has(PollFlags::RDHUP),
            is_writable: has(PollFlags::OUT),
            is_write_closed: has(PollFlags::HUP) || has(PollFlags::OUT) && has(PollFlags::ERR),
            is_urgent: has(PollFlags::PRI),
            has_error: has(PollFlags::ERR),
        }
    }

    /// How the socket stands, once that is as expected or has had its time.
    fn settled(&self, expected: SocketLevel) -> SocketLevel {
        let began = Instant::now();
        loop {
            let level = self.level();
            if level == expected || began.elapsed() > PATIENCE {
                return level;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn text(answer: rustix::io::Result<usize>) -> String {
    answer.map_or_else(|errno| failure(&errno.into()), |bytes| bytes.to_string())
}

fn failure(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => "would block".into(),
        ErrorKind::ConnectionReset => "connection reset".into(),
        ErrorKind::BrokenPipe => "broken pipe".into(),
        ErrorKind::NotConnected => "not connected".into(),
        _ => error.to_string(),
    }
}

#[test]
fn linux_answers_as_the_model_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for seed in 0..2_000 {
        let questions = Question::from_seed(seed);
        let mut linux = Linux::new(&listener);
        let mut asked = Vec::new();
        for (question, expected) in questions.iter().zip(answers(&questions)) {
            let text = linux.answer(*question);
            let level = linux.settled(expected.level);
            asked.push((*question, expected.clone()));
            assert_eq!(Answer { text, level }, expected, "seed {seed}: {asked:#?}");
        }
    }
}
