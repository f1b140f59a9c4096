//! When things happen: the scenario's steps, then the healing, the probes and the shutdown.

use std::{collections::BTreeSet, io, sync::Arc, task::Waker, time::Duration};

use super::{
    World,
    judge::{Judge, LinkFault},
    orders::{ClientOrder, Order, Visit},
};
use crate::{
    Outcome, Scenario,
    oracle::SLACK,
    scenario::{AcceptError, Leaving, Link, Operation, Place, all},
    trace::{Host, Note},
};

/// Leads a scenario's run. Whoever moves time calls [`Self::advance`] again and again, and does
/// what it returns, until [`Self::is_over`].
pub struct Director {
    world: World,
    scenario: Arc<Scenario>,
    next_step: usize,
    phase: RunPhase,
    down: BTreeSet<Place>,
    /// Links that aren't whole, and slow ones.
    cut: Vec<Link>,
    slow: Vec<Link>,
    advances: u64,
    /// After which a client that has left is known of, in microseconds.
    round_trip: u64,
}

/// Something to be done to hosts and links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Cut the link in both directions.
    Partition(Link),
    /// Cut the link from the balancer.
    CutTo(Link),
    /// Cut the link to the balancer.
    CutFrom(Link),
    /// Hold what is on the link.
    Hold(Link),
    /// Make the link whole.
    Release(Link),
    /// Let messages on the link take this many milliseconds.
    Latency(Link, u32),
    /// End the backend's process, as the system would: [`serve`](super::serve) is dropped.
    Crash(Place),
    /// Start it again.
    Start(Place),
}

/// In microseconds: from when on it may be over, and until when it may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunPhase {
    Running,
    /// Faults have stopped; all that has begun is to come to its end.
    Settling(u64, u64),
    /// New connections are to reach every backend.
    Probing(u64),
    /// The balancer shuts down.
    Closing(u64),
    Over,
}

/// How long the clients' and the balancer's ends may take when nothing is wrong any more.
const SETTLING: u64 = 20_000_000;
const PROBING: u64 = 5_000_000;
const CLOSING_GRACE: u32 = 50;

impl Director {
    /// `patience`: how long a task that can go on may take to do so.
    pub fn new(scenario: &Scenario, patience: Duration, keep_trace: bool) -> Self {
        let scenario = Arc::new(scenario.clone());
        let patience = patience.as_micros() as u64;
        let latencies = scenario.steps.iter().filter_map(|step| match step.operation {
            Operation::Latency(_, time) => Some(time),
            _ => None,
        });
        let slowest = latencies.fold(scenario.config.latency_max, u32::max);
        let round_trip = u64::from(slowest) * 2000 + 2 * SLACK;
        let judge = Judge::new(Arc::clone(&scenario), patience, keep_trace);
        Self {
            world: World::new(judge),
            scenario,
            next_step: 0,
            phase: RunPhase::Running,
            down: BTreeSet::new(),
            cut: Vec::new(),
            slow: Vec::new(),
            advances: 0,
            round_trip,
        }
    }

    /// What all that takes part shares.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Whether the run has come to its end, or a law was broken.
    pub fn is_over(&self) -> bool {
        self.phase == RunPhase::Over
    }

    /// It is so late now. Looks at everything, and says what is to be done to hosts and links.
    pub fn advance(&mut self, now: Duration) -> Vec<Disturbance> {
        self.world.set_time(now);
        self.advances += 1;
        self.look();
        let mut disturbances = Vec::new();
        let at = now.as_micros() as u64;
        match self.phase {
            RunPhase::Running => {
                self.run_steps(at, &mut disturbances);
                if at >= u64::from(self.scenario.config.duration) * 1000 {
                    self.heal(&mut disturbances);
                    self.phase = RunPhase::Settling(at + self.round_trip, at + SETTLING);
                }
            }
            RunPhase::Settling(from, until) => self.settle(at, from, until),
            RunPhase::Probing(until) => {
                let are_over = self.world.judge().unfinished().is_empty();
                if are_over || at >= until {
                    let mut judge = self.world.judge();
                    judge.check_probes();
                    judge.check_quiet();
                    drop(judge);
                    self.close(at);
                }
            }
            RunPhase::Closing(until) => {
                let mut judge = self.world.judge();
                if judge.is_shut_down() || at >= until {
                    judge.check_empty();
                    self.phase = RunPhase::Over;
                }
            }
            RunPhase::Over => {}
        }
        if self.world.has_failed() {
            self.phase = RunPhase::Over;
        }
        disturbances
    }

