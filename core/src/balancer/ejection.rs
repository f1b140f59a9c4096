//! Ejection: what dials and probes show of targets, and what follows from it.

use std::time::Duration;

use super::{Balancer, Owed};
use crate::{Ejected, Fault, Notice, Pick, Probe, ProbeEnd, ProbeId, SessionId, Target};

/// How often a session's dials may be given up because they have outlived their patience, so that
/// one client can't have a dial under way to each of a thousand targets.
const MOVES_MAX: u8 = 8;

impl<T: Target, K> Balancer<T, K> {
    /// How long the dial of a session's newest attempt may go unanswered before
    /// [`Self::overdue`] is to be asked; `None` if that is never asked.
    pub fn patience(&self, id: SessionId) -> Option<Duration> {
        self.settings.dial_patience?;
        let pick = self.session(id)?.pick.as_ref()?;
        Some(self.health.patience(&pick.target, &self.settings))
    }

    /// A dial has outlived its patience, which ejects its target. `true`: there is another target for
    /// the session, so it must give the dial up, and go on with [`Self::retry`]. `false`: the dial
    /// goes on, and this is asked again at [`Notice::Reconsider`].
    pub fn overdue(&mut self, id: SessionId, now: Duration) -> bool {
        let Some(member) = self.dialling(id) else { return false };
        self.overdue.insert(id);
        self.fault(id, member, Fault::TimedOut, now);
        let session = &mut self.sessions[id.slot as usize];
        if session.is_moving || session.moves == MOVES_MAX {
            return session.is_moving;
        }
        let Some(Pick { target: current, .. }) = &session.pick else {
            debug_assert!(false, "a session without a pick dials");
            return false;
        };
        let set = self.cycle.set();
        let is_other = |place| {
            let target = set.target_at(place);
            target != current && !session.tried.contains(target)
        };
        session.is_moving = self.cycle.in_rotation().any(is_other);
        session.moves += u8::from(session.is_moving);
        session.is_moving
    }

    /// A dial has failed, after this time: [`Self::retry`] comes next. If that is a fault of the
    /// target, it is ejected, unless another dial or a probe has succeeded since this one began. A
    /// time limit that was shorter than the target's patience says nothing of it.
    pub fn dial_failed(&mut self, id: SessionId, fault: Fault, lasted: Duration, now: Duration) {
        let Some(member) = self.dialling(id) else { return };
        let Some(pick) = self.pick(id) else { return };
        let is_too_short = lasted < self.health.patience(&pick.target, &self.settings);
        if fault != Fault::TimedOut || !is_too_short {
            self.fault(id, member, fault, now);
        }
    }

    /// What the steps since the last call have found out about targets, and want of the driver. Call
    /// it after each step.
    pub fn take_notices(&mut self) -> Vec<Notice<T>> {
        self.health.take_notices()
    }

    /// When [`Self::start_probe`] or [`Self::cut_silent`] next has something to do, as far as is known;
    /// any step may bring it forward.
    pub fn due(&self) -> Option<Duration> {
        self.health.due(&self.settings).filter(|_| !self.is_closed)
    }

    /// The next probe that is due, if there may be another one
    /// ([`Settings::probes_max`](crate::Settings::probes_max)). The driver dials the target, with the
    /// full `dial_timeout`, aborts the connection as soon as it is established, and calls
    /// [`Self::probe_ended`]. O(log targets that are ejected).
    pub fn start_probe(&mut self, now: Duration, kill: impl FnOnce() -> K) -> Option<Probe<T>> {
        if self.is_closed {
            return None;
        }
        self.health.start_probe(now, kill, &self.settings)
    }

    /// A probe has ended, however it came to that, and has let go of its connection. One that
    /// succeeded returns its target to the rotation. Returns what the probe owes to a replacement that
    /// has removed its target.
    pub fn probe_ended(&mut self, id: ProbeId, end: ProbeEnd, now: Duration) -> Option<Owed> {
        let (target, index) = match self.health.end_probe(id, end)? {
            Ok(probed) => probed,
            Err(generation) => return Some(Owed(generation)),
        };
        let target = (&target, index);
        match end {
            ProbeEnd::Succeeded(took) => {
                self.pool.note_success(index);
                if self.health.succeeded(target, took, now, &self.settings) {
                    self.returned(index, now);
                }
            }
            ProbeEnd::Failed(fault) if self.health.is_ejected(target.0) => {
                self.health.failed(target, fault, true, now, &self.settings);
            }
            ProbeEnd::Failed(_) | ProbeEnd::Cancelled => {}
        }
        None
    }

    /// The kill handle of a probe that is under way.
    pub fn probe_handle(&self, id: ProbeId) -> Option<&K> {
        self.health.kill_of(id)
    }

    /// Takes out the connected sessions of targets that have been silent for too long
    /// ([`Settings::cut_silent`](crate::Settings::cut_silent)): their kill handles.
    pub fn cut_silent(&mut self, now: Duration) -> Vec<K> {
        let mut taken = Vec::new();
        while let Some(target) = self.health.next_silent(now, &self.settings) {
            self.pool.take_connected(target, &mut taken);
        }
        self.take_out(taken, self.generation)
    }

    /// Whether a target is ejected.
    pub fn is_ejected(&self, target: &T) -> bool {
        self.health.is_ejected(target)
    }

    /// The targets that are ejected, ascending.
    pub fn ejected(&self, now: Duration) -> Vec<Ejected<T>> {
        self.health.ejected(now)
    }

    /// How many probes are under way.
    pub fn probes(&self) -> usize {
        self.health.probes()
    }

    /// Notes that a session's dial has succeeded, which returns its target if it was ejected.
    pub(super) fn succeeded(&mut self, id: SessionId, member: u32, took: Duration, now: Duration) {
        let Some(pick) = &self.sessions[id.slot as usize].pick else {
            debug_assert!(false, "a session without a pick has dialled");
            return;
        };
        let target = (&pick.target, self.pool.target_index(member));
        if self.health.succeeded(target, took, now, &self.settings) {
            self.returned(target.1, now);
        }
    }

    /// Notes a fault of a session's attempt.
    fn fault(&mut self, id: SessionId, member: u32, fault: Fault, now: Duration) {
        let Some(pick) = &self.sessions[id.slot as usize].pick else {
            debug_assert!(false, "a session without a pick dials");
            return;
        };
        let target = (&pick.target, self.pool.target_index(member));
        let is_news = self.pool.has_no_success_since(member);
        if self.health.failed(target, fault, is_news, now, &self.settings) {
            self.cycle.set_skipped(target.1, true);
            if self.cycle.skips_all() {
                self.reconsider();
            }
        }
    }

    /// An ejected target is in rotation again.
    fn returned(&mut self, target: u32, now: Duration) {
        if self.cycle.skips_all() {
            self.health.probe_all_soon(now, &self.settings);
        }
        self.cycle.set_skipped(target, false);
        self.reconsider();
    }

    /// There may be another target for the sessions that still dial although their patience is over.
    pub(super) fn reconsider(&mut self) {
        self.overdue.iter().for_each(|id| self.health.notice(Notice::Reconsider(*id)));
    }
}
