use std::{collections::BTreeMap, sync::Arc, task::Waker, time::Duration};

use slab::Slab;

use super::{
    drain::Drain,
    follow::SourceStatus,
    member::{Membership, Nudge},
    prober::ProberStatus,
    signal::{Signal, Word},
};
use crate::{
    Admission, BackendSet, Balancer, Change, Event, Generation, Limit, ListenerId, Owed, Report,
    SessionId, Settings, Snapshot, Target,
};

/// What is under the lock. Its steps leave behind the tasks to wake and the events to deliver.
pub(super) struct State<T> {
    pub(super) balancer: Balancer<T, Arc<Signal>>,
    pub(super) settings: Arc<Settings>,
    pub(super) lifecycle: Lifecycle,
    pub(super) outbox: Outbox<T>,
    pub(super) wakes: Wakes,
    /// The stop handles of accept loops and background tasks.
    pub(super) tasks: Slab<Task>,
    pub(super) listeners: usize,
    pub(super) next_listener: u64,
    /// An accept loop has found no room since the loops were last nudged.
    pub(super) is_parked: bool,
    /// Accept loops that have found no room and haven't looked again.
    pub(super) parked: usize,
    /// The server's membership in a shared budget.
    pub(super) member: Option<Membership>,
    /// The limit that was reached, and when an accept loop last had to wait for it.
    pub(super) limit_reached: Option<(Limit, Duration)>,
    /// The replacements whose futures wait.
    pub(super) barriers: BTreeMap<Generation, Waker>,
    /// The replacements whose sessions may drain.
    pub(super) drains: BTreeMap<Generation, Drain>,
    /// The shutdowns whose futures wait.
    pub(super) shutdowns: Slab<Option<Waker>>,
    pub(super) set_at: Option<Duration>,
    pub(super) source: SourceStatus,
    pub(super) prober: ProberStatus,
    pub(super) bytes_to_backends: u64,
    pub(super) bytes_to_clients: u64,
}

/// A task that is to end when its signal says so.
pub(super) struct Task {
    pub(super) stop: Arc<Signal>,
    pub(super) is_listener: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifecycle {
    Running,
    /// Nothing is accepted; sessions may finish.
    Closing,
    /// Everything has been aborted.
    Closed,
}

/// Events that wait for delivery, and the acknowledgements that wait for the events before them.
pub(super) struct Outbox<T> {
    pub(super) is_observed: bool,
    pub(super) is_delivering: bool,
    pub(super) next_number: u64,
    pub(super) items: Vec<Item<T>>,
}

pub(super) enum Item<T> {
    Event(u64, Event<T>),
    Owed(Owed),
}

/// Whom to wake once the lock is free.
#[derive(Default)]
pub(super) struct Wakes {
    pub(super) words: Vec<(Arc<Signal>, Word)>,
    pub(super) nudges: Vec<Arc<Signal>>,
    pub(super) wakers: Vec<Waker>,
    /// Other servers that may go on accepting.
    pub(super) servers: Vec<Arc<dyn Nudge>>,
}

impl<T: Target> State<T> {
    pub(super) fn new(settings: Settings, is_observed: bool) -> Self {
        Self {
            balancer: Balancer::new(settings.clone()),
            settings: Arc::new(settings),
            lifecycle: Lifecycle::Running,
            outbox: Outbox { is_observed, is_delivering: false, next_number: 0, items: Vec::new() },
            wakes: Wakes::default(),
            tasks: Slab::new(),
            listeners: 0,
            next_listener: 0,
            is_parked: false,
            parked: 0,
            member: None,
            limit_reached: None,
            barriers: BTreeMap::new(),
            drains: BTreeMap::new(),
            shutdowns: Slab::new(),
            set_at: None,
            source: SourceStatus::default(),
            prober: ProberStatus::default(),
            bytes_to_backends: 0,
            bytes_to_clients: 0,
        }
    }

    /// The state at this moment, with loads in no order.
    pub(super) fn snapshot(&self, now: Duration) -> Snapshot<T> {
        Snapshot {
            set: self.balancer.set().cloned(),
            generation: self.balancer.generation(),
            set_age: self.set_at.map(|at| now.saturating_sub(at)),
            source_lost: self.source.lost.clone(),
            set_held: self.source.held,
            left_out: Arc::clone(&self.source.left_out),
            loads: self.balancer.loads().collect(),
            ejected: self.balancer.ejected(now),
            probes: self.balancer.probes(),
            waiting: self.balancer.waiting(),
            accepted: self.balancer.accepted(),
            live: self.balancer.live(),
            ended: self.balancer.totals().clone(),
            bytes_to_backends: self.bytes_to_backends,
            bytes_to_clients: self.bytes_to_clients,
            limit_reached: self.limit_reached.map(|(limit, _)| limit),
            listeners: self.listeners,
            is_shutting_down: self.lifecycle != Lifecycle::Running,
            settings: Arc::clone(&self.settings),
            absent: self.source.absent.at(now),
        }
    }

    /// Whether another connection may be accepted; if not, the limit that prevents it.
    pub(super) fn room(&mut self) -> Result<(), Limit> {
        let max = self.settings.max_connections;
        if self.balancer.live() >= max {
            // Room in the budget would be of no use.
            self.wakes.servers.extend(self.member.as_ref().and_then(Membership::stop_waiting));
            return Err(Limit::Own(max));
        }
        match &self.member {
            Some(member) if !member.may_admit() => Err(Limit::Shared(member.total())),
            _ => Ok(()),
        }
    }

