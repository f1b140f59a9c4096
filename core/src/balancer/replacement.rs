//! What takes attempts out, and the replacements that wait until these have let go.

use std::{mem, time::Duration};

use super::{Balancer, Standing};
use crate::{
    BackendKey, BackendSet, Change, Generation, Pick, ProbeId, Removal, SessionId, Target,
    pool::TakenOut,
};

/// The acknowledgement that a replacement waits for, owed by an attempt that it took out. Give it to
/// [`Balancer::acknowledge`] once the attempt has let go of its connections. One that is dropped
/// instead would leave the replacement waiting for ever: with debug assertions, the drop panics.
#[derive(Debug)]
#[must_use = "a replacement waits until this is acknowledged"]
pub struct Owed(pub(super) Generation);

impl Drop for Owed {
    fn drop(&mut self) {
        // A panic may drop it on its way, and then the panic is what counts.
        debug_assert!(std::thread::panicking(), "{} waits for this for ever", self.0);
    }
}

/// What one replacement has done.
#[must_use = "the sessions in it wait for a signal"]
pub struct Replaced<T, K> {
    /// Its number.
    pub generation: Generation,
    /// Whether the set says anything else than the one before.
    pub is_change: bool,
    /// The keys that came, ascending.
    pub added: Vec<BackendKey>,
    /// The keys that left, ascending.
    pub removed: Vec<BackendKey>,
    /// The keys that stayed and changed their target, ascending.
    pub retargeted: Vec<BackendKey>,
    /// The connected sessions that were taken out: to be killed.
    pub cut: Vec<K>,
    /// The dials that were taken out: to be cancelled, and then [`Balancer::retry`].
    pub revoked: Vec<K>,
    /// The probes whose targets left: to be cancelled, and then [`Balancer::probe_ended`].
    pub probes: Vec<ProbeId>,
    /// How many sessions began to drain.
    pub draining: usize,
    /// The sessions that waited for a set and are now to dial their pick, in the order of their
    /// acceptance. The balancer keeps a clone of the kill handle: it is the attempt's from now on.
    pub admitted: Vec<(SessionId, Pick<T>, K)>,
    /// The sessions that waited for a set and got an empty one: to be ended.
    pub refused: Vec<K>,
    /// The set before, to be dropped where it disturbs nobody.
    pub before: BackendSet<T>,
    /// Parts of the change that the balancer no longer needs: drop them in the same way.
    pub(crate) spent: [Vec<u32>; 2],
}

impl<T: Target, K> Balancer<T, K> {
    /// Swaps the set and takes out every session whose target is in it no more: targets are
    /// compared, not keys. A change computed against a set that isn't the current one is handed back.
    ///
    /// O(sessions taken out + targets in use or ejected + log n); the rest is in the [`Change`].
    #[expect(clippy::result_large_err, reason = "the change is handed back, not boxed up")]
    pub fn replace(
        &mut self,
        mut change: Change<T>,
        removal: Removal,
        now: Duration,
    ) -> Result<Replaced<T, K>, Change<T>>
    where
        K: Clone,
    {
        let is_current = match &change.base {
            Some(base) => self.has_set && base.is_same(self.cycle.set()),
            None => !self.has_set,
        };
        if !is_current {
            return Err(change);
        }
        self.generation.0 += 1;
        let mut replaced = Replaced {
            generation: self.generation,
            is_change: !change.is_none(),
            added: mem::take(&mut change.added),
            removed: mem::take(&mut change.removed),
            retargeted: mem::take(&mut change.retargeted),
            cut: Vec::new(),
            revoked: Vec::new(),
            probes: Vec::new(),
            draining: 0,
            admitted: Vec::new(),
            refused: Vec::new(),
            before: self.cycle.set().clone(),
            spent: [Vec::new(), Vec::new()],
        };
        if !replaced.is_change {
            replaced.before = change.next;
            replaced.spent = [change.moved, change.unfilled];
            return Ok(replaced);
        }

        let done = self.pool.retarget(&mut change, self.generation, removal);
        let (probes, ejected) =
            self.health.retarget(&change.moved, self.generation, now, &self.settings);
        self.owe(self.generation, probes.len());
        replaced.probes = probes;
        replaced.spent = [change.moved, change.unfilled];
        replaced.draining = done.draining;
        replaced.cut = self.take_out(done.connected, self.generation);
        replaced.revoked = self.take_out(done.dialling, self.generation);
        self.cycle.replace(change.next);
        ejected.into_iter().for_each(|target| self.cycle.set_skipped(target, true));
        self.has_set = true;
        self.serve_waiting(&mut replaced);
        self.reconsider();
        Ok(replaced)
    }