    /// Ends the run, which took this many steps of time.
    pub fn finish(self, steps: u64) -> Outcome {
        // It keeps the server's state, which keeps the world.
        drop(self.world.take_handle());
        let mut judge = self.world.judge();
        judge.outcome(steps)
    }

    fn look(&mut self) {
        if self.world.judge().takes_look()
            && let Some(handle) = self.world.handle()
        {
            let snapshot = handle.snapshot();
            self.world.judge().look(&snapshot);
        }
        if self.advances.is_multiple_of(4) {
            self.world.judge().check_times();
        }
    }

    fn run_steps(&mut self, at: u64, disturbances: &mut Vec<Disturbance>) {
        let scenario = Arc::clone(&self.scenario);
        while let Some(step) = scenario.steps.get(self.next_step)
            && u64::from(step.at) * 1000 <= at
        {
            self.world.judge().note(Note::Step(self.next_step as u32));
            self.next_step += 1;
            self.operate(&step.operation, disturbances);
        }
        let due = self.world.judge().due();
        due.iter().for_each(|operation| self.disturb(operation, disturbances));
    }

    fn operate(&mut self, operation: &Operation, disturbances: &mut Vec<Disturbance>) {
        let mut judge = self.world.judge();
        match operation {
            Operation::Replace(set) => judge.order_sets(vec![set.clone()]),
            Operation::Flap(set) => {
                let before = judge.newest().clone();
                judge.order_sets(vec![set.clone(), before]);
            }
            Operation::Again => {
                let set = judge.newest().clone();
                judge.order_sets(vec![set]);
            }
            Operation::LoseSource => judge.lose_source(),
            Operation::Spoil => judge.spoil(),
            Operation::Connect(count, plan) => judge.cues().visit(Visit::Connect(*count, *plan)),
            Operation::Leave(how) => {
                let order = match how {
                    Leaving::Close => ClientOrder::Close,
                    Leaving::Abort => ClientOrder::Abort,
                };
                let wakers = judge.leave(order);
                drop(judge);
                wakers.into_iter().for_each(Waker::wake);
            }
            Operation::FailAccept(count, error) => {
                let error = || match error {
                    AcceptError::Aborted => io::ErrorKind::ConnectionAborted.into(),
                    AcceptError::NoDescriptors => io::Error::from_raw_os_error(24),
                };
                let waker = judge.cues().fail_accepts((0..*count).map(|_| error()));
                drop(judge);
                waker.into_iter().for_each(Waker::wake);
            }
            Operation::PanicDial(place) => judge.cues().panic_next_dial(*place),
            Operation::FailDial(place, count, error) => {
                judge.cues().fail_dials(*place, *count, *error);
            }
            Operation::Check(place, reply, after) => {
                judge.cues().let_checks_find(*place, *reply, *after);
            }
            Operation::Ejection(is_on) => judge.cues().order(Order::Ejection(*is_on)),
            Operation::Set(setting, value) => judge.cues().order(Order::Set(*setting, *value)),
            Operation::Drain(time) => judge.cues().order(Order::Drain(*time)),
            Operation::ResetCycle => judge.cues().order(Order::ResetCycle),
            Operation::Shutdown(grace) => judge.cues().order(Order::Shutdown(*grace)),
            disturbance => {
                drop(judge);
                self.disturb(disturbance, disturbances);
            }
        }
    }

