use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use slab::Slab;

use crate::{
    Admission, BackendKey, BackendSet, Change, Cycle, Ejected, EmptySet, EndReason, Fault,
    Generation, Load, Notice, Pick, Probe, ProbeEnd, ProbeId, Refusal, Removal, SessionId,
    Settings, Target, Totals,
    health::Health,
    pool::{Pool, Taken},
};

/// How often a session's dials may be given up because they have outlived their patience, so that
/// one client can't have a dial under way to each of a thousand targets.
const MOVES_MAX: u8 = 8;

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
    sessions: Slab<Session<T, K>>,
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

struct Session<T, K> {
    id: SessionId,
    phase: Phase<K>,
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
        entry.insert(Session {
            id,
            phase: Phase::Out,
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
        let Some(Pick { target: current, .. }) = &session.pick else { return false };
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
        match mem::replace(&mut session.phase, Phase::Out) {
            Phase::Pooled(member) => {
                session.tried.extend(before.clone().filter(|_| !is_moving));
                self.pool.remove(member);
            }
            Phase::Waiting(_) => {
                self.waiting.remove(&id);
            }
            Phase::Out => {}
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
        let is_pooled = matches!(session.phase, Phase::Pooled(_)) && !session.is_moving;
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

    // Health.

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

    /// The next probe that is due, if there may be another one ([`Settings::probes_max`]). The driver
    /// dials the target, with the full [`Settings::dial_timeout`], aborts the connection as soon as it
    /// is established, and calls [`Self::probe_ended`]. O(log targets that are ejected).
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
    /// ([`Settings::cut_silent`]): their kill handles.
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

    // The rest.

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

    /// The attempt of a session that is in the pool and still dials.
    fn dialling(&self, id: SessionId) -> Option<u32> {
        match self.session(id)?.phase {
            Phase::Pooled(member) if !self.pool.is_connected(member) => Some(member),
            _ => None,
        }
    }

    /// Notes that a session's dial has succeeded, which returns its target if it was ejected.
    fn succeeded(&mut self, id: SessionId, member: u32, took: Duration, now: Duration) {
        let Some(pick) = &self.sessions[id.slot as usize].pick else { return };
        let target = (&pick.target, self.pool.target_index(member));
        if self.health.succeeded(target, took, now, &self.settings) {
            self.returned(target.1, now);
        }
    }

    /// Notes a fault of a session's attempt.
    fn fault(&mut self, id: SessionId, member: u32, fault: Fault, now: Duration) {
        let Some(pick) = &self.sessions[id.slot as usize].pick else { return };
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
    fn reconsider(&mut self) {
        self.overdue.iter().for_each(|id| self.health.notice(Notice::Reconsider(*id)));
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
                session.phase = Phase::Waiting(kill);
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
        session.phase = Phase::Pooled(member);
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

    fn owe(&mut self, generation: Generation, count: usize) {
        if count > 0 {
            *self.outstanding.entry(generation).or_default() += count;
        }
    }

    fn take_out(&mut self, taken: Vec<Taken<K>>, generation: Generation) -> Vec<K> {
        self.owe(generation, taken.len());
        taken
            .into_iter()
            .map(|Taken { owner, kill }| {
                self.overdue.remove(&owner);
                let session = &mut self.sessions[owner.slot as usize];
                session.phase = Phase::Out;
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

    fn refuse_waiting(&mut self) -> Vec<K> {
        self.take_waiting().into_iter().map(|(_, kill)| kill).collect()
    }

    fn take_waiting(&mut self) -> Vec<(SessionId, K)> {
        let waiting = mem::take(&mut self.waiting).into_iter();
        let take = |id: SessionId| {
            let phase = &mut self.sessions[id.slot as usize].phase;
            match mem::replace(phase, Phase::Out) {
                Phase::Waiting(kill) => Some((id, kill)),
                Phase::Pooled(_) | Phase::Out => {
                    debug_assert!(false, "{id} waits, and is neither pooled nor out");
                    None
                }
            }
        };
        waiting.filter_map(take).collect()
    }
}
