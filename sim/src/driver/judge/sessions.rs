//! What the balancer does to its connections.

use tinylb_core::{EndReason, Side, Totals};

use super::case::{Case, Written};
use crate::{Law, Sometimes, scenario::Place};

/// Follows what the balancer reads, writes, holds and lets go of for each session, at the adapter's
/// door.
#[derive(Default)]
pub(super) struct Sessions {
    /// By serial.
    sessions: Vec<Traffic>,
    /// The session whose dial begins.
    dialling: u64,
    sums: Sums,
}

/// What the ends of all sessions add up to.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// By reason, in the order of [`EndReason::ALL`].
    ended: [u64; EndReason::ALL.len()],
    to_backends: u64,
    to_clients: u64,
}

/// What has moved for a session, and what it holds.
#[derive(Clone, Copy, Default)]
struct Traffic {
    to_backend: Moved,
    to_client: Moved,
    /// Connections that it holds.
    open: u32,
    /// When it was connected, or the last byte moved, or the first end was passed on.
    moved_at: u64,
    is_half_closed: bool,
    /// An end has been passed on to the backend, and to the client.
    ends_passed_on: [bool; 2],
    /// The limits that were in force when it was connected, in microseconds; 0: none.
    limits: SilenceLimits,
    /// Its backend's process has died.
    is_crashed: bool,
    ended: Option<EndReason>,
}

/// How long a session may be silent.
#[derive(Clone, Copy, Default)]
struct SilenceLimits {
    half_closed: u64,
    idle: u64,
    delivering: u64,
}

/// Bytes of one direction.
#[derive(Clone, Copy, Default)]
struct Moved {
    read: u64,
    written: u64,
    /// Written bytes that an abort has discarded, as far as the adapter knows.
    lost: u64,
}

impl Traffic {
    fn read_from(&mut self, side: Side) -> &mut Moved {
        match side {
            Side::Client => &mut self.to_backend,
            Side::Backend => &mut self.to_client,
        }
    }

    fn written_to(&mut self, side: Side) -> &mut Moved {
        match side {
            Side::Client => &mut self.to_client,
            Side::Backend => &mut self.to_backend,
        }
    }
}

impl Sessions {
    pub(super) fn accepted(&mut self, serial: u64) {
        self.session(serial);
    }

    /// A session is given a backend.
    pub(super) fn admitted(&mut self, serial: u64) {
        self.session(serial).is_crashed = false;
    }

    pub(super) fn dial_started(&mut self, serial: u64) {
        self.dialling = serial;
    }

    /// A dial begins. Returns the session that it is for.
    pub(super) fn dials(&self, case: &mut Case, place: Place) -> u64 {
        if !case.ledger.is_at(self.dialling, place) {
            let text = format!("session {} dials {place}, and may not", self.dialling);
            case.fail(Law::Barrier, text);
        }
        self.dialling
    }

    /// A dial comes through.
    pub(super) fn dialled(&self, case: &mut Case, serial: u64, place: Place) {
        if !case.ledger.is_at(serial, place) {
            let text = format!("session {serial} gets a connection to {place}, and may not");
            case.fail(Law::Barrier, text);
        }
    }

    pub(super) fn connected(&mut self, case: &Case, serial: u64) {
        let ms = |time: u32| u64::from(time) * 1000;
        let settings = case.settings();
        let session = self.session(serial);
        session.moved_at = case.at();
        session.limits = SilenceLimits {
            half_closed: ms(settings.half_close_timeout),
            idle: ms(settings.idle_timeout),
            delivering: ms(settings.delivery_timeout),
        };
    }

    /// A side is sent an end of stream.
    pub(super) fn passes_end_on(&mut self, serial: u64, to: Side) {
        self.session(serial).ends_passed_on[usize::from(to == Side::Client)] = true;
    }

    /// An end of stream is reported to have been passed on, and was.
    pub(super) fn half_closed(&mut self, case: &mut Case, serial: u64, by: Side) {
        let session = self.session(serial);
        (session.is_half_closed, session.moved_at) = (true, case.at());
        if !session.ends_passed_on[usize::from(by == Side::Backend)] {
            let text = format!("session {serial} hasn't passed on the end of the {by} yet");
            case.fail(Law::HalfClose, text);
        }
    }

    /// The balancer has another connection for a session.
    pub(super) fn opened(&mut self, serial: u64) {
        self.session(serial).open += 1;
    }

    pub(super) fn let_go(&mut self, serial: u64) {
        self.session(serial).open -= 1;
    }

    /// The balancer holds no more than it may.
    pub(super) fn read(&mut self, case: &mut Case, serial: u64, side: Side, bytes: u64) {
        check_phase(case, serial, bytes);
        let moved = self.session(serial).read_from(side);
        moved.read += bytes;
        let held = moved.read.saturating_sub(moved.written);
        if held > u64::from(case.config().buffer) {
            let text = format!("session {serial} holds {held} bytes from the {side}");
            case.fail(Law::Buffers, text);
        }
    }

