//! The policy that ships.

use std::time::Duration;

use tinylb_core::{
    Admission, BackendKey, BackendSet, Balancer, Change, EndReason, Fault, Generation, Load,
    Notice, ProbeEnd, ProbeId, Refusal, Removal, SessionId, Settings,
};

use super::{Finding, Policy, Taken, Verdict};
use crate::scenario::{Backends, Config, Key, Place, backend_key, key_number};

/// The policy that ships: [`tinylb_core::Balancer`].
pub struct Rotation {
    balancer: Balancer<Place, u32>,
    ids: Vec<SessionId>,
    probes: Vec<ProbeId>,
    keys: Vec<BackendKey>,
    /// By number, from 1.
    generations: Vec<Generation>,
}

impl Rotation {
    /// The balancer that a configuration asks for.
    pub fn new(config: &Config) -> Self {
        Self {
            balancer: Balancer::new(config.settings()),
            ids: Vec::new(),
            probes: Vec::new(),
            keys: (0..=255).map(|number| backend_key(Key(number))).collect(),
            generations: Vec::new(),
        }
    }
}

impl Rotation {
    /// The number of a probe, which is its kill handle too.
    fn probe(&self, id: ProbeId) -> u32 {
        self.balancer.probe_handle(id).copied().unwrap_or(u32::MAX)
    }
}

fn verdict(admission: Admission<Place>) -> Verdict {
    match admission {
        Admission::Dial(pick) => Verdict::Dial(key_number(&pick.key), pick.target),
        Admission::Wait => Verdict::Wait,
        Admission::Refused(refusal) => Verdict::End(reason_of(refusal)),
    }
}

fn reason_of(refusal: Refusal) -> EndReason {
    match refusal {
        Refusal::NoBackends => EndReason::NoBackends,
        Refusal::WaitingFull => EndReason::WaitingFull,
        _ => EndReason::Shutdown,
    }
}

impl Policy for Rotation {
    fn admit(&mut self, session: u32) -> Verdict {
        let (id, admission) = self.balancer.admit(session);
        self.ids.push(id);
        verdict(admission)
    }

    fn connected(&mut self, session: u32, took: Duration, now: Duration) -> bool {
        self.balancer.connected(self.ids[session as usize], took, now)
    }

    fn retry(&mut self, session: u32) -> Verdict {
        let (admission, owed) = self.balancer.retry(self.ids[session as usize], session);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
        verdict(admission)
    }

    fn finish(&mut self, session: u32, reason: EndReason) {
        let owed = self.balancer.finish(self.ids[session as usize], reason);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
    }

    fn replace(&mut self, set: &Backends, removal: Removal, now: Duration) -> Taken {
        let backends = set.iter().map(|(key, at)| (self.keys[usize::from(key.0)].clone(), *at));
        let Ok(set) = BackendSet::new(backends) else { return Taken::default() };
        let change = Change::between(self.balancer.set().cloned(), set);
        let Ok(replaced) = self.balancer.replace(change, removal, now) else {
            return Taken::default();
        };
        self.generations.push(replaced.generation);
        Taken {
            generation: replaced.generation.number(),
            is_change: replaced.is_change,
            cut: replaced.cut,
            revoked: replaced.revoked,
            probes: replaced.probes.iter().map(|probe| self.probe(*probe)).collect(),
            draining: replaced.draining,
            admitted: replaced
                .admitted
                .iter()
                .map(|(id, pick, _)| (id.serial() as u32, key_number(&pick.key), pick.target))
                .collect(),
            refused: replaced.refused,
        }
    }

    fn drain_expired(&mut self, generation: u64) -> Vec<u32> {
        self.balancer.drain_expired(self.generations[generation as usize - 1])
    }

    fn abort_all(&mut self) -> Vec<u32> {
        self.balancer.abort_all()
    }

    fn is_applied(&self, generation: u64) -> bool {
        self.balancer.is_applied(self.generations[generation as usize - 1])
    }

    fn reset_cycle(&mut self) {
        self.balancer.reset_cycle();
    }

    fn loads(&self) -> impl Iterator<Item = Load<Place>> {
        self.balancer.loads()
    }

    fn counts(&self) -> (u64, usize, u64) {
        let ended = self.balancer.totals().sum();
        (self.balancer.accepted(), self.balancer.live(), ended)
    }

    fn ejects(&self) -> bool {
        true
    }

    fn patience(&self, session: u32) -> Option<Duration> {
        self.balancer.patience(self.ids[session as usize])
    }

    fn overdue(&mut self, session: u32, now: Duration) -> bool {
        self.balancer.overdue(self.ids[session as usize], now)
    }

    fn dial_failed(&mut self, session: u32, fault: Fault, lasted: Duration, now: Duration) {
        self.balancer.dial_failed(self.ids[session as usize], fault, lasted, now);
    }

    fn findings(&mut self) -> Vec<Finding> {
        let notices = self.balancer.take_notices().into_iter();
        let finding = |notice| match notice {
            Notice::Ejected { target, fault } => Finding::Ejected(target, fault),
            Notice::Returned { target, ejected_for } => Finding::Returned(target, ejected_for),
            Notice::Reconsider(id) => Finding::Reconsider(id.serial() as u32),
            Notice::Cancel(probe) => Finding::Cancel(self.probe(probe)),
        };
        notices.map(finding).collect()
    }

    fn due(&self) -> Option<Duration> {
        self.balancer.due()
    }

    fn start_probe(&mut self, probe: u32, now: Duration) -> Option<Place> {
        let started = self.balancer.start_probe(now, || probe)?;
        self.probes.push(started.id);
        Some(started.target)
    }

    fn probe_ended(&mut self, probe: u32, end: ProbeEnd, now: Duration) {
        let owed = self.balancer.probe_ended(self.probes[probe as usize], end, now);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
    }

    fn cut_silent(&mut self, now: Duration) -> Vec<u32> {
        self.balancer.cut_silent(now)
    }

    fn configure(&mut self, settings: &Settings, now: Duration) {
        let refused = self.balancer.configure(settings.clone(), now);
        debug_assert!(refused.is_empty(), "who may wait doesn't change");
    }

    fn ejected(&self) -> (Vec<Place>, usize) {
        let ejected = self.balancer.ejected(Duration::ZERO);
        (ejected.into_iter().map(|ejected| ejected.target).collect(), self.balancer.probes())
    }
}
