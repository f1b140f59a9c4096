//! The model of a system: two connections, pipes, and a reactor that reports late, early, more
//! often than it should, or all at once. What a relay asks of it is judged on the way.

use std::task::Waker;

use tinylb_core::Side;

use super::{
    Config, Happening,
    tcp::{Connection, Nothing},
};
use crate::{Counts, Entropy, Law, Seeded, Sometimes, Trace, Violation, trace::Note};

/// Calls without a byte that moves, after which a relay is taken to run in a circle.
const CALLS_MAX: u32 = 1_000;

pub(super) struct Kernel {
    pub(super) config: Config,
    pub(super) random: Seeded,
    connections: [Connection; 2],
    reports: [Reports; 2],
    pub(super) pipes: Vec<PipeState>,
    /// No pipe is to be had.
    pub(super) refuses_pipes: bool,
    /// This many splices fail, since there is no memory, or since this system splices no sockets.
    pub(super) splices_fail: u32,
    pub(super) splices_never: bool,
    /// A splice has failed.
    pub(super) has_failed_splice: bool,
    /// The task that waits for time to pass.
    pub(super) sleeper: Option<Waker>,
    /// Bytes that the relay moved, events and what else gives it a reason to run.
    pub(super) reasons: u64,
    calls_in_vain: u32,
    /// Actions so far.
    pub(super) now: u64,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) violations: Vec<Violation>,
}

/// What a pipe holds: bytes of this stream, from this place on.
pub(super) struct PipeState {
    pub(super) is_open: bool,
    pub(super) from: Side,
    pub(super) start: u64,
    pub(super) length: u64,
}

/// What the reactor has reported of a socket, as tokio keeps it.
#[derive(Default)]
pub(super) struct Reports {
    /// The system has an event that the reactor hasn't reported yet.
    pub(super) is_due: bool,
    bits: u8,
    /// Counts reports: one that is older than the newest isn't taken back.
    tick: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

pub(super) const READABLE: u8 = 1;
pub(super) const READ_CLOSED: u8 = 2;
pub(super) const WRITABLE: u8 = 4;
pub(super) const WRITE_CLOSED: u8 = 8;
pub(super) const URGENT: u8 = 16;
pub(super) const ERROR: u8 = 32;

/// What a call comes to, other than what it is for.
pub(super) enum Trouble {
    WouldBlock,
    Interrupted,
    Failed(super::tcp::Failure),
    NoMemory,
    Unsupported,
    NotConnected,
}

/// The byte at a place of the stream that comes from this side.
#[inline]
pub(super) fn payload(from: Side, at: u64) -> u8 {
    let word = (at << 1 | from as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (word >> 56) as u8
}

pub(super) fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}

impl Kernel {
    pub(super) fn new(config: Config, seed: u64, keep_trace: bool) -> Self {
        let connection = || {
            let Config { receive, send, window, .. } = config;
            Connection::new(receive.into(), send.into(), window.into())
        };
        // A socket that can be written to is reported when it is registered.
        let reports = || Reports { is_due: true, ..Reports::default() };
        Self {
            random: Seeded::for_purpose(seed, 1),
            connections: [connection(), connection()],
            reports: [reports(), reports()],
            pipes: Vec::new(),
            refuses_pipes: false,
            splices_fail: 0,
            splices_never: false,
            has_failed_splice: false,
            sleeper: None,
            reasons: 0,
            calls_in_vain: 0,
            now: 0,
            trace: Trace::new(keep_trace),
            counts: Counts::default(),
            violations: Vec::new(),
            config,
        }
    }

    pub(super) fn of(&mut self, side: Side) -> &mut Connection {
        &mut self.connections[side as usize]
    }

    pub(super) fn see(&self, side: Side) -> &Connection {
        &self.connections[side as usize]
    }

    pub(super) fn reports(&mut self, side: Side) -> &mut Reports {
        &mut self.reports[side as usize]
    }

