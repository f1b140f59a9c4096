//! Questions that a test asks the model and a real system alike.

use tinylb_core::Side;

use super::{
    Config,
    kernel::{
        ERROR, Kernel, READ_CLOSED, READABLE, Trouble, URGENT, WRITABLE, WRITE_CLOSED, payload,
    },
    tcp::Failure,
};
use crate::{Entropy, Seeded};

/// Something that is done to one connection, and what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The peer sends this many bytes.
    PeerSends(u32),
    /// The peer sends an urgent byte.
    PeerSendsUrgent,
    /// The peer ends its stream.
    PeerEnds,
    /// The peer reads all there is.
    PeerReads,
    /// The peer closes its socket.
    PeerCloses,
    /// The peer resets its connection.
    PeerAborts,
    /// What does a read of this many bytes give?
    Receive(u32),
    /// What does a write of this many bytes give?
    Send(u32),
    /// What does a splice of this many bytes into an empty pipe give?
    Fill(u32),
    /// What does the end of the write side give?
    ShutDown,
    /// Which error does the socket have (`SO_ERROR`)?
    TakeError,
    /// Does the socket have a peer?
    IsConnected,
}

/// What poll(2) says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Level {
    /// There is something to read, or an end or an error to be reported.
    pub is_readable: bool,
    /// The peer has ended its stream, or the connection is over.
    pub is_read_closed: bool,
    /// There is room, or an error to be reported.
    pub is_writable: bool,
    /// Both directions are shut, or there is an error.
    pub is_write_closed: bool,
    /// There is urgent data.
    pub is_urgent: bool,
    /// There is an error.
    pub has_error: bool,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In words: a number of bytes, or how it failed.
    pub text: String,
    /// How the socket stands once everything has arrived.
    pub level: Level,
}

impl Question {
    /// Questions that belong to this seed.
    pub fn from_seed(seed: u64) -> Vec<Self> {
        let mut source = Seeded::new(seed);
        let count = source.between(3, 14);
        (0..count).map(|_| Self::generate(&mut source)).collect()
    }

    fn generate(source: &mut impl Entropy) -> Self {
        match source.below(20) {
            0..4 => Self::PeerSends(source.between(1, 30)),
            4 => Self::PeerSendsUrgent,
            5 => Self::PeerEnds,
            6 => Self::PeerReads,
            7 => Self::PeerCloses,
            8 => Self::PeerAborts,
            9..12 => Self::Receive(source.between(1, 40)),
            12..14 => Self::Send(source.between(1, 30)),
            14..16 => Self::Fill(source.between(1, 40)),
            16 => Self::ShutDown,
            17 => Self::TakeError,
            _ => Self::IsConnected,
        }
    }
}

/// The model's answers: everything arrives before the next question.
pub fn answers(questions: &[Question]) -> Vec<Answer> {
    let sizes = Config { receive: 1024, send: 1024, window: 1024, ..Config::default() };
    let mut kernel = Kernel::new(sizes, 0, false);
    kernel.of(SIDE).peer.is_stopped = true;
    let answer = |question: &Question| {
        let text = kernel.answer(*question);
        while kernel.act_by_itself() {}
        Answer { text, level: kernel.level_of(SIDE) }
    };
    questions.iter().map(answer).collect()
}

const SIDE: Side = Side::Client;

impl Kernel {
    fn answer(&mut self, question: Question) -> String {
        let done = || String::from("done");
        let connection = self.of(SIDE);
        match question {
            Question::PeerSends(bytes) if connection.peer_can_send() => {
                connection.inbound.sent += u64::from(bytes);
                done()
            }
            Question::PeerSendsUrgent if connection.peer_can_send() => {
                connection.inbound.urgent_sent = Some(connection.inbound.sent);
                connection.inbound.sent += 1;
                done()
            }
            Question::PeerEnds if connection.peer_can_send() => {
                connection.inbound.has_end = true;
                done()
            }
            Question::PeerSends(_) | Question::PeerSendsUrgent | Question::PeerEnds => done(),
            Question::PeerReads => {
                if !connection.peer.is_closed {
                    connection.peer_reads(connection.outbound.arrived - connection.outbound.read);
                }
                done()
            }
            Question::PeerCloses => {
                connection.peer_closes(|most| most);
                done()
            }
            Question::PeerAborts => {
                connection.peer_aborts(|most| most);
                done()
            }
            Question::Receive(bytes) => text(self.receive(SIDE, &mut vec![0; bytes as usize])),
            Question::Send(bytes) => {
                let written = self.see(SIDE).outbound.written;
                let bytes: Vec<u8> = (written..written + u64::from(bytes))
                    .map(|at| payload(Side::Backend, at))
                    .collect();
                text(self.send(SIDE, &bytes, false))
            }
            Question::Fill(bytes) => {
                let Some((pipe, _)) = self.make_pipe() else { return done() };
                text(self.fill(SIDE, pipe, bytes as usize))
            }
            Question::ShutDown => {
                let is_over = !connection.shut_down();
                text(if is_over { Err(Trouble::NotConnected) } else { Ok(0) })
            }
            Question::TakeError => match connection.ours.error.take() {
                Some(failure) => text(Err(Trouble::Failed(failure))),
                None => "none".into(),
            },
            Question::IsConnected => (!connection.ours.is_closed).to_string(),
        }
    }

    fn level_of(&mut self, side: Side) -> Level {
        let bits = self.level(side);
        let has = |bit| bits & bit > 0;
        Level {
            is_readable: has(READABLE),
            is_read_closed: has(READ_CLOSED),
            is_writable: has(WRITABLE),
            is_write_closed: has(WRITE_CLOSED),
            is_urgent: has(URGENT),
            has_error: has(ERROR),
        }
    }
}

fn text(answer: Result<usize, Trouble>) -> String {
    match answer {
        Ok(bytes) => return bytes.to_string(),
        Err(Trouble::WouldBlock) => "would block",
        Err(Trouble::Interrupted) => "interrupted",
        Err(Trouble::Failed(Failure::Reset)) => "connection reset",
        Err(Trouble::Failed(Failure::BrokenPipe)) => "broken pipe",
        Err(Trouble::NoMemory) => "out of memory",
        Err(Trouble::Unsupported) => "unsupported",
        Err(Trouble::NotConnected) => "not connected",
    }
    .into()
}