    /// Admits a client, if there is room, unless the server is shutting down.
    pub(super) fn admit(
        &mut self,
        listener: ListenerId,
        peer: String,
        signal: &Arc<Signal>,
    ) -> Result<Option<(SessionId, Admission<T>)>, Limit> {
        if self.lifecycle != Lifecycle::Running {
            return Ok(None);
        }
        self.take_room()?;
        let (id, admission) = self.balancer.admit(Arc::clone(signal));
        self.outbox.event(|| Event::Accepted { id, listener, peer });
        if let Admission::Dial(pick) = &admission {
            self.outbox.event(|| Event::Admitted { id, pick: pick.clone() });
        }
        Ok(Some((id, admission)))
    }

    /// Counts another connection, if there is room for one.
    fn take_room(&mut self) -> Result<(), Limit> {
        self.room()?;
        let Some(member) = &self.member else { return Ok(()) };
        // Another server may have taken the last.
        let (is_admitted, next) = member.admit();
        self.wakes.servers.extend(next);
        if is_admitted { Ok(()) } else { Err(Limit::Shared(member.total())) }
    }

    /// Notes that the server no longer accepts clients.
    pub(super) fn need_no_room(&mut self) {
        let Some(member) = &self.member else { return };
        self.wakes.servers.extend(member.set_minimum(0));
        self.wakes.servers.extend(member.stop_waiting());
    }

    /// Notes that a connection has ended and its descriptors are closed.
    pub(super) fn give_room(&mut self) {
        self.wakes.servers.extend(self.member.as_ref().and_then(Membership::finish));
    }

    pub(super) fn is_done(&self) -> bool {
        self.lifecycle != Lifecycle::Running && self.listeners == 0 && self.balancer.live() == 0
    }

    /// Whether nothing is left of the server, and its observer has seen that.
    pub(super) fn is_over(&self) -> bool {
        self.is_done() && self.balancer.probes() == 0 && self.outbox.is_idle()
    }

    /// Replaces the set, by a change from the current one. Returns the report, and what to drop
    /// outside the lock.
    pub(super) fn replace(
        &mut self,
        change: Change<T>,
        now: Duration,
    ) -> (Arc<Report>, impl Sized + use<T>) {
        let Ok(replaced) = self.balancer.replace(change, self.settings.removal, now) else {
            unreachable!("the holder of `replacing` has compared with the current set")
        };
        self.set_at = Some(now);
        let report = Arc::new(Report {
            generation: replaced.generation,
            is_change: replaced.is_change,
            backends: self.balancer.set().map_or(0, BackendSet::len),
            added: replaced.added,
            removed: replaced.removed,
            retargeted: replaced.retargeted,
            sessions_cut: replaced.cut.len(),
            dials_revoked: replaced.revoked.len(),
            sessions_draining: replaced.draining,
        });
        if report.is_change {
            let set = self.balancer.set().cloned().unwrap_or_else(BackendSet::empty);
            self.outbox.event(|| Event::SetReplaced { report: Arc::clone(&report), set });
        }
        self.wakes.raise(replaced.cut, Word::Removed);
        self.wakes.raise(replaced.revoked, Word::Revoked);
        self.wakes.raise(replaced.refused, Word::Refused);
        replaced.probes.into_iter().for_each(|probe| self.cancel_probe(probe));
        for (id, pick, signal) in replaced.admitted {
            self.wakes.raise([signal], Word::Admitted);
            self.outbox.event(|| Event::Admitted { id, pick });
        }
        if report.sessions_draining > 0 {
            self.drains.insert(report.generation, Drain::new(now));
        }
        (report, (replaced.before, replaced.spent))
    }

    /// Acknowledges what an attempt owes, once the events so far have been delivered.
    pub(super) fn acknowledge(&mut self, owed: Option<Owed>) {
        match owed {
            Some(owed) if self.outbox.is_observed => self.outbox.items.push(Item::Owed(owed)),
            Some(owed) => self.balancer.acknowledge(owed),
            None => {}
        }
    }

    pub(super) fn stop_tasks(&mut self, which: impl Fn(&Task) -> bool) {
        let stopped = self.tasks.iter().map(|(_, task)| task).filter(|task| which(task));
        self.wakes.raise(stopped.map(|task| Arc::clone(&task.stop)), Word::Closed);
    }

    /// Collects whom the state as it is now concerns.
    pub(super) fn settle(&mut self) {
        self.settle_parked();
        self.settle_health();
        while let Some(barrier) = self.barriers.first_entry()
            && self.balancer.is_applied(*barrier.key())
        {
            self.wakes.wakers.push(barrier.remove());
        }
        if self.is_done() {
            self.stop_tasks(|_| true);
            if self.is_over() {
                self.wakes.wakers.extend(self.shutdowns.iter_mut().filter_map(|(_, w)| w.take()));
            }
        }
    }
}

impl<T> Outbox<T> {
    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty() && !self.is_delivering
    }

    pub(super) fn event(&mut self, event: impl FnOnce() -> Event<T>) {
        if self.is_observed {
            self.items.push(Item::Event(self.next_number, event()));
            self.next_number += 1;
        }
    }
}

impl Wakes {
    pub(super) fn raise(&mut self, signals: impl IntoIterator<Item = Arc<Signal>>, word: Word) {
        self.words.extend(signals.into_iter().map(|signal| (signal, word)));
    }

    pub(super) fn wake(self) {
        self.words.into_iter().for_each(|(signal, word)| signal.raise(word));
        self.nudges.into_iter().for_each(|signal| signal.nudge());
        self.wakers.into_iter().for_each(Waker::wake);
        self.servers.into_iter().for_each(|server| server.nudge());
    }
}
