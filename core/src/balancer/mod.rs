mod ejection;
mod replacement;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use slab::Slab;

pub use self::replacement::{Owed, Replaced};
use crate::{
    Admission, BackendSet, Cycle, EmptySet, EndReason, Generation, Load, Pick, Refusal, SessionId,
    Settings, Target, Totals, health::Health, pool::Pool,
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
///             └─ refused ─┐ retry │      │ failed, overdue          │ taken out │
///                         │       ├──────┘                          ▼           │
///                         │       └──────────── taken out ──▶      out ─────────┤
///                         └─────────────────────────────────────────────────────┘
/// ```
///
/// - A dial that has succeeded asks [`connected`](Self::connected) before the first byte. `false`
///   means that the attempt was taken out meanwhile.
/// - A dial that has outlived its [`patience`](Self::patience) asks [`overdue`](Self::overdue), which
///   may have it given up. One that has failed reports it to [`dial_failed`](Self::dial_failed).
/// - A dial that has failed, was given up or taken out may go on with [`retry`](Self::retry).
/// - [`replace`](Self::replace), [`drain_expired`](Self::drain_expired) and
///   [`abort_all`](Self::abort_all) take attempts out and return their kill handles: the driver has
///   each of them let go of its connections.
/// - What `retry`, `finish` or `probe_ended` then returns as [`Owed`] goes to [`acknowledge`](Self::acknowledge),
///   once the attempt has let go. When all has been acknowledged, the replacement
///   [`is_applied`](Self::is_applied).
///
/// # Ejection
/// A target that doesn't accept connections is *ejected*: the rotation skips it until a dial or a
/// probe succeeds ([`Settings::ejection`]). After each step, [`take_notices`](Self::take_notices) says
/// what has become of targets. When a probe is [`due`](Self::due), the driver calls
/// [`start_probe`](Self::start_probe) and [`cut_silent`](Self::cut_silent). Times are those since any
/// epoch.
pub struct Balancer<T, K> {
    cycle: Cycle<T>,
    /// Whether there has been a set, perhaps an empty one.
    has_set: bool,
    generation: Generation,
    pool: Pool<T, K>,
    sessions: Slab<SessionState<T, K>>,
    waiting: BTreeSet<SessionId>,
    /// Sessions that still dial although their patience is over.
    overdue: BTreeSet<SessionId>,
    health: Health<T, K>,
    settings: Settings,
    is_closed: bool,
    accepted: u64,
    totals: Totals,
    /// For each replacement that isn't applied yet: how many of the attempts that it took out
    /// have not let go.
    outstanding: BTreeMap<Generation, usize>,
}

/// What the balancer knows of a session.
struct SessionState<T, K> {
    id: SessionId,
    standing: Standing<K>,
    /// The newest attempt's backend.
    pick: Option<Pick<T>>,
    /// Targets whose dials failed.
    tried: Vec<T>,
    /// How many of its dials were given up.
    moves: u8,
    /// The newest attempt is given up, and the next goes elsewhere.
    is_moving: bool,
    /// The replacement that took the newest attempt out and waits for it to let go.
    owed: Option<Generation>,
}

/// Where a session is. The ways out: a waiting one is admitted or refused by the first set; a
/// pooled one retries or connects; a connected one ends; any is taken out (to `Out`) by a
/// replacement, a deadline or [`Balancer::abort_all`]; one that is out retries or ends.
enum Standing<K> {
    Waiting(K),
    /// Dialling or connected, perhaps draining: which of them, the pool knows.
    Pooled(u32),
    Out,
}

impl<T: Target, K> Balancer<T, K> {
    /// A balancer without a set. Of the settings, it needs those that say what to pick and whom to
    /// eject.
    pub fn new(settings: Settings) -> Self {
        Self {
            cycle: Cycle::new(settings.start),
            has_set: false,
            generation: Generation::default(),
            pool: Pool::new(),
            sessions: Slab::new(),
            waiting: BTreeSet::new(),
            overdue: BTreeSet::new(),
            health: Health::new(),
            settings,
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
        entry.insert(SessionState {
            id,
            standing: Standing::Out,
            pick: None,
            tried: Vec::new(),
            moves: 0,
            is_moving: false,
            owed: None,
        });
        if self.is_closed {
            return (id, Admission::Refused(Refusal::Closed));
        }
        let turn = self.cycle.turn();
        (id, self.enter_or_wait(id, turn, kill))
    }

    /// The backend that a session's newest attempt was given.
    pub fn pick(&self, id: SessionId) -> Option<&Pick<T>> {
        self.session(id)?.pick.as_ref()
    }

    /// Whether a session's attempt is in the pool and still dialling.
    pub fn is_dialling(&self, id: SessionId) -> bool {
        self.dialling(id).is_some()
    }

    /// The dial has succeeded and `took` this long: to be asked before the first byte flows. `false`:
    /// the attempt has been revoked, and its connection must be aborted. O(1), unless its target was
    /// ejected; O(targets that are ejected) if all were.
    pub fn connected(&mut self, id: SessionId, took: Duration, now: Duration) -> bool {
        let Some(member) = self.dialling(id) else { return false };
        self.overdue.remove(&id);
        let session = &mut self.sessions[id.slot as usize];
        session.tried = Vec::new();
        self.pool.connect(member);
        self.succeeded(id, member, took, now);
        true
    }

    /// The dial has failed, was given up or revoked: the next attempt takes the next turn of the
    /// cycle, so that a dead backend's load spreads over all. If that turn's target has been tried for
    /// this session already, it is the first untried one after it, and the turn isn't taken; those
    /// that are ejected come last. An attempt that was revoked or given up doesn't count as tried, but
    /// the next one after a dial that was given up goes elsewhere. Once every target has been tried,
    /// all may be tried again; see [`Self::has_tried_all`]. O(set / 64) at most, unless many keys share
    /// a target.
    ///
    /// The second part is what the attempt before owes to a replacement.
    pub fn retry(&mut self, id: SessionId, kill: K) -> (Admission<T>, Option<Owed>) {
        self.overdue.remove(&id);
        let Some(session) = self.session_mut(id) else {
            return (Admission::Refused(Refusal::Closed), None);
        };
        let owed = session.owed.take().map(Owed);
        let is_moving = mem::take(&mut session.is_moving);
        let before = session.pick.as_ref().map(|pick| pick.target.clone());
        match mem::replace(&mut session.standing, Standing::Out) {
            Standing::Pooled(member) => {
                session.tried.extend(before.clone().filter(|_| !is_moving));
                self.pool.remove(member);
            }
            Standing::Waiting(_) => {
                self.waiting.remove(&id);
            }
            Standing::Out => {}
        }
        if self.is_closed {
            return (Admission::Refused(Refusal::Closed), owed);
        }
        let place = self.untried(id, before.filter(|_| is_moving));
        (self.enter_or_wait(id, place, kill), owed)
    }

    /// Whether each target of the set has been tried for a session, including its attempt in the
    /// pool. If so, [`Self::retry`] would go to one that has already failed, so call it after a
    /// pause. False if the set is empty. O(targets tried).
    pub fn has_tried_all(&self, id: SessionId) -> bool {
        let Some(session) = self.session(id) else { return false };
        let is_pooled = matches!(session.standing, Standing::Pooled(_)) && !session.is_moving;
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
        self.overdue.remove(&id);
        let session = self.sessions.remove(id.slot as usize);
        match session.standing {
            Standing::Waiting(_) => {
                self.waiting.remove(&id);
            }
            Standing::Pooled(member) => drop(self.pool.remove(member)),
            Standing::Out => {}
        }
        self.totals.add(reason);
        session.owed.map(Owed)
    }

    /// Changes the settings. `start` has no effect any more. Returns the kill handles of sessions that
    /// waited for a set with backends, and are to be ended since they may wait no longer.
    pub fn configure(&mut self, settings: Settings, now: Duration) -> Vec<K> {
        self.settings = settings;
        self.health.hasten(now, &self.settings);
        if !self.settings.ejection {
            let returned = self.health.return_all(now);
            returned.iter().for_each(|target| self.cycle.set_skipped(*target, false));
            self.reconsider();
        }
        if self.may_wait() { Vec::new() } else { self.refuse_waiting() }
    }

    /// Begins the rotation anew, at the start.
    pub fn reset_cycle(&mut self) {
        self.cycle.reset();
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

    /// How many sessions wait for a set.
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
        matches!(self.session(id), Some(SessionState { standing: Standing::Pooled(member), .. })
            if self.pool.is_draining(*member))
    }

    /// The kill handle of a session's attempt, while the balancer holds it.
    pub fn kill_handle(&self, id: SessionId) -> Option<&K> {
        match &self.session(id)?.standing {
            Standing::Waiting(kill) => Some(kill),
            Standing::Pooled(member) => Some(self.pool.kill_of(*member)),
            Standing::Out => None,
        }
    }

    fn session(&self, id: SessionId) -> Option<&SessionState<T, K>> {
        self.sessions.get(id.slot as usize).filter(|session| session.id == id)
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut SessionState<T, K>> {
        self.sessions.get_mut(id.slot as usize).filter(|session| session.id == id)
    }

    /// The attempt of a session that is in the pool and still dials.
    fn dialling(&self, id: SessionId) -> Option<u32> {
        match self.session(id)?.standing {
            Standing::Pooled(member) if !self.pool.is_connected(member) => Some(member),
            _ => None,
        }
    }

    /// Whether sessions may wait for a set with backends.
    fn may_wait(&self) -> bool {
        !self.has_set || self.settings.empty == EmptySet::Wait
    }

    /// What becomes of a session whose backend is at this place, if there is any backend.
    fn enter_or_wait(&mut self, id: SessionId, place: Option<usize>, kill: K) -> Admission<T> {
        match place {
            Some(place) => Admission::Dial(self.enter(id, place, kill)),
            None if !self.may_wait() => Admission::Refused(Refusal::NoBackends),
            None if self.waiting.len() < self.settings.waiting_max => {
                self.waiting.insert(id);
                let session = &mut self.sessions[id.slot as usize];
                session.standing = Standing::Waiting(kill);
                // All that it has tried has left the set.
                session.tried = Vec::new();
                Admission::Wait
            }
            None => Admission::Refused(Refusal::WaitingFull),
        }
    }

    /// Puts a session in the pool, dialling the backend at a place of the set.
    fn enter(&mut self, id: SessionId, place: usize, kill: K) -> Pick<T> {
        let set = self.cycle.set();
        let pick = Pick { key: set.key_at(place).clone(), target: set.target_at(place).clone() };
        let member = self.pool.insert(set, set.target_index_at(place), id, kill);
        let session = &mut self.sessions[id.slot as usize];
        session.standing = Standing::Pooled(member);
        session.pick = Some(pick.clone());
        pick
    }

    /// Where a session that has tried some targets goes next, other than to `avoid` if it can.
    fn untried(&mut self, id: SessionId, avoid: Option<T>) -> Option<usize> {
        if self.has_tried_all(id) {
            self.sessions[id.slot as usize].tried = Vec::new();
        }
        let tried = &self.sessions[id.slot as usize].tried;
        let (cycle, set) = (&self.cycle, self.cycle.set());
        let is_untried = |place: &usize| !tried.contains(set.target_at(*place));
        let is_wanted = |place: &usize| {
            is_untried(place) && avoid.as_ref().is_none_or(|avoid| avoid != set.target_at(*place))
        };
        let turn = cycle.peek()?;
        let place = cycle.in_rotation().find(is_wanted);
        let place = place.or_else(|| cycle.in_rotation().find(is_untried));
        let place = place.or_else(|| cycle.all().find(is_wanted));
        let place = place.or_else(|| cycle.all().find(is_untried));
        debug_assert!(place.is_some(), "not all targets have been tried");
        if place == Some(turn) { self.cycle.turn() } else { place }
    }
}