    fn disturb(&mut self, operation: &Operation, disturbances: &mut Vec<Disturbance>) {
        match *operation {
            Operation::Partition(link) => {
                self.cut(Disturbance::Partition(link), link, disturbances);
            }
            Operation::CutTo(link) => self.cut(Disturbance::CutTo(link), link, disturbances),
            Operation::CutFrom(link) => self.cut(Disturbance::CutFrom(link), link, disturbances),
            Operation::Hold(link) => self.cut(Disturbance::Hold(link), link, disturbances),
            Operation::Release(link) => self.release(link, disturbances),
            Operation::Latency(link, time) => self.slow_down(link, time, disturbances),
            Operation::Crash(place) => self.crash(place, disturbances),
            Operation::PowerLoss(place) => {
                let link = Link::Backend(place);
                self.cut(Disturbance::Partition(link), link, disturbances);
                self.crash(place, disturbances);
            }
            Operation::Bounce(place) => self.bounce(place, disturbances),
            _ => {}
        }
    }

    fn cut(&mut self, how: Disturbance, link: Link, disturbances: &mut Vec<Disturbance>) {
        self.world.judge().disturb(host_of(link), LinkFault::Cut, true);
        if self.cut.contains(&link) {
            // One fault of a link at a time.
            disturbances.push(Disturbance::Release(link));
        } else {
            self.cut.push(link);
        }
        disturbances.push(how);
    }

    fn release(&mut self, link: Link, disturbances: &mut Vec<Disturbance>) {
        if self.cut.contains(&link) {
            self.cut.retain(|cut| *cut != link);
            self.world.judge().disturb(host_of(link), LinkFault::Cut, false);
            disturbances.push(Disturbance::Release(link));
        }
    }

    fn slow_down(&mut self, link: Link, time: u32, disturbances: &mut Vec<Disturbance>) {
        self.slow.retain(|slow| *slow != link);
        let is_usual = time == self.scenario.config.latency_max;
        if !is_usual {
            self.slow.push(link);
        }
        self.world.judge().disturb(host_of(link), LinkFault::Slow, !is_usual);
        disturbances.push(Disturbance::Latency(link, time));
    }

    fn crash(&mut self, place: Place, disturbances: &mut Vec<Disturbance>) {
        if self.down.insert(place) {
            let mut judge = self.world.judge();
            judge.disturb(Host::Backend(place), LinkFault::Down, true);
            judge.crashed(place);
            disturbances.push(Disturbance::Crash(place));
        }
    }

    fn bounce(&mut self, place: Place, disturbances: &mut Vec<Disturbance>) {
        self.release(Link::Backend(place), disturbances);
        if self.down.remove(&place) {
            self.world.judge().disturb(Host::Backend(place), LinkFault::Down, false);
            disturbances.push(Disturbance::Start(place));
        }
    }

    /// Undoes every fault, and says the set that stays.
    fn heal(&mut self, disturbances: &mut Vec<Disturbance>) {
        for link in self.cut.clone() {
            self.release(link, disturbances);
        }
        for link in self.slow.clone() {
            self.slow_down(link, self.scenario.config.latency_max, disturbances);
        }
        for place in self.down.clone() {
            self.bounce(place, disturbances);
        }
        let mut judge = self.world.judge();
        judge.order_sets(vec![all(&self.scenario.config)]);
        if judge.have_settings_changed() {
            judge.cues().order(Order::SetBack);
        }
        let wakers = judge.heal();
        drop(judge);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn settle(&mut self, at: u64, from: u64, until: u64) {
        let mut judge = self.world.judge();
        if at < from || !judge.unfinished().is_empty() && at < until {
            return;
        }
        let is_ready = !judge.has_ejected() && !judge.awaits_checks();
        if !is_ready && !judge.is_closing() && at < until {
            return;
        }
        if judge.is_closing() {
            judge.check_quiet();
            drop(judge);
            return self.close(at);
        }
        judge.cues().visit(Visit::Probe(self.scenario.config.backends));
        self.phase = RunPhase::Probing(at + PROBING);
    }

    /// A second shutdown aborts at once.
    fn close(&mut self, at: u64) {
        self.world.judge().cues().order(Order::Shutdown(CLOSING_GRACE));
        self.phase = RunPhase::Closing(at + SETTLING);
    }
}

/// The host at a link's far end.
fn host_of(link: Link) -> Host {
    match link {
        Link::Backend(place) => Host::Backend(place),
        Link::Clients => Host::Clients,
    }
}