    /// Bytes go only to a backend that the balancer may have to do with.
    pub(super) fn written(&mut self, case: &mut Case, serial: u64, side: Side, bytes: u64) {
        check_phase(case, serial, bytes);
        let session = self.session(serial);
        session.moved_at = case.at();
        session.written_to(side).written += bytes;
        let place = case.ledger.place_of(serial);
        if side == Side::Backend && !case.ledger.is_in_use(place) {
            let text = format!("{bytes} bytes of session {serial} go to {place}");
            case.fail(Law::Barrier, text);
        }
    }

    /// An abort discards bytes that were written to a side.
    pub(super) fn lost(&mut self, serial: u64, side: Side, bytes: u64) {
        let moved = self.session(serial).written_to(side);
        moved.lost = bytes.min(moved.written);
    }

    /// A backend's process dies. Returns the sessions that may have to do with it.
    pub(super) fn crashed(&mut self, case: &Case, place: Place) -> Vec<u64> {
        let mut hit = Vec::new();
        for (serial, session) in (0..).zip(&mut self.sessions) {
            if case.ledger.is_at(serial, place) {
                session.is_crashed = true;
                hit.push(serial);
            }
        }
        hit
    }

    /// A backend's process that runs has taken a session's client: what died before it wasn't this
    /// session's.
    pub(super) fn taken(&mut self, serial: u64) {
        self.session(serial).is_crashed = false;
    }

    /// A session that ends has let go of all, and says truly what it moved. Returns whether it is
    /// known.
    pub(super) fn ended(
        &mut self,
        case: &mut Case,
        serial: u64,
        reason: EndReason,
        reported: (u64, u64),
    ) -> bool {
        self.sums.ended[reason as usize] += 1;
        self.sums.to_backends += reported.0;
        self.sums.to_clients += reported.1;
        let Some(session) = self.sessions.get_mut(serial as usize) else { return false };
        session.ended = Some(reason);
        let Traffic { to_backend, to_client, open, .. } = *session;
        if open > 0 {
            let text = format!("session {serial} has ended and holds {open} connections");
            case.fail(Law::Barrier, text);
        }
        let moved = (to_backend.written - to_backend.lost, to_client.written - to_client.lost);
        if moved != reported {
            let text = format!(
                "session {serial} says that it moved {} and {} bytes; it was {} and {}",
                reported.0, reported.1, moved.0, moved.1
            );
            case.fail(Law::Bytes, text);
        }
        let in_flight = [to_backend, to_client].into_iter().any(|one| one.read > one.written);
        match reason {
            EndReason::BackendRemoved | EndReason::DrainExpired if in_flight => {
                case.count(Sometimes::CutInFlight);
            }
            EndReason::Finished if in_flight => {
                let text = format!("session {serial} is finished with bytes not written");
                case.fail(Law::Bytes, text);
            }
            EndReason::HalfCloseTimedOut => case.count(Sometimes::HalfCloseTimedOut),
            EndReason::IdleTimedOut => case.count(Sometimes::IdleTimedOut),
            _ => {}
        }
        true
    }

    /// The balancer's sums over the sessions that have ended are what the ends add up to.
    pub(super) fn check_sums(&self, case: &mut Case, ended: &Totals, moved: (u64, u64)) {
        for (reason, sum) in EndReason::ALL.into_iter().zip(self.sums.ended) {
            if ended.of(reason) != sum {
                let text = format!("{} sessions ended with {reason}, not {sum}", ended.of(reason));
                case.fail(Law::OneEnd, text);
            }
        }
        let due = (self.sums.to_backends, self.sums.to_clients);
        if moved != due {
            let text = format!("{moved:?} bytes went to backends and clients, not {due:?}");
            case.fail(Law::Bytes, text);
        }
    }

    /// A session that ends because it was silent has been so for long enough.
    pub(super) fn check_silence(&self, case: &mut Case, serial: u64, reason: EndReason) {
        let is_silence = matches!(reason, EndReason::HalfCloseTimedOut | EndReason::IdleTimedOut);
        let Some(session) = self.sessions.get(serial as usize).filter(|_| is_silence) else {
            return;
        };
        let ends = silence_max(session).map(|max| session.moved_at + max);
        if ends.is_none_or(|ends| case.at() + case.patience() < ends) {
            let text = format!("session {serial} ended with {reason} too early");
            case.fail(Law::TimeLimit, text);
        }
    }

    /// The first session that is silent for too long. `grace`: how much longer one may last,
    /// because of what its sides have done.
    pub(super) fn first_silent(&self, case: &Case, grace: impl Fn(u64) -> u64) -> Option<u64> {
        let mut all = (0..).zip(&self.sessions);
        let silent = all.find(|(serial, session)| {
            let is_over =
                |max| case.at() > session.moved_at + max + grace(*serial) + case.patience();
            case.ledger.may_move(*serial) && silence_max(session).is_some_and(is_over)
        });
        silent.map(|(serial, _)| serial)
    }

