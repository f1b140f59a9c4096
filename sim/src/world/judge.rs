//! Everything that is seen of a run, in one place: it keeps the trace, asks the ledger, follows
//! the connections, and lets the scenario's rules answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io, mem,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};
use tinylb_core::{BackendKey, DialFailure, EndReason, Event, Handle, Report, Side, Snapshot};

use super::attempt::{Attempt, Word};
use crate::{
    Entropy, Law, Outcome, PacketFate, PacketKind, Scenario, Seeded, Sometimes, Trace,
    oracle::{Ledger, PLACES, Said},
    pure::key_number,
    scenario::{Act, Backends, Key, Place, Plan, Trigger, sets_of},
    trace::{Failure, Host, Note},
};

/// What all that takes part in a run shares. Clones are the same run.
#[derive(Clone)]
pub struct World {
    scenario: Arc<Scenario>,
    judge: Arc<Mutex<Judge>>,
    handle: Arc<Mutex<Option<Handle<Place>>>>,
}

impl World {
    pub(super) fn new(judge: Judge) -> Self {
        let scenario = Arc::clone(&judge.scenario);
        Self { scenario, judge: Arc::new(Mutex::new(judge)), handle: Arc::default() }
    }

    /// What is run.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Never held while something is done.
    pub(super) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on happens at this time since the beginning.
    pub fn set_time(&self, at: Duration) {
        self.judge().set_time(at.as_micros() as u64);
    }

    /// A segment was seen on its way between two hosts, at these ports.
    pub fn packet(&self, from: (Host, u16), to: (Host, u16), kind: PacketKind, fate: PacketFate) {
        self.judge().packet(from, to, kind, fate);
    }

    /// A stream between these two has lost a segment, so nothing is expected of it any more.
    pub fn lost(&self, a: SocketAddr, b: SocketAddr) {
        let mut judge = self.judge();
        judge.count(Sometimes::PacketLost);
        judge.lossy.extend([a, b]);
    }

    /// Something that is none of the scenario's doing was wrong.
    pub fn fail(&self, law: Law, text: String) {
        self.judge().fail(law, text);
    }

    /// A task panicked with this text.
    pub fn panicked(&self, text: &str) {
        if text != super::tap::PANIC_AS_TOLD {
            self.fail(Law::Panic, format!("a task panicked: {text}"));
        }
    }

    /// Whether a law was broken.
    pub fn has_failed(&self) -> bool {
        !self.judge().ledger.violations().is_empty()
    }

    pub(super) fn set_handle(&self, handle: Handle<Place>) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    /// The balancer's handle, once there is one.
    pub(super) fn handle(&self) -> Option<Handle<Place>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn take_handle(&self) -> Option<Handle<Place>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What the balancer is told; for the first that asks.
    pub(super) fn take_orders(&self) -> Option<UnboundedReceiver<Order>> {
        self.judge().orders.1.take()
    }

    /// What clients are told; for the first that asks.
    pub(super) fn take_visits(&self) -> Option<UnboundedReceiver<Visit>> {
        self.judge().visits.1.take()
    }

