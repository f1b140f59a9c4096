//! What a run asks of a balancer's decisions.

use tinylb_core::{EndReason, Load, Removal};

use crate::scenario::{Backends, Key, Place};

/// The decisions of a balancer, as a run asks for them. [`Rotation`](super::Rotation) is the one
/// that ships; bring your own to have it judged by the same scenarios.
///
/// Sessions are numbered from 0 by the caller; a session's number is its kill handle too.
pub trait Policy {
    /// A client has come, the next in number.
    fn admit(&mut self, session: u32) -> Verdict;
    /// Its dial has come through; may it be used?
    fn connected(&mut self, session: u32) -> bool;
    /// Its dial has failed or was revoked, and has let go of its connection: where next?
    fn retry(&mut self, session: u32) -> Verdict;
    /// It has ended, and has let go of both its connections.
    fn finish(&mut self, session: u32, reason: EndReason);
    /// The set is this now.
    fn replace(&mut self, set: &Backends, removal: Removal) -> Taken;
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
}

/// What a [`Policy`] says to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dial this backend.
    Dial(Key, Place),
    /// Wait for the first set.
    Wait,
    /// End, for this reason.
    End(EndReason),
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
    /// How many sessions began to drain.
    pub draining: usize,
    /// Sessions that waited and may dial, in the order of their acceptance.
    pub admitted: Vec<(u32, Key, Place)>,
    /// Sessions that waited and are to be ended.
    pub refused: Vec<u32>,
}