    pub(super) fn note(&mut self, happening: Happening) {
        self.trace.add(self.now, Note::Relay(happening));
    }

    pub(super) fn fail(&mut self, law: Law, text: impl FnOnce() -> String) {
        if self.violations.len() < 10 {
            self.trace.add(self.now, Note::Violated(law.name()));
            self.violations.push(Violation { at: self.now, law, text: text() });
        }
    }

    /// A call of the relay's: something may happen meanwhile.
    fn begin_call(&mut self) {
        self.calls_in_vain += 1;
        assert!(self.calls_in_vain < CALLS_MAX, "{CALLS_MAX} calls in a row have moved nothing");
        let meanwhile = self.config.meanwhile;
        if meanwhile > 0 && self.random.chance(meanwhile) {
            self.act_by_itself();
        }
    }

    fn is_interrupted(&mut self) -> bool {
        let interrupts = self.config.interrupts;
        let is_interrupted = interrupts > 0 && self.random.chance(interrupts);
        if is_interrupted {
            self.counts.add(Sometimes::CallInterrupted, 1);
        }
        is_interrupted
    }

    /// Bytes were moved by the relay.
    fn moved(&mut self, happening: Happening) {
        self.calls_in_vain = 0;
        self.reasons += 1;
        self.note(happening);
    }

    // The calls.

    pub(super) fn receive(&mut self, side: Side, buffer: &mut [u8]) -> Result<usize, Trouble> {
        self.begin_call();
        if self.is_interrupted() {
            return Err(Trouble::Interrupted);
        }
        let connection = self.of(side);
        let (readable, start) = (connection.readable(), connection.inbound.read);
        if readable == 0 || buffer.is_empty() {
            return self.nothing(side);
        }
        let length = readable.min(buffer.len() as u64);
        if connection.inbound.urgent.is_some_and(|urgent| start + length == urgent) {
            self.counts.add(Sometimes::StoppedAtUrgent, 1);
        }
        self.of(side).take(length);
        for (at, byte) in (start..).zip(&mut buffer[..length as usize]) {
            *byte = payload(side, at);
        }
        if self.see(side).ours.was_reset {
            self.counts.add(Sometimes::ReadAfterReset, 1);
        }
        self.moved(Happening::Read(side.into(), length as u32));
        Ok(length as usize)
    }

    fn nothing(&mut self, side: Side) -> Result<usize, Trouble> {
        match self.of(side).nothing() {
            Nothing::End => Ok(0),
            Nothing::Failed(failure) => Err(Trouble::Failed(failure)),
            Nothing::Empty => Err(Trouble::WouldBlock),
        }
    }