    pub(super) fn poll_accept_failure(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut judge = self.judge();
        match judge.accept_failures.pop_front() {
            Some(error) => Poll::Ready(error),
            None => {
                judge.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What the balancer is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// To take these sets, one right after the other.
    Replace(Vec<Backends>),
    /// To wait until what it has taken is applied.
    Confirm,
    LoseSource,
    /// In milliseconds.
    Drain(u32),
    ResetCycle,
    /// With so many milliseconds of grace.
    Shutdown(u32),
}

/// What clients are told to do.
#[derive(Debug)]
pub(super) enum Visit {
    Connect(u32, Plan),
    Probe(u32),
}

/// Both ends, until the second is taken.
type Channel<T> = (UnboundedSender<T>, Option<UnboundedReceiver<T>>);

pub(super) struct Judge {
    pub(super) at: u64,
    pub(super) scenario: Arc<Scenario>,
    patience: u64,
    pub(super) ledger: Ledger,
    trace: Trace,
    pub(super) entropy: Seeded,
    orders: Channel<Order>,
    visits: Channel<Visit>,

    rules_left: Vec<u32>,
    /// What rules want done, and when.
    wanted: VecDeque<(u64, u32, Place)>,

    /// Sets that were ordered and haven't taken effect.
    said: VecDeque<Backends>,
    /// The set that was ordered last, and when.
    newest: Backends,
    said_at: u64,
    drain: u32,
    /// Replacements that aren't applied yet, with the time that they took effect.
    unapplied: Vec<(u64, u64)>,
    closes_at: Option<u64>,
    pub(super) is_shut_down: bool,
    pub(super) is_healed: bool,
    /// Something has happened since the pool was looked at.
    is_dirty: bool,

    pub(super) flows: Vec<Flow>,
    /// The session whose dial begins.
    dialling: u64,
    /// Dials of these places are to panic.
    panics: BTreeSet<Place>,
    boots: [u32; PLACES],
    pub(super) attempts: Vec<Attempt>,
    /// Attempts that aren't over, in no order.
    pub(super) live_attempts: Vec<u32>,
    /// Sessions by the client's name that have no attempt yet, and attempts without a session.
    pub(super) session_of: BTreeMap<String, u64>,
    pub(super) attempt_of: BTreeMap<String, u32>,
    accept_failures: VecDeque<io::Error>,
    acceptor: Option<Waker>,
    /// Since when nothing but the balancer keeps clients from being accepted.
    room_since: u64,
    links: BTreeMap<Host, LinkState>,
    /// Ends of streams that lost a segment.
    lossy: BTreeSet<SocketAddr>,
}

/// What a link has gone through.
#[derive(Clone, Copy, Default)]
pub(super) struct LinkState {
    /// Its faults, by number.
    faults: [bool; 3],
    pub(super) disturbances: u32,
}

/// What a link may have to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkFault {
    Cut,
    Slow,
    /// The host is down.
    Down,
}

/// What the balancer has done for a session.
#[derive(Clone, Copy, Default)]
pub(super) struct Flow {
    read_up: u64,
    written_up: u64,
    read_down: u64,
    written_down: u64,
    /// Connections that it holds.
    open: u32,
    pub(super) attempt: Option<u32>,
    /// The balancer's end of the connection to the backend.
    backend: Option<SocketAddr>,
    /// Disturbances of its backend's link when it was dialled.
    calm_since: u32,
    /// Its backend's process has died.
    pub(super) is_crashed: bool,
    pub(super) ended: Option<EndReason>,
}

impl Judge {
    pub(super) fn new(
        scenario: Arc<Scenario>,
        patience: u64,
        keep_trace: bool,
        orders: (UnboundedSender<Order>, UnboundedReceiver<Order>),
        visits: (UnboundedSender<Visit>, UnboundedReceiver<Visit>),
    ) -> Self {
        let mut ledger = Ledger::new(&scenario.config);
        ledger.set_slack(patience);
        if scenario.config.source == 1 {
            ledger.allow_unheard();
        }
        Self {
            at: 0,
            patience,
            ledger,
            trace: Trace::new(keep_trace),
            entropy: Seeded::for_purpose(scenario.seed, 2),
            orders: (orders.0, Some(orders.1)),
            visits: (visits.0, Some(visits.1)),
            rules_left: scenario.rules.iter().map(|rule| rule.times).collect(),
            wanted: VecDeque::new(),
            said: VecDeque::new(),
            newest: Vec::new(),
            said_at: 0,
            drain: scenario.config.drain,
            unapplied: Vec::new(),
            closes_at: None,
            is_shut_down: false,
            is_healed: false,
            is_dirty: true,
            flows: Vec::new(),
            dialling: 0,
            panics: BTreeSet::new(),
            boots: [0; PLACES],
            attempts: Vec::new(),
            live_attempts: Vec::new(),
            session_of: BTreeMap::new(),
            attempt_of: BTreeMap::new(),
            accept_failures: VecDeque::new(),
            acceptor: None,
            room_since: 0,
            links: BTreeMap::new(),
            lossy: BTreeSet::new(),
            scenario,
        }
    }

    // Time and records.

    fn set_time(&mut self, at: u64) {
        self.at = self.at.max(at);
        self.ledger.set_time(self.at);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.trace.add(self.at, note);
    }

    pub(super) fn fail(&mut self, law: Law, text: String) {
        self.ledger.fail(law, text);
    }

    pub(super) fn count(&mut self, what: Sometimes) {
        self.ledger.counts.add(what, 1);
    }

    pub(super) fn outcome(&mut self, steps: u64) -> Outcome {
        let violations = self.ledger.violations().to_vec();
        for violation in &violations {
            self.trace.add(violation.at, Note::Violated(violation.law.name()));
        }
        Outcome {
            violations,
            steps,
            simulated: self.at,
            counts: mem::take(&mut self.ledger.counts),
            trace: mem::replace(&mut self.trace, Trace::new(false)),
        }
    }

    // What the balancer says.

    /// `set`: the set as the balancer has it, if this says that it was replaced.
    pub(super) fn event(&mut self, event: &Event<Place>, set: Option<Backends>) {
        self.is_dirty = true;
        match event {
            Event::Accepted { id, peer, .. } => self.accepted(id.serial(), peer),
            Event::Admitted { id, pick } => {
                let key = key_number(&pick.key);
                self.note(Note::Admitted(id.serial(), key, pick.target));
                self.ledger.admitted(id.serial(), key, pick.target);
            }
            Event::DialStarted { id, pick } => {
                self.note(Note::DialStarted(id.serial(), pick.target));
                self.ledger.dial_started(id.serial(), pick.target);
                self.dialling = id.serial();
                if self.panics.contains(&pick.target) {
                    self.ledger.may_panic(id.serial());
                }
                self.trigger(Trigger::DialStarted, pick.target);
            }
            Event::DialFailed { id, pick, failure } => {
                let failure = match failure {
                    DialFailure::Failed(_) => Failure::Failed,
                    DialFailure::Revoked => Failure::Revoked,
                    _ => Failure::TimedOut,
                };
                match failure {
                    Failure::Failed => self.count(Sometimes::DialRefused),
                    Failure::TimedOut => self.count(Sometimes::DialTimedOut),
                    Failure::Revoked => {}
                }
                self.note(Note::DialFailed(id.serial(), failure));
                self.ledger.dial_failed(id.serial(), failure == Failure::Revoked);
                self.trigger(Trigger::DialFailed, pick.target);
            }
            Event::Connected { id, pick } => {
                self.note(Note::Connected(id.serial(), pick.target));
                self.ledger.connected(id.serial(), pick.target);
                self.trigger(Trigger::Connected, pick.target);
            }
            Event::HalfClosed { id, by } => {
                self.count(Sometimes::HalfClosed);
                self.note(Note::HalfClosed(id.serial(), (*by).into()));
                self.trigger(Trigger::HalfClosed, self.ledger.place_of(id.serial()));
            }
            Event::Ended { id, reason, bytes_to_backend, bytes_to_client, .. } => {
                self.ended(id.serial(), *reason, *bytes_to_backend, *bytes_to_client);
            }
            Event::SetReplaced(report) => self.replaced(report, &set.unwrap_or_default()),
            Event::SetRejected { error } => {
                self.note(Note::SetRejected);
                self.fail(Law::Order, format!("a good set was rejected: {error}"));
            }
            Event::SourceLost { .. } => self.note(Note::SourceLost),
            Event::AcceptFailed { pause, .. } => {
                self.count(Sometimes::AcceptFailed);
                self.note(Note::AcceptFailed);
                let pause = pause.unwrap_or_default().as_micros() as u64;
                self.room_since = self.room_since.max(self.at + pause);
            }
            _ => {}
        }
    }

    fn accepted(&mut self, serial: u64, peer: &str) {
        self.note(Note::Accepted(serial));
        self.ledger.accepted_one(serial);
        while self.flows.len() <= serial as usize {
            self.flows.push(Flow::default());
        }
        match self.attempt_of.remove(peer) {
            Some(attempt) => self.meet(attempt, serial),
            None => drop(self.session_of.insert(peer.into(), serial)),
        }
        if self.is_full() {
            self.count(Sometimes::LimitReached);
        }
    }

    /// This attempt and this session are about the same connection.
    pub(super) fn meet(&mut self, attempt: u32, serial: u64) {
        self.attempts[attempt as usize].session = Some(serial);
        if let Some(flow) = self.flows.get_mut(serial as usize) {
            flow.attempt = Some(attempt);
        }
    }

    fn is_full(&self) -> bool {
        self.ledger.live() >= self.scenario.config.connections as usize
    }

    fn ended(&mut self, serial: u64, reason: EndReason, up: u64, down: u64) {
        self.note(Note::Ended(serial, reason));
        self.note(Note::Moved(serial, up, down));
        let place = self.ledger.place_of(serial);
        if self.is_full() {
            self.room_since = self.room_since.max(self.at);
        }
        if reason == EndReason::Shutdown {
            self.count(Sometimes::GraceOver);
        }
        self.ledger.ended(serial, reason);
        let Some(flow) = self.flows.get_mut(serial as usize) else { return };
        flow.ended = Some(reason);
        let flow = *flow;
        if flow.open > 0 {
            let text = format!("session {serial} has ended and holds {} connections", flow.open);
            self.fail(Law::Barrier, text);
        }
        if (flow.written_up, flow.written_down) != (up, down) {
            let text = format!(
                "session {serial} says that it moved {up} and {down} bytes; it was {} and {}",
                flow.written_up, flow.written_down
            );
            self.fail(Law::Bytes, text);
        }
        let in_flight = flow.read_up > flow.written_up || flow.read_down > flow.written_down;
        match reason {
            EndReason::BackendRemoved | EndReason::DrainExpired if in_flight => {
                self.count(Sometimes::CutInFlight);
            }
            EndReason::Finished if in_flight => {
                let text = format!("session {serial} is finished with bytes not written");
                self.fail(Law::Bytes, text);
            }
            EndReason::HalfCloseTimedOut => self.count(Sometimes::HalfCloseTimedOut),
            EndReason::IdleTimedOut => self.count(Sometimes::IdleTimedOut),
            _ => {}
        }
        self.check_cause(serial, reason, place);
        self.trigger(Trigger::Ended, place);
    }

    /// What a session blames was so.
    fn check_cause(&mut self, serial: u64, reason: EndReason, place: Place) {
        let Some(number) = self.flows[serial as usize].attempt else { return };
        let attempt = &self.attempts[number as usize];
        if !self.is_calm(attempt) {
            return;
        }
        let law = match reason {
            EndReason::ClientFailed if !self.has_given_up(number, Side::Client) => Law::OneEnd,
            EndReason::BackendFailed if !self.has_given_up(number, Side::Backend) => Law::OneEnd,
            EndReason::HalfCloseTimedOut if !attempt.is_silent() => Law::HalfClose,
            EndReason::IdleTimedOut if !attempt.is_silent() => Law::Progress,
            _ => return,
        };
        let text = format!("session {serial} at {place} ended with {reason} without cause");
        self.fail(law, text);
    }

    fn replaced(&mut self, report: &Report, set: &Backends) {
        let generation = report.generation.number();
        let (cut, revoked) = (report.sessions_cut, report.dials_revoked);
        let draining = report.sessions_draining;
        let note = (cut as u32, revoked as u32, draining as u32);
        self.note(Note::Replaced(generation, set.clone(), note.0, note.1, note.2));
        self.check_order(generation, set);
        self.check_keys(report, set);
        let drain_until = (self.drain > 0).then(|| self.at + u64::from(self.drain) * 1000);
        let said = Said { generation, cut, revoked, draining };
        self.ledger.replaced(set, said, drain_until);
        self.unapplied.push((generation, self.at));
        if self.scenario.config.source == 1 {
            self.order(Order::Confirm);
        }
        let place = set.first().map_or(Place(0), |(_, place)| *place);
        if draining > 0 {
            self.trigger(Trigger::DrainBegan, place);
        }
        self.trigger(Trigger::Replaced, place);
    }

    /// The sets take effect in the order in which they were said. Of a source's, some may be left
    /// out.
    fn check_order(&mut self, generation: u64, set: &Backends) {
        let at = match self.scenario.config.source {
            0 => self.said.front().is_some_and(|said| said == set).then_some(0),
            _ => self.said.iter().position(|said| said == set),
        };
        match at {
            Some(at) => drop(self.said.drain(..=at)),
            None => {
                let text = format!("replacement {generation} has a set that wasn't said then");
                self.fail(Law::Order, text);
            }
        }
    }

    /// The report's keys are those in which the sets differ.
    fn check_keys(&mut self, report: &Report, set: &Backends) {
        let before: BTreeMap<_, _> = self.ledger.set().into_iter().flatten().copied().collect();
        let after: BTreeMap<_, _> = set.iter().copied().collect();
        let lacks = |keys: &BTreeMap<Key, Place>, from: &BTreeMap<Key, Place>| -> Vec<Key> {
            from.keys().filter(|key| !keys.contains_key(*key)).copied().collect()
        };
        let moved = |(key, place): &(_, _)| before.get(key).is_some_and(|was| was != place);
        let moved = set.iter().filter(|entry| moved(entry)).map(|(key, _)| *key).collect();
        let numbers = |keys: &[BackendKey]| keys.iter().map(key_number).collect::<Vec<_>>();
        let told = [&report.added, &report.removed, &report.retargeted].map(|keys| numbers(keys));
        let were = [lacks(&before, &after), lacks(&after, &before), moved];
        if told != were || report.backends != set.len() {
            let text = format!(
                "replacement {} says that {told:?} were added, removed and moved; it was {were:?}",
                report.generation
            );
            self.fail(Law::Report, text);
        }
    }

    // What the balancer is told.

    fn order(&mut self, order: Order) {
        let _ = self.orders.0.unbounded_send(order);
    }

    pub(super) fn order_sets(&mut self, sets: Vec<Backends>) {
        if let Some(newest) = sets.last() {
            self.newest.clone_from(newest);
            self.said_at = self.at;
            self.said.extend(sets.iter().cloned());
            self.order(Order::Replace(sets));
        }
    }

    /// The set that was ordered last.
    pub(super) fn newest(&self) -> &Backends {
        &self.newest
    }

    /// A set that was handed over was the same set again; with the replacement's number.
    pub(super) fn said_again(&mut self, generation: u64, is_confirmation: bool) {
        self.note(Note::SaidAgain(generation));
        self.ledger.said_again(generation);
        self.unapplied.push((generation, self.at));
        if !is_confirmation && self.said.pop_front().as_ref() != self.ledger.set() {
            let text = format!("replacement {generation} was taken for the same set again");
            self.fail(Law::Order, text);
        }
    }

    pub(super) fn applied(&mut self, generation: u64) {
        self.note(Note::Applied(generation));
        self.ledger.applied(generation);
        self.unapplied.retain(|(number, _)| *number > generation);
    }

    pub(super) fn lose_source(&mut self) {
        self.order(Order::LoseSource);
    }

    pub(super) fn order_drain(&mut self, time: u32) {
        self.order(Order::Drain(time));
    }

    /// The balancer's settings are these from now on.
    pub(super) fn drains(&mut self, time: u32) {
        self.drain = time;
    }

    pub(super) fn reset_cycle(&mut self) {
        self.order(Order::ResetCycle);
    }

    pub(super) fn order_shutdown(&mut self, grace: u32) {
        self.order(Order::Shutdown(grace));
    }

    /// The balancer begins its shutdown; a second time: it aborts at once.
    pub(super) fn closing(&mut self, grace: u32) {
        self.note(Note::Closing);
        let at = self.at + u64::from(grace) * 1000;
        let at = if self.closes_at.is_some() { self.at } else { at };
        self.closes_at = Some(at);
        self.ledger.closing(at);
    }

    pub(super) fn shut_down(&mut self) {
        self.note(Note::ShutDown);
        self.ledger.shut_down();
        self.is_shut_down = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closes_at.is_some()
    }

    pub(super) fn visit(&mut self, visit: Visit) {
        let _ = self.visits.0.unbounded_send(visit);
    }

    /// A backend starts: how often it has.
    pub(super) fn boots(&mut self, place: Place) -> u32 {
        let boots = &mut self.boots[usize::from(place.0)];
        *boots += 1;
        *boots
    }

    pub(super) fn panic_next_dial(&mut self, place: Place) {
        self.panics.insert(place);
    }

    /// Accepts fail; who accepts has to be woken.
    pub(super) fn fail_accepts(
        &mut self,
        errors: impl Iterator<Item = io::Error>,
    ) -> Option<Waker> {
        self.accept_failures.extend(errors);
        self.acceptor.take()
    }

    // What the balancer does to its connections.

    pub(super) fn next_accepted(&self) -> u64 {
        self.ledger.accepted()
    }

    /// A dial begins: the session that it is for.
    pub(super) fn dials(&mut self, place: Place) -> u64 {
        if !self.ledger.is_in_use(place) {
            self.fail(Law::Barrier, format!("{place} is dialled, and isn't in the set"));
        }
        self.dialling
    }

    /// Whether this dial is to panic.
    pub(super) fn takes_panic(&mut self, place: Place) -> bool {
        self.panics.remove(&place)
    }

    pub(super) fn dialled(&mut self, session: u64, place: Place, name: &str) {
        let calm_since = self.link(Host::Backend(place)).disturbances;
        if let Some(flow) = self.flows.get_mut(session as usize) {
            flow.calm_since = calm_since;
            flow.backend = name.parse().ok();
        }
    }

    pub(super) fn opened(&mut self, session: u64) {
        while self.flows.len() <= session as usize {
            self.flows.push(Flow::default());
        }
        self.flows[session as usize].open += 1;
    }

    pub(super) fn let_go(&mut self, session: u64) {
        self.flows[session as usize].open -= 1;
    }

    pub(super) fn read(&mut self, session: u64, side: Side, bytes: u64) {
        let most = u64::from(self.scenario.config.buffer);
        let flow = &mut self.flows[session as usize];
        let held = match side {
            Side::Client => {
                flow.read_up += bytes;
                flow.read_up.saturating_sub(flow.written_up)
            }
            Side::Backend => {
                flow.read_down += bytes;
                flow.read_down.saturating_sub(flow.written_down)
            }
        };
        if held > most {
            self.fail(
                Law::Buffers,
                format!("session {session} holds {held} bytes from the {side}"),
            );
        }
    }

    pub(super) fn written(&mut self, session: u64, side: Side, bytes: u64) {
        let flow = &mut self.flows[session as usize];
        match side {
            Side::Client => flow.written_down += bytes,
            Side::Backend => {
                flow.written_up += bytes;
                let place = self.ledger.place_of(session);
                if !self.ledger.is_in_use(place) {
                    let text = format!("{bytes} bytes of session {session} go to {place}");
                    self.fail(Law::Barrier, text);
                }
            }
        }
    }

    pub(super) fn writer_waits(&mut self) {
        self.count(Sometimes::WindowFull);
    }

    // Packets and links.

    fn packet(
        &mut self,
        (from, from_port): (Host, u16),
        (to, to_port): (Host, u16),
        kind: PacketKind,
        fate: PacketFate,
    ) {
        self.note(Note::Packet(from, from_port, to, to_port, kind, fate));
        match fate {
            PacketFate::Held => self.count(Sometimes::PacketHeld),
            PacketFate::Dropped => self.count(Sometimes::PacketDropped),
            PacketFate::Sent if matches!(kind, PacketKind::Syn | PacketKind::Data) => {
                if let (Host::Balancer, Host::Backend(place)) = (from, to)
                    && !self.ledger.is_in_use(place)
                {
                    let text =
                        format!("a packet ({kind:?}) goes to {place}, which isn't in the set");
                    self.fail(Law::Barrier, text);
                }
            }
            _ => {}
        }
    }

    /// A link has this fault from now on, or no more.
    pub(super) fn disturb(&mut self, host: Host, fault: LinkFault, is_disturbed: bool) {
        let link = self.links.entry(host).or_default();
        link.faults[fault as usize] = is_disturbed;
        link.disturbances += 1;
    }

    pub(super) fn link(&self, host: Host) -> LinkState {
        self.links.get(&host).copied().unwrap_or_default()
    }

    /// Whether neither link of an attempt was disturbed while it lasted.
    fn is_calm(&self, attempt: &Attempt) -> bool {
        let is_calm =
            |link: LinkState, since| !link.faults.contains(&true) && link.disturbances == since;
        is_calm(self.link(Host::Clients), attempt.calm_since)
            && attempt.session.is_none_or(|serial| {
                let backend = self.link(Host::Backend(self.ledger.place_of(serial)));
                let flow = &self.flows[serial as usize];
                flow.backend.is_none() || is_calm(backend, flow.calm_since)
            })
    }

    /// Whether a stream of the attempt has lost a segment.
    fn is_lossy(&self, attempt: &Attempt) -> bool {
        let flow = attempt.session.and_then(|serial| self.flows.get(serial as usize));
        let ends = [attempt.address, flow.and_then(|flow| flow.backend)];
        ends.into_iter().flatten().any(|end| self.lossy.contains(&end))
    }

    // The nemesis.

    fn trigger(&mut self, on: Trigger, place: Place) {
        if self.is_healed {
            return;
        }
        let scenario = Arc::clone(&self.scenario);
        for (number, rule) in scenario.rules.iter().enumerate() {
            if rule.on != on || self.rules_left[number] == 0 || !self.entropy.chance(rule.chance) {
                continue;
            }
            self.rules_left[number] -= 1;
            self.count(Sometimes::RuleFired);
            if rule.after == 0 && !is_disturbance(rule.act) {
                self.act(number as u32, place);
            } else {
                let at = self.at + u64::from(rule.after) * 1000;
                self.wanted.push_back((at, number as u32, place));
            }
        }
    }

    /// A rule does something to the balancer.
    fn act(&mut self, number: u32, place: Place) {
        self.note(Note::Act(number, place));
        let act = self.scenario.rules[number as usize].act;
        match act {
            Act::Shutdown => self.order_shutdown(0),
            act => {
                let sets = sets_of(act, place, &self.newest, &self.scenario.config);
                self.order_sets(sets);
            }
        }
    }

    /// Does what rules want done by now, and returns what of it is about hosts and links.
    pub(super) fn due(&mut self) -> Vec<(Act, Place)> {
        let mut due = Vec::new();
        for (at, number, place) in mem::take(&mut self.wanted) {
            let act = self.scenario.rules[number as usize].act;
            if at > self.at {
                self.wanted.push_back((at, number, place));
            } else if is_disturbance(act) {
                self.note(Note::Act(number, place));
                due.push((act, place));
            } else {
                self.act(number, place);
            }
        }
        due
    }

    // Looking at it all.

    /// Faults have stopped; clients are told to come to their ends, and have to be woken.
    pub(super) fn heal(&mut self) -> Vec<Waker> {
        self.note(Note::Healed);
        self.is_healed = true;
        self.wanted.clear();
        self.panics.clear();
        let tell = |number: &u32| self.attempts[*number as usize].tell(Word::Close);
        self.live_attempts.iter().filter_map(tell).collect()
    }

    /// Whether the pool is to be looked at.
    pub(super) fn takes_look(&mut self) -> bool {
        mem::take(&mut self.is_dirty)
    }

    /// The balancer's state is what its events say.
    pub(super) fn look(&mut self, snapshot: &Snapshot<Place>) {
        self.ledger.check_loads(snapshot.loads.iter().cloned(), |place| Some(*place));
        self.ledger.check_counts(snapshot.accepted, snapshot.live, snapshot.ended.sum());
        let set = snapshot.set.as_ref().map(backends_of);
        if set.as_ref() != self.ledger.set() {
            self.fail(Law::Order, "the set is another one than the events say".into());
        }
    }

    /// Nothing takes longer than it may.
    pub(super) fn check_times(&mut self) {
        let task = self.patience;
        if self.closes_at.is_some_and(|at| self.at > at + task) {
            if !self.is_shut_down {
                self.fail(Law::Shutdown, "the shutdown doesn't complete".into());
            }
            return;
        }
        self.ledger.check_times();
        if self.is_closing() {
            return;
        }
        if let Some((generation, since)) = self.unapplied.first()
            && self.at > since + task
        {
            let text = format!("replacement {generation} isn't applied");
            self.fail(Law::AppliedInTime, text);
        }
        if self.at > self.said_at + task && self.ledger.set().is_some_and(|set| *set != self.newest)
        {
            let text = "the set isn't the one that was said last".into();
            self.fail(Law::AppliedInTime, text);
        }
        let late = self.live_attempts.iter().find_map(|number| {
            let law = self.is_late(&self.attempts[*number as usize])?;
            Some((*number, law))
        });
        if let Some((number, law)) = late {
            let attempt = &self.attempts[number as usize];
            let text = format!(
                "attempt {number} ({}) began at {} ms and isn't {}; session {:?}",
                attempt.plan,
                attempt.began / 1000,
                if law == Law::Accept { "accepted" } else { "over" },
                attempt.session
            );
            self.fail(law, text);
        }
    }

    /// The law that is broken if an attempt takes any longer.
    fn is_late(&self, attempt: &Attempt) -> Option<Law> {
        let connected_at = attempt.connected_at?;
        if attempt.session.is_none() {
            let since = connected_at.max(self.room_since);
            let is_late = !self.is_full() && self.at > since + self.patience;
            return is_late.then_some(Law::Accept);
        }
        if self.is_lossy(attempt) || !self.is_calm(attempt) {
            return None;
        }
        let config = &self.scenario.config;
        let mut since = connected_at.max(self.room_since);
        if attempt.is_silent() {
            if !self.is_healed {
                return None;
            }
            since = since.max(u64::from(config.duration) * 1000);
        }
        let plan = attempt.plan;
        let round_trip = u64::from(config.latency_max) * 4000 + self.patience;
        let window = u64::from(config.window.min(config.buffer)).max(1);
        let rounds = u64::from(plan.up.max(plan.down)) / window + 4;
        let pieces = u64::from(plan.up + plan.down) / super::PIECE as u64 + 2;
        let dial = u64::from(config.dial_time + config.waiting_timeout) * 1000;
        let pace = u64::from(plan.pace) * 1000 + self.patience;
        let limit = dial + pieces * pace + 2 * rounds * round_trip;
        (self.at > since + limit).then_some(Law::Progress)
    }

    /// Attempts that aren't over and are not excused.
    pub(super) fn unfinished(&self) -> Vec<u32> {
        let is_excused = |number: &&u32| !self.is_lossy(&self.attempts[**number as usize]);
        self.live_attempts.iter().filter(is_excused).copied().collect()
    }

    /// All is quiet: nothing is left but what was excused.
    pub(super) fn check_quiet(&mut self) {
        let unfinished = self.unfinished();
        let excused = self.live_attempts.len() - unfinished.len();
        self.ledger.counts.add(Sometimes::Excused, excused as u64);
        for number in unfinished {
            let plan = self.attempts[number as usize].plan;
            self.fail(Law::Quiet, format!("attempt {number} ({plan}) isn't over"));
        }
        let left: Vec<u64> = (0..self.flows.len() as u64)
            .filter(|serial| !self.ledger.has_ended(*serial))
            .filter(|serial| {
                let attempt = self.flows[*serial as usize].attempt;
                !attempt.is_some_and(|number| self.is_lossy(&self.attempts[number as usize]))
            })
            .collect();
        if !left.is_empty() {
            self.fail(Law::Quiet, format!("sessions {left:?} are left"));
        }
    }

    /// One cycle of probes has reached every backend, if all had room.
    pub(super) fn check_probes(&mut self) {
        let config = &self.scenario.config;
        if self.ledger.live() + config.backends as usize > config.connections as usize {
            return;
        }
        let all: Vec<Place> = (0..config.backends as u8).map(Place).collect();
        let reached = self.probed();
        if reached != all {
            self.fail(Law::Echo, format!("one cycle of new connections reached {reached:?}"));
        }
    }

    /// Everything has ended.
    pub(super) fn check_empty(&mut self) {
        let open: u32 = self.flows.iter().map(|flow| flow.open).sum();
        if open != 0 || self.ledger.live() != 0 {
            let live = self.ledger.live();
            let text =
                format!("{open} connections and {live} sessions are left after the shutdown");
            self.fail(Law::Shutdown, text);
        }
    }
}

/// A set in the scenario's words.
pub(super) fn backends_of(set: &tinylb_core::BackendSet<Place>) -> Backends {
    set.iter().map(|(key, place)| (key_number(key), *place)).collect()
}

/// Whether an act is about hosts and links.
fn is_disturbance(act: Act) -> bool {
    matches!(act, Act::Crash | Act::Bounce | Act::Partition | Act::Hold | Act::Release)
}
