use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use slab::Slab;

use crate::{
    Admission, BackendKey, BackendSet, Change, Cycle, EndReason, Generation, Load, Pick, Refusal,
    Removal, SessionId, Target, Totals,
    pool::{Pool, Taken},
};

/// The decisions of a balancer, and nothing else: plain state, changed by plain methods that
/// return what is to be done. No I/O, no clock, no lock, no task; [`Server`](crate::Server) is the
/// driver that does the rest, and a simulation may be another.
///
/// `K` is a kill handle: whatever lets the caller reach the attempt that it was given with. The
/// balancer keeps it while the attempt may have to be killed, and hands it back if so.
///
/// Each method is one atomic step. After every step:
/// - each session that is dialling or connected has a target of the current set, except those that
///   drain;
/// - `accepted = live + ended`.
///
/// Sessions the balancer doesn't know (any more) are never an error: the step does nothing.
///
/// # What a driver does
/// It calls [`admit`](Self::admit) for each client, and [`finish`](Self::finish) once for each, at
/// its end, however that comes about. In between:
///
/// ```text
/// admit ─▶ waiting ──first set──▶ dialling ──connected: true──▶ connected ─▶ finish
///             │                   ▲      │                          │           ▲
///             └─ refused ─┐ retry │      │ failed                   │ taken out │
///                         │       ├──────┘                          ▼           │
///                         │       └──────────── taken out ──▶      out ─────────┤
///                         └─────────────────────────────────────────────────────┘
/// ```
///
/// - A dial that has succeeded asks [`connected`](Self::connected) before the first byte. `false`
///   means that the attempt was taken out meanwhile.
/// - A dial that has failed, or was taken out, may go on with [`retry`](Self::retry).
/// - [`replace`](Self::replace), [`drain_expired`](Self::drain_expired) and
///   [`abort_all`](Self::abort_all) take attempts out and return their kill handles: the driver has
///   each of them let go of its connections.
/// - What `retry` or `finish` then returns as [`Owed`] goes to [`acknowledge`](Self::acknowledge),
///   once the attempt has let go. When all has been acknowledged, the replacement
///   [`is_applied`](Self::is_applied).
pub struct Balancer<T, K> {
    cycle: Cycle<T>,
    /// Whether there has been a set, perhaps an empty one.
    has_set: bool,
    generation: Generation,
    pool: Pool<T, K>,
    sessions: Slab<Session<T, K>>,
    waiting: BTreeSet<SessionId>,
    waiting_max: usize,
    is_closed: bool,
    accepted: u64,
    totals: Totals,
    /// For each replacement that isn't applied yet: how many of the attempts that it took out
    /// have not let go.
    outstanding: BTreeMap<Generation, usize>,
}

struct Session<T, K> {
    id: SessionId,
    phase: Phase<K>,
    /// The newest attempt's backend.
    pick: Option<Pick<T>>,
    /// Targets whose dials failed.
    tried: Vec<T>,
    /// The replacement that took the newest attempt out and waits for it to let go.
    owed: Option<Generation>,
}

/// Where a session is. The ways out: a waiting one is admitted or refused by the first set; a
/// pooled one retries or connects; a connected one ends; any is taken out (to `Out`) by a
/// replacement, a deadline or [`Balancer::abort_all`]; one that is out retries or ends.
enum Phase<K> {
    Waiting(K),
    /// Dialling or connected, perhaps draining: which of them, the pool knows.
    Pooled(u32),
    Out,
}