    /// How long a session may take to deliver what one side sent before it failed.
    pub(super) fn delivery_timeout(&self, serial: u64) -> u64 {
        self.sessions.get(serial as usize).map_or(0, |session| session.limits.delivering)
    }

    /// Whether a session's backend has died.
    pub(super) fn is_crashed(&self, serial: u64) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| session.is_crashed)
    }

    /// Why a session has ended, if it has.
    pub(super) fn reason(&self, serial: u64) -> Option<EndReason> {
        self.sessions.get(serial as usize)?.ended
    }

    /// What was written, if all that the failed side sent had to reach the other. A side that fails
    /// during a dial has sent nothing, and an unread end of stream causes a reset as well.
    pub(super) fn to_deliver(&self, serial: u64, failed: Side) -> Option<Written> {
        let session = self.sessions.get(serial as usize)?;
        if session.moved_at == 0 || session.is_half_closed || session.is_crashed {
            return None;
        }
        let (up, down) = (session.to_backend.written, session.to_client.written);
        Some(match failed {
            Side::Client => Written { to_other: up, to_failed: down },
            Side::Backend => Written { to_other: down, to_failed: up },
        })
    }

    /// The sessions that haven't ended.
    pub(super) fn left(&self, case: &Case) -> Vec<u64> {
        let all = 0..self.sessions.len() as u64;
        all.filter(|serial| !case.ledger.has_ended(*serial)).collect()
    }

    /// Everything has ended.
    pub(super) fn check_empty(&self, case: &mut Case) {
        let open: u32 = self.sessions.iter().map(|session| session.open).sum();
        let live = case.ledger.live();
        if open != 0 || live != 0 {
            let text =
                format!("{open} connections and {live} sessions are left after the shutdown");
            case.fail(Law::Shutdown, text);
        }
    }

    fn session(&mut self, serial: u64) -> &mut Traffic {
        let place = serial as usize;
        if self.sessions.len() <= place {
            self.sessions.resize(place + 1, Traffic::default());
        }
        &mut self.sessions[place]
    }
}

/// Bytes move only while a session is connected.
fn check_phase(case: &mut Case, serial: u64, bytes: u64) {
    if !case.ledger.may_move(serial) {
        let text = format!("{bytes} bytes of session {serial} move, and it isn't connected");
        case.fail(Law::InSet, text);
    }
}

/// How long a connected session may be silent, in microseconds.
fn silence_max(session: &Traffic) -> Option<u64> {
    let SilenceLimits { half_closed, idle, .. } = session.limits;
    let half_close = session.is_half_closed.then_some(half_closed);
    [half_close, Some(idle)].into_iter().flatten().filter(|limit| *limit > 0).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_ends_holds_nothing_and_says_truly_what_it_moved() {
        let (mut case, mut sessions) = (Case::of(""), Sessions::default());
        assert!(!sessions.ended(&mut case, 0, EndReason::Shutdown, (0, 0)), "it is unknown");
        sessions.accepted(0);
        sessions.opened(0);
        assert!(sessions.ended(&mut case, 0, EndReason::Shutdown, (0, 0)));
        assert_eq!(case.laws(), [Law::Barrier]);
        sessions.let_go(0);
        assert!(sessions.ended(&mut case, 0, EndReason::Shutdown, (0, 0)));
        assert_eq!(case.laws(), [Law::Barrier]);
        assert!(sessions.ended(&mut case, 0, EndReason::Shutdown, (0, 1)));
        assert_eq!(case.laws(), [Law::Barrier, Law::Bytes]);
    }

    #[test]
    fn sums_are_what_the_ends_add_up_to() {
        let (mut case, mut sessions) = (Case::of(""), Sessions::default());
        let none = Totals::default();
        sessions.check_sums(&mut case, &none, (0, 0));
        assert_eq!(case.laws(), []);
        sessions.check_sums(&mut case, &none, (0, 1));
        assert_eq!(case.laws(), [Law::Bytes]);
        sessions.accepted(0);
        assert!(sessions.ended(&mut case, 0, EndReason::Shutdown, (0, 0)));
        sessions.check_sums(&mut case, &none, (0, 0));
        assert_eq!(case.laws(), [Law::Bytes, Law::OneEnd]);
    }

    #[test]
    fn an_end_is_reported_once_it_has_been_passed_on() {
        let (mut case, mut sessions) = (Case::of(""), Sessions::default());
        sessions.passes_end_on(0, Side::Backend);
        sessions.half_closed(&mut case, 0, Side::Client);
        assert_eq!(case.laws(), []);
        sessions.half_closed(&mut case, 0, Side::Backend);
        assert_eq!(case.laws(), [Law::HalfClose]);
    }

    #[test]
    fn a_dial_goes_only_where_its_session_may_be() {
        let (mut case, mut sessions) = (Case::of(""), Sessions::default());
        case.ledger.accepted_one(0);
        sessions.dial_started(0);
        assert_eq!(sessions.dials(&mut case, Place(1)), 0);
        assert_eq!(case.laws(), [Law::Barrier]);
    }
}