    /// The deadline of the drain that a replacement began: the kill handles of the sessions that
    /// still drain since then. A stale deadline (they have ended, or their target came back)
    /// returns none.
    pub fn drain_expired(&mut self, generation: Generation) -> Vec<K> {
        let taken = self.pool.take_drained(generation);
        self.take_out(taken, generation)
    }

    /// Closes the balancer: takes out every session and admits nothing more. The kill handles are
    /// those of sessions that were waiting, dialling or connected.
    pub fn abort_all(&mut self) -> Vec<K> {
        self.is_closed = true;
        self.waiting.clear();
        self.overdue.clear();
        let (mut kills, mut taken) = (Vec::new(), Vec::new());
        for (_, session) in &mut self.sessions {
            match mem::replace(&mut session.standing, Standing::Out) {
                Standing::Waiting(kill) => kills.push(kill),
                Standing::Pooled(member) => {
                    taken.push(TakenOut { owner: session.id, kill: self.pool.remove(member) });
                }
                Standing::Out => {}
            }
        }
        kills.extend(self.take_out(taken, self.generation));
        kills
    }

    /// An attempt that a replacement took out has let go of its connections.
    pub fn acknowledge(&mut self, owed: Owed) {
        let generation = owed.0;
        mem::forget(owed);
        if let Some(count) = self.outstanding.get_mut(&generation) {
            *count -= 1;
            if *count == 0 {
                self.outstanding.remove(&generation);
            }
        } else {
            debug_assert!(false, "{generation} waits for nothing: is it another balancer's?");
        }
    }

    /// Whether a replacement, and every one before it, has been acknowledged by all that it took
    /// out. From then on nothing touches a target that isn't in the newest set.
    pub fn is_applied(&self, generation: Generation) -> bool {
        self.outstanding.first_key_value().is_none_or(|(oldest, _)| *oldest > generation)
    }

    pub(super) fn owe(&mut self, generation: Generation, count: usize) {
        if count > 0 {
            *self.outstanding.entry(generation).or_default() += count;
        }
    }

    pub(super) fn take_out(&mut self, taken: Vec<TakenOut<K>>, generation: Generation) -> Vec<K> {
        self.owe(generation, taken.len());
        taken
            .into_iter()
            .map(|TakenOut { owner, kill }| {
                self.overdue.remove(&owner);
                let session = &mut self.sessions[owner.slot as usize];
                session.standing = Standing::Out;
                session.owed = Some(generation);
                kill
            })
            .collect()
    }

    /// A set has come: serves the sessions that wait for one, in the order of acceptance.
    fn serve_waiting(&mut self, replaced: &mut Replaced<T, K>)
    where
        K: Clone,
    {
        if self.cycle.set().is_empty() {
            if !self.may_wait() {
                replaced.refused = self.refuse_waiting();
            }
            return;
        }
        for (id, kill) in self.take_waiting() {
            if let Some(place) = self.cycle.turn() {
                let pick = self.enter(id, place, kill.clone());
                replaced.admitted.push((id, pick, kill));
            }
        }
    }

    pub(super) fn refuse_waiting(&mut self) -> Vec<K> {
        self.take_waiting().into_iter().map(|(_, kill)| kill).collect()
    }

    fn take_waiting(&mut self) -> Vec<(SessionId, K)> {
        let waiting = mem::take(&mut self.waiting).into_iter();
        let take = |id: SessionId| {
            let standing = &mut self.sessions[id.slot as usize].standing;
            match mem::replace(standing, Standing::Out) {
                Standing::Waiting(kill) => Some((id, kill)),
                Standing::Pooled(_) | Standing::Out => {
                    debug_assert!(false, "{id} waits, and is neither pooled nor out");
                    None
                }
            }
        };
        waiting.filter_map(take).collect()
    }
}