    pub(super) fn send(
        &mut self,
        side: Side,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<usize, Trouble> {
        self.begin_call();
        if self.is_interrupted() {
            return Err(Trouble::Interrupted);
        }
        if is_last {
            self.counts.add(Sometimes::EndForeseen, 1);
        }
        let length = self.make_room(side, bytes.len() as u64)?;
        let start = self.see(side).outbound.written;
        let is_right = |(at, byte): (u64, &u8)| *byte == payload(other(side), at);
        if !(start..).zip(&bytes[..length as usize]).all(is_right) {
            self.fail(Law::Bytes, || {
                format!("the {side} gets other bytes than were sent to it, from byte {start} on")
            });
        }
        // What fills the buffer is sent at once.
        let is_last = is_last && length == bytes.len() as u64;
        self.of(side).write(length, is_last);
        self.moved(Happening::Written(side.into(), length as u32));
        Ok(length as usize)
    }

    /// How much of this the send buffer takes.
    fn make_room(&mut self, side: Side, wanted: u64) -> Result<u64, Trouble> {
        let connection = self.of(side);
        if let Some(failure) = connection.refusal() {
            return Err(Trouble::Failed(failure));
        }
        let room = connection.room();
        connection.ours.lacks_room |= room < wanted;
        if room == 0 {
            self.counts.add(Sometimes::SocketFull, 1);
            return Err(Trouble::WouldBlock);
        }
        Ok(room.min(wanted))
    }

    pub(super) fn make_pipe(&mut self) -> Option<(usize, usize)> {
        self.begin_call();
        if self.refuses_pipes {
            self.counts.add(Sometimes::PipeRefused, 1);
            return None;
        }
        let pipe = PipeState { is_open: true, from: Side::Client, start: 0, length: 0 };
        self.pipes.push(pipe);
        Some((self.pipes.len() - 1, self.config.pipe_size as usize))
    }

    pub(super) fn fill(&mut self, side: Side, pipe: usize, most: usize) -> Result<usize, Trouble> {
        self.begin_call();
        if self.pipes[pipe].length > 0 {
            self.fail(Law::Pipes, || "a pipe that is filled has something in it".into());
            return Err(Trouble::WouldBlock);
        }
        self.may_splice()?;
        let (spliceable, start) = (self.see(side).spliceable(), self.see(side).inbound.read);
        if spliceable == 0 {
            return self.nothing(side);
        }
        let most = spliceable.min(most as u64).min(self.config.pipe_size.into());
        let length = self.fragment(most);
        self.of(side).take(length);
        self.pipes[pipe] = PipeState { is_open: true, from: side, start, length };
        self.counts.add(Sometimes::Spliced, 1);
        self.moved(Happening::Filled(side.into(), length as u32));
        Ok(length as usize)
    }

    pub(super) fn drain(&mut self, side: Side, pipe: usize, most: usize) -> Result<usize, Trouble> {
        self.begin_call();
        self.may_splice()?;
        let PipeState { from, start, length, .. } = self.pipes[pipe];
        if length == 0 {
            return Err(Trouble::WouldBlock);
        }
        let room = self.make_room(side, length.min(most as u64))?;
        let taken = self.fragment(room);
        let written = self.see(side).outbound.written;
        if from != other(side) || start != written {
            self.fail(Law::Bytes, || {
                format!("the {side} gets byte {start} of the {from} in place of byte {written}")
            });
        }
        let state = &mut self.pipes[pipe];
        (state.start, state.length) = (start + taken, length - taken);
        self.of(side).write(taken, false);
        self.moved(Happening::Drained(side.into(), taken as u32));
        Ok(taken as usize)
    }

    /// A splice moves what some fragments hold, which may be less than there is.
    fn fragment(&mut self, most: u64) -> u64 {
        match self.random.chance(self.config.fragments) {
            true => 1 + self.random.below(most),
            false => most,
        }
    }

    fn may_splice(&mut self) -> Result<(), Trouble> {
        if self.is_interrupted() {
            return Err(Trouble::Interrupted);
        }
        if self.splices_never || self.splices_fail > 0 {
            self.splices_fail = self.splices_fail.saturating_sub(1);
            self.has_failed_splice = true;
            self.counts.add(Sometimes::SpliceFailed, 1);
            return Err(match self.splices_never {
                true => Trouble::Unsupported,
                false => Trouble::NoMemory,
            });
        }
        Ok(())
    }

    pub(super) fn read_pipe(&mut self, pipe: usize, buffer: &mut [u8]) -> Result<usize, Trouble> {
        self.begin_call();
        let PipeState { from, start, length, .. } = self.pipes[pipe];
        if length == 0 {
            return Err(Trouble::WouldBlock);
        }
        let length = length.min(buffer.len() as u64);
        for (at, byte) in (start..).zip(&mut buffer[..length as usize]) {
            *byte = payload(from, at);
        }
        let state = &mut self.pipes[pipe];
        (state.start, state.length) = (start + length, state.length - length);
        self.counts.add(Sometimes::PipeUnloaded, 1);
        self.moved(Happening::Unloaded(length as u32));
        Ok(length as usize)
    }

    pub(super) fn shut_down(&mut self, side: Side) -> Result<(), Trouble> {
        self.begin_call();
        self.check_end(side);
        if !self.of(side).shut_down() {
            return Err(Trouble::NotConnected);
        }
        self.reports(side).is_due = true;
        self.moved(Happening::ShutDown(side.into()));
        Ok(())
    }

    /// An end of stream goes to this side: is it one?
    fn check_end(&mut self, side: Side) {
        let from = &self.see(other(side)).inbound;
        let (has_ended, unread) = (from.end_arrived, from.arrived - from.read);
        let unwritten = from.read - self.see(side).outbound.written;
        if !has_ended {
            let from = other(side);
            self.fail(Law::Bytes, || {
                format!("the {side} gets an end of stream, and the {from} has sent none")
            });
        } else if unread > 0 || unwritten > 0 {
            self.fail(Law::Bytes, || {
                let missing = unread + unwritten;
                format!("the {side} gets an end of stream {missing} bytes before it is one")
            });
        }
    }

    pub(super) fn close(&mut self, side: Side) {
        let mut random = self.random.clone();
        let ends = self.of(side).close(|most| random.below(most + 1));
        self.random = random;
        if ends {
            self.check_end(side);
        }
        *self.reports(side) = Reports::default();
        self.note(Happening::Closed(side.into()));
    }

    // The reactor.

    /// What poll(2) would say (tcp_poll), in the terms of mio and tokio.
    pub(super) fn level(&mut self, side: Side) -> u8 {
        let connection = self.of(side);
        let read_is_shut = connection.inbound.end_arrived || connection.ours.is_closed;
        let write_is_shut = connection.ours.write_is_shut;
        let has_error = connection.ours.error.is_some();
        let is_hung_up = connection.ours.is_closed || read_is_shut && write_is_shut;
        let is_readable = connection.readable() > 0 || read_is_shut;
        let is_writable = write_is_shut || connection.is_writable();
        let is_urgent = connection.inbound.urgent.is_some();
        connection.ours.lacks_room |= !is_writable;
        let bits = [
            (READABLE, is_readable || is_urgent),
            (READ_CLOSED, is_hung_up || read_is_shut),
            (WRITABLE, is_writable),
            (WRITE_CLOSED, is_hung_up || is_writable && has_error),
            (URGENT, is_urgent),
            (ERROR, has_error),
        ];
        bits.into_iter().filter(|(_, is_set)| *is_set).map(|(bit, _)| bit).sum()
    }

    /// The reactor reports how a socket stands.
    pub(super) fn report(&mut self, side: Side) {
        let level = self.level(side);
        self.reasons += 1;
        self.note(Happening::Reported(side.into(), level));
        let reports = self.reports(side);
        reports.is_due = false;
        reports.tick += 1;
        reports.bits |= level;
        if level & (READABLE | READ_CLOSED) > 0 {
            reports.reader.take().into_iter().for_each(Waker::wake);
        }
        if level & (WRITABLE | WRITE_CLOSED) > 0 {
            reports.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Reports {
    /// What has been reported of `mask`, with the report's number; none: the waker is kept.
    pub(super) fn poll(&mut self, mask: u8, waker: &Waker) -> Option<(u8, u64)> {
        if self.bits & mask > 0 {
            return Some((self.bits & mask, self.tick));
        }
        let slot = if mask & READABLE > 0 { &mut self.reader } else { &mut self.writer };
        *slot = Some(waker.clone());
        None
    }

    pub(super) fn take_back(&mut self, bits: u8, tick: u64) {
        if self.tick == tick {
            self.bits &= !(bits & (READABLE | WRITABLE));
        }
    }

    pub(super) fn has(&self, bit: u8) -> bool {
        self.bits & bit > 0
    }

    /// Whether a task waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.reader.is_some() || self.writer.is_some()
    }
}