/// The acknowledgement that a replacement waits for, owed by an attempt that it took out. Give it to
/// [`Balancer::acknowledge`] once the attempt has let go of its connections. One that is dropped
/// instead would leave the replacement waiting for ever: with debug assertions, the drop panics.
#[derive(Debug)]
#[must_use = "a replacement waits until this is acknowledged"]
pub struct Owed(Generation);

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
    /// A balancer without a set. `start`: where its cycle begins, see [`Cycle::new`].
    /// `waiting_max`: how many sessions may wait for the first set.
    pub fn new(start: u64, waiting_max: usize) -> Self {
        Self {
            cycle: Cycle::new(start),
            has_set: false,
            generation: Generation::default(),
            pool: Pool::new(),
            sessions: Slab::new(),
            waiting: BTreeSet::new(),
            waiting_max,
            is_closed: false,
            accepted: 0,
            totals: Totals::default(),
            outstanding: BTreeMap::new(),
        }
    }

    /// Accepts a client: picks a backend and registers the attempt, in one step and before the
    /// dial, so that no replacement can fall in between. O(1).
    ///
    /// The session is live until [`Self::finish`], also if it was refused.
    pub fn admit(&mut self, kill: K) -> (SessionId, Admission<T>) {
        let entry = self.sessions.vacant_entry();
        let id = SessionId { serial: self.accepted, slot: entry.key() as u32 };
        self.accepted += 1;
        entry.insert(Session { id, phase: Phase::Out, pick: None, tried: Vec::new(), owed: None });
        let admission = if self.is_closed {
            Admission::Refused(Refusal::Closed)
        } else if self.has_set {
            match self.cycle.turn() {
                Some(place) => Admission::Dial(self.enter(id, place, kill)),
                None => Admission::Refused(Refusal::NoBackends),
            }
        } else if self.waiting.len() < self.waiting_max {
            self.waiting.insert(id);
            self.sessions[id.slot as usize].phase = Phase::Waiting(kill);
            Admission::Wait
        } else {
            Admission::Refused(Refusal::WaitingFull)
        };
        (id, admission)
    }

    /// The backend that a session's newest attempt was given.
    pub fn pick(&self, id: SessionId) -> Option<&Pick<T>> {
        self.session(id)?.pick.as_ref()
    }

    /// Whether a session's attempt is in the pool and still dialling.
    pub fn is_dialling(&self, id: SessionId) -> bool {
        matches!(self.session(id), Some(Session { phase: Phase::Pooled(member), .. })
            if !self.pool.is_connected(*member))
    }

    /// The dial has succeeded: to be asked before the first byte flows. O(1). `false`: the attempt
    /// has been revoked, and its connection must be aborted.
    pub fn connected(&mut self, id: SessionId) -> bool {
        if !self.is_dialling(id) {
            return false;
        }
        let session = &mut self.sessions[id.slot as usize];
        session.tried = Vec::new();
        if let Phase::Pooled(member) = session.phase {
            self.pool.connect(member);
        }
        true
    }

    /// The dial has failed or was revoked: the next attempt takes the next turn of the cycle, so
    /// that a dead backend's load spreads over all. If that turn's target has been tried for this
    /// session already, it is the first untried one after it, and the turn isn't taken. A revoked
    /// attempt doesn't count as tried. Once every target has been tried, all may be tried again; see
    /// [`Self::has_tried_all`]. O(1) unless many keys share a target.
    ///
    /// The second part is what the attempt before owes to a replacement.
    ///
    /// # Errors
    /// [`Refusal::NoBackends`] or [`Refusal::Closed`]: the session must end.
    pub fn retry(&mut self, id: SessionId, kill: K) -> (Result<Pick<T>, Refusal>, Option<Owed>) {
        let Some(session) = self.session_mut(id) else {
            return (Err(Refusal::Closed), None);
        };
        let owed = session.owed.take().map(Owed);
        match mem::replace(&mut session.phase, Phase::Out) {
            Phase::Pooled(member) => {
                let failed = session.pick.as_ref().map(|pick| pick.target.clone());
                session.tried.extend(failed);
                self.pool.remove(member);
            }
            Phase::Waiting(_) => {
                self.waiting.remove(&id);
            }
            Phase::Out => {}
        }
        if self.is_closed {
            return (Err(Refusal::Closed), owed);
        }
        let place = self.untried(id);
        (place.map(|place| self.enter(id, place, kill)), owed)
    }

    /// Whether each target of the set has been tried for a session, including its attempt in the
    /// pool. If so, [`Self::retry`] would go to one that has already failed, so call it after a
    /// pause. False if the set is empty. O(targets tried).
    pub fn has_tried_all(&self, id: SessionId) -> bool {
        let Some(session) = self.session(id) else { return false };
        let is_pooled = matches!(session.phase, Phase::Pooled(_));
        let current = session.pick.as_ref().filter(|_| is_pooled).map(|pick| &pick.target);
        let is_tried = |target: &T| session.tried.contains(target) || current == Some(target);
        let targets = self.cycle.set().targets();
        !targets.is_empty() && targets.iter().all(is_tried)
    }

    /// Ends a session, however it came to that. O(1). Safe to call for one that has been taken
    /// out, and again: an id that is known no more changes nothing. Returns what the session owes
    /// to a replacement.
    pub fn finish(&mut self, id: SessionId, reason: EndReason) -> Option<Owed> {
        self.session(id)?;
        let session = self.sessions.remove(id.slot as usize);
        match session.phase {
            Phase::Waiting(_) => {
                self.waiting.remove(&id);
            }
            Phase::Pooled(member) => drop(self.pool.remove(member)),
            Phase::Out => {}
        }
        self.totals.add(reason);
        session.owed.map(Owed)
    }

    /// Swaps the set and takes out every session whose target is in it no more: targets are
    /// compared, not keys. A change computed against a set that isn't the current one is handed
    /// back.
    ///
    /// O(sessions taken out + targets in use + log n); the rest is in the [`Change`].
    #[expect(clippy::result_large_err, reason = "the change is handed back, not boxed up")]
    pub fn replace(
        &mut self,
        mut change: Change<T>,
        removal: Removal,
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
        replaced.spent = [change.moved, change.unfilled];
        replaced.draining = done.draining;
        replaced.cut = self.take_out(done.connected, self.generation);
        replaced.revoked = self.take_out(done.dialling, self.generation);
        self.cycle.replace(change.next);
        self.has_set = true;
        self.serve_waiting(&mut replaced);
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
        let (mut kills, mut taken) = (Vec::new(), Vec::new());
        for (_, session) in &mut self.sessions {
            match mem::replace(&mut session.phase, Phase::Out) {
                Phase::Waiting(kill) => kills.push(kill),
                Phase::Pooled(member) => {
                    taken.push(Taken { owner: session.id, kill: self.pool.remove(member) });
                }
                Phase::Out => {}
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

    /// Begins the rotation anew, at the start.
    pub fn reset_cycle(&mut self) {
        self.cycle.reset();
    }

    /// How many sessions may wait for the first set, from now on.
    pub fn set_waiting_max(&mut self, waiting_max: usize) {
        self.waiting_max = waiting_max;
    }

    /// The current set; `None` before the first.
    pub fn set(&self) -> Option<&BackendSet<T>> {
        self.has_set.then(|| self.cycle.set())
    }

    /// The newest replacement.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How many clients were accepted, ever.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many sessions have not finished.
    pub fn live(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions wait for the first set.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many sessions have finished, by reason.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The sessions of each target that has any, in no order that means anything.
    pub fn loads(&self) -> impl Iterator<Item = Load<T>> {
        self.pool.loads()
    }

    /// Whether a session's target has left the set while it drains.
    pub fn is_draining(&self, id: SessionId) -> bool {
        matches!(self.session(id), Some(Session { phase: Phase::Pooled(member), .. })
            if self.pool.is_draining(*member))
    }

    /// The kill handle of a session's attempt, while the balancer holds it.
    pub fn kill_handle(&self, id: SessionId) -> Option<&K> {
        match &self.session(id)?.phase {
            Phase::Waiting(kill) => Some(kill),
            Phase::Pooled(member) => Some(self.pool.kill_of(*member)),
            Phase::Out => None,
        }
    }

    fn session(&self, id: SessionId) -> Option<&Session<T, K>> {
        self.sessions.get(id.slot as usize).filter(|session| session.id == id)
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session<T, K>> {
        self.sessions.get_mut(id.slot as usize).filter(|session| session.id == id)
    }

    /// Puts a session in the pool, dialling the backend at a place of the set.
    fn enter(&mut self, id: SessionId, place: usize, kill: K) -> Pick<T> {
        let set = self.cycle.set();
        let pick = Pick { key: set.key_at(place).clone(), target: set.target_at(place).clone() };
        let member = self.pool.insert(set, set.target_index_at(place), id, kill);
        let session = &mut self.sessions[id.slot as usize];
        session.phase = Phase::Pooled(member);
        session.pick = Some(pick.clone());
        pick
    }

    /// Where a session that has tried some targets goes next.
    fn untried(&mut self, id: SessionId) -> Result<usize, Refusal> {
        let turn = self.cycle.peek().ok_or(Refusal::NoBackends)?;
        if self.has_tried_all(id) {
            self.sessions[id.slot as usize].tried = Vec::new();
        }
        let tried = &self.sessions[id.slot as usize].tried;
        let set = self.cycle.set();
        let is_untried = |place: &usize| !tried.contains(set.target_at(*place));
        if is_untried(&turn) {
            return self.cycle.turn().ok_or(Refusal::NoBackends);
        }
        let untried = (turn + 1..set.len()).chain(0..turn).find(is_untried);
        debug_assert!(untried.is_some(), "not all targets have been tried");
        untried.ok_or(Refusal::NoBackends)
    }

    fn take_out(&mut self, taken: Vec<Taken<K>>, generation: Generation) -> Vec<K> {
        if !taken.is_empty() {
            *self.outstanding.entry(generation).or_default() += taken.len();
        }
        taken
            .into_iter()
            .map(|Taken { owner, kill }| {
                let session = &mut self.sessions[owner.slot as usize];
                session.phase = Phase::Out;
                session.owed = Some(generation);
                kill
            })
            .collect()
    }

    /// The first set has come: serves the sessions that wait for it, in the order of acceptance.
    fn serve_waiting(&mut self, replaced: &mut Replaced<T, K>)
    where
        K: Clone,
    {
        for id in mem::take(&mut self.waiting) {
            let phase = mem::replace(&mut self.sessions[id.slot as usize].phase, Phase::Out);
            let Phase::Waiting(kill) = phase else {
                debug_assert!(false, "{id} waits, and is neither pooled nor out");
                continue;
            };
            match self.cycle.turn() {
                Some(place) => {
                    let pick = self.enter(id, place, kill.clone());
                    replaced.admitted.push((id, pick, kill));
                }
                None => replaced.refused.push(kill),
            }
        }
    }
}
