//! What a run asks of a balancer's decisions.

use std::time::Duration;

use tinylb_core::{EndReason, Fault, Load, ProbeEnd, Removal, Settings};

use crate::scenario::{Backends, Key, Place};

/// The decisions of a balancer, as a run asks for them. [`Rotation`](super::Rotation) is the one
/// that ships; bring your own to have it judged by the same scenarios.
///
/// Sessions are numbered from 0 by the caller; a session's number is its kill handle too. `now` is
/// the time since the run began.
pub trait Policy {
    /// A client has come, the next in number.
    fn admit(&mut self, session: u32) -> Verdict;
    /// Its dial has come through, after `took`; may it be used?
    fn connected(&mut self, session: u32, took: Duration, now: Duration) -> bool;
    /// Its dial has failed or was revoked, and has let go of its connection: where next?
    fn retry(&mut self, session: u32) -> Verdict;
    /// It has ended, and has let go of both its connections.
    fn finish(&mut self, session: u32, reason: EndReason);
    /// The set is this now.
    fn replace(&mut self, set: &Backends, removal: Removal, now: Duration) -> Taken;
    /// The time that the sessions had to drain which a replacement left is over: which are cut.
    fn drain_expired(&mut self, generation: u64) -> Vec<u32>;
    /// Everything is over: whom to kill.
    fn abort_all(&mut self) -> Vec<u32>;
    /// Whether a replacement, and all before it, have been let go of.
    fn is_applied(&self, generation: u64) -> bool;
    /// The rotation begins anew.
    fn reset_cycle(&mut self);
    /// The sessions of each target that has any.
    fn loads(&self) -> impl Iterator<Item = Load<Place>>;
    /// Sessions accepted, live and ended.
    fn counts(&self) -> (u64, usize, u64);
    /// Whether turns are to go round in key order, and a cycle of clients to reach all backends.
    fn is_round_robin(&self) -> bool {
        true
    }

    /// Whether targets that don't accept connections are ejected. If not, the rest has no effect.
    fn ejects(&self) -> bool {
        false
    }
    /// How long the dial of a session's attempt, which begins now, may go unanswered, if there is a
    /// limit beside the time limit for dials.
    fn patience(&self, session: u32) -> Option<Duration> {
        let _ = session;
        None
    }
    /// It has gone unanswered for so long, or [`Finding::Reconsider`] came after that; is it to be
    /// given up, so that its session goes elsewhere?
    fn overdue(&mut self, session: u32, now: Duration) -> bool {
        let _ = (session, now);
        false
    }
    /// The dial of a session's attempt has failed through this fault, after `lasted`.
    fn dial_failed(&mut self, session: u32, fault: Fault, lasted: Duration, now: Duration) {
        let _ = (session, fault, lasted, now);
    }
    /// What the steps since the last call have found out.
    fn findings(&mut self) -> Vec<Finding> {
        Vec::new()
    }
    /// When `start_probe` or `cut_silent` next has something to do.
    fn due(&self) -> Option<Duration> {
        None
    }
    /// The next probe that is due, if any: the target. Probes are numbered from 0 by the caller.
    fn start_probe(&mut self, probe: u32, now: Duration) -> Option<Place> {
        let _ = (probe, now);
        None
    }
    /// A probe has ended, and has let go of its connection.
    fn probe_ended(&mut self, probe: u32, end: ProbeEnd, now: Duration) {
        let _ = (probe, end, now);
    }
    /// The sessions that are cut now because their targets are silent.
    fn cut_silent(&mut self, now: Duration) -> Vec<u32> {
        let _ = now;
        Vec::new()
    }
    /// The settings are these from now on.
    fn configure(&mut self, settings: &Settings, now: Duration) {
        let _ = (settings, now);
    }
    /// The targets that are ejected, ascending, and how many probes are under way.
    fn ejected(&self) -> (Vec<Place>, usize) {
        (Vec::new(), 0)
    }
}

/// What a [`Policy`] says to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dial this backend.
    Dial(Key, Place),
    /// Wait for a set with backends.
    Wait,
    /// End, for this reason.
    End(EndReason),
}

/// What a [`Policy`] has found out, or wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A target is ejected.
    Ejected(Place, Fault),
    /// A target is in rotation again, after this time.
    Returned(Place, Duration),
    /// There may be another target for this session, whose dial goes unanswered.
    Reconsider(u32),
    /// This probe is to be given up.
    Cancel(u32),
}

/// What a [`Policy`] did in a replacement.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// The replacement's number, from 1.
    pub generation: u64,
    /// Whether the set says anything new.
    pub is_change: bool,
    /// Connected sessions that are to be cut.
    pub cut: Vec<u32>,
    /// Dials that are to be given up.
    pub revoked: Vec<u32>,
    /// Probes that are to be given up.
    pub probes: Vec<u32>,
    /// How many sessions began to drain.
    pub draining: usize,
    /// Sessions that waited and may dial, in the order of their acceptance.
    pub admitted: Vec<(u32, Key, Place)>,
    /// Sessions that waited and are to be ended.
    pub refused: Vec<u32>,
}
