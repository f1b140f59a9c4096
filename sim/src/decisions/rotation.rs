//! The policy that ships.

use std::time::Duration;

use tinylb_core::{
    Admission, BackendKey, BackendSet, Balancer, Change, EndReason, Generation, Load, Refusal,
    Removal, SessionId, Settings,
};

use super::{Policy, Taken, Verdict};
use crate::scenario::{Backends, Config, Key, Place, backend_key, key_number};

/// The policy that ships: [`tinylb_core::Balancer`].
pub struct Rotation {
    balancer: Balancer<Place, u32>,
    ids: Vec<SessionId>,
    keys: Vec<BackendKey>,
    /// By number, from 1.
    generations: Vec<Generation>,
}

impl Rotation {
    /// The balancer that a configuration asks for.
    pub fn new(config: &Config) -> Self {
        let mut settings = Settings::default();
        settings.start = u64::from(config.start);
        settings.waiting_max = config.waiting as usize;
        Self {
            balancer: Balancer::new(settings),
            ids: Vec::new(),
            keys: (0..=u8::MAX).map(|number| backend_key(Key(number))).collect(),
            generations: Vec::new(),
        }
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
        match admission {
            Admission::Dial(pick) => Verdict::Dial(key_number(&pick.key), pick.target),
            Admission::Wait => Verdict::Wait,
            Admission::Refused(refusal) => Verdict::End(reason_of(refusal)),
        }
    }

    fn connected(&mut self, session: u32) -> bool {
        self.balancer.connected(self.ids[session as usize], Duration::ZERO, Duration::ZERO)
    }

    fn retry(&mut self, session: u32) -> Verdict {
        let (pick, owed) = self.balancer.retry(self.ids[session as usize], session);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
        match pick {
            Admission::Dial(pick) => Verdict::Dial(key_number(&pick.key), pick.target),
            Admission::Wait => Verdict::Wait,
            Admission::Refused(refusal) => Verdict::End(reason_of(refusal)),
        }
    }

    fn finish(&mut self, session: u32, reason: EndReason) {
        let owed = self.balancer.finish(self.ids[session as usize], reason);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
    }

    fn replace(&mut self, set: &Backends, removal: Removal) -> Taken {
        let backends = set.iter().map(|(key, at)| (self.keys[usize::from(key.0)].clone(), *at));
        let Ok(set) = BackendSet::new(backends) else { return Taken::default() };
        let change = Change::between(self.balancer.set().cloned(), set);
        let Ok(replaced) = self.balancer.replace(change, removal, Duration::ZERO) else {
            return Taken::default();
        };
        self.generations.push(replaced.generation);
        Taken {
            generation: replaced.generation.number(),
            is_change: replaced.is_change,
            cut: replaced.cut,
            revoked: replaced.revoked,
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
}
