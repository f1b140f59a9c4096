//! A policy of one's own, judged by the scenarios that judge the one that ships: each client goes
//! to the backend with the fewest sessions.
//!
//!     cargo run --release -p tinylb-sim --example own_policy
#![allow(clippy::print_stdout)]

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use tinylb_core::{EndReason, Load, Removal, Settings};
use tinylb_sim::{
    Profile, Scenario,
    decisions::{self, Policy, Taken, Verdict},
    scenario::{Backends, Config, Place},
};

fn main() -> ExitCode {
    for seed in 0..2_000 {
        let mut scenario = Scenario::from_seed(&Profile::FAST, seed);
        // It has nobody wait but for the first set.
        scenario.config.empty_waits = 0;
        let outcome = decisions::run_policy(&scenario, Fewest::new(&scenario.config), false);
        if let Some(violation) = outcome.violations.first() {
            println!("seed {seed}: {violation}");
            return ExitCode::FAILURE;
        }
    }
    println!("2000 scenarios, and no law was broken");
    ExitCode::SUCCESS
}

/// Sends each client to the backend with the fewest sessions.
struct Fewest {
    set: Option<Backends>,
    generation: u64,
    sessions: Vec<Session>,
    waiting_max: usize,
    ended: u64,
    is_closed: bool,
}

struct Session {
    phase: Phase,
    place: Place,
    /// Whose dial has failed.
    tried: Vec<Place>,
    /// The replacement that waits for it to let go.
    owed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Dialling,
    Connected,
    /// Since this replacement.
    Draining(u64),
    /// Taken out: it is to end, or to try again.
    Out,
    Ended,
}

impl Fewest {
    fn new(config: &Config) -> Self {
        let waiting_max = config.waiting as usize;
        Self {
            set: None,
            generation: 0,
            sessions: Vec::new(),
            waiting_max,
            ended: 0,
            is_closed: false,
        }
    }

    fn pick(&mut self, session: u32) -> Verdict {
        let set = match &self.set {
            _ if self.is_closed => return Verdict::End(EndReason::Shutdown),
            Some(set) if !set.is_empty() => set,
            _ => return Verdict::End(EndReason::NoBackends),
        };
        let tried = &mut self.sessions[session as usize].tried;
        if set.iter().all(|(_, place)| tried.contains(place)) {
            tried.clear();
        }
        let tried = &self.sessions[session as usize].tried;
        let count =
            |place| self.sessions.iter().filter(|s| s.is_pooled() && s.place == place).count();
        let untried = set.iter().filter(|(_, place)| !tried.contains(place));
        match untried.min_by_key(|(_, place)| count(*place)).copied() {
            Some((key, place)) => {
                let session = &mut self.sessions[session as usize];
                (session.phase, session.place) = (Phase::Dialling, place);
                Verdict::Dial(key, place)
            }
            None => Verdict::End(EndReason::DialFailed),
        }
    }

    /// Takes out the sessions that are such, for this replacement: their numbers.
    fn take_out(&mut self, generation: u64, is_one: impl Fn(&Session) -> bool) -> Vec<u32> {
        let mut out = Vec::new();
        for (number, session) in self.sessions.iter_mut().enumerate() {
            if is_one(session) {
                session.phase = Phase::Out;
                session.owed = Some(generation);
                out.push(number as u32);
            }
        }
        out
    }
}

impl Session {
    fn is_pooled(&self) -> bool {
        matches!(self.phase, Phase::Dialling | Phase::Connected | Phase::Draining(_))
    }
}

impl Policy for Fewest {
    fn admit(&mut self, session: u32) -> Verdict {
        let waiting = self.sessions.iter().filter(|s| s.phase == Phase::Waiting).count();
        let phase = Phase::Waiting;
        self.sessions.push(Session { phase, place: Place(0), tried: Vec::new(), owed: None });
        match self.set {
            Some(_) => self.pick(session),
            None if waiting < self.waiting_max => Verdict::Wait,
            None => Verdict::End(EndReason::WaitingFull),
        }
    }

    fn connected(&mut self, session: u32, _took: Duration, _now: Duration) -> bool {
        let session = &mut self.sessions[session as usize];
        let may = session.phase == Phase::Dialling;
        if may {
            session.phase = Phase::Connected;
        }
        may
    }

    fn retry(&mut self, session: u32) -> Verdict {
        let record = &mut self.sessions[session as usize];
        if record.phase == Phase::Dialling {
            record.tried.push(record.place);
        }
        record.phase = Phase::Out;
        record.owed = None;
        self.pick(session)
    }

    fn finish(&mut self, session: u32, _reason: EndReason) {
        let session = &mut self.sessions[session as usize];
        (session.phase, session.owed) = (Phase::Ended, None);
        self.ended += 1;
    }

    fn replace(&mut self, set: &Backends, removal: Removal, _now: Duration) -> Taken {
        self.generation += 1;
        let generation = self.generation;
        let before = self.set.replace(set.clone());
        let mut taken =
            Taken { generation, is_change: before.as_ref() != Some(set), ..Taken::default() };
        let stays = |session: &Session| set.iter().any(|(_, place)| *place == session.place);
        let leaves = |session: &Session, phase| session.phase == phase && !stays(session);
        for session in &mut self.sessions {
            if matches!(session.phase, Phase::Draining(_)) && stays(session) {
                session.phase = Phase::Connected;
            } else if removal != Removal::Abort && leaves(session, Phase::Connected) {
                session.phase = Phase::Draining(generation);
                taken.draining += 1;
            }
        }
        taken.cut = self.take_out(generation, |session| leaves(session, Phase::Connected));
        taken.revoked = self.take_out(generation, |session| leaves(session, Phase::Dialling));
        for session in 0..self.sessions.len() as u32 {
            if self.sessions[session as usize].phase == Phase::Waiting && before.is_none() {
                match self.pick(session) {
                    Verdict::Dial(key, place) => taken.admitted.push((session, key, place)),
                    _ => {
                        self.sessions[session as usize].phase = Phase::Out;
                        taken.refused.push(session);
                    }
                }
            }
        }
        taken
    }

    fn drain_expired(&mut self, generation: u64) -> Vec<u32> {
        self.take_out(generation, |session| session.phase == Phase::Draining(generation))
    }

    fn abort_all(&mut self) -> Vec<u32> {
        self.is_closed = true;
        let waits = |session: &Session| session.phase == Phase::Waiting;
        self.take_out(self.generation, |session| session.is_pooled() || waits(session))
    }

    fn is_applied(&self, generation: u64) -> bool {
        self.sessions.iter().all(|session| session.owed.is_none_or(|owed| owed > generation))
    }

    fn configure(&mut self, settings: &Settings, _now: Duration) {
        self.waiting_max = settings.waiting_max;
    }

    /// It has no turns.
    fn reset_cycle(&mut self) {}

    fn loads(&self) -> impl Iterator<Item = Load<Place>> {
        let mut loads = BTreeMap::new();
        for session in self.sessions.iter().filter(|session| session.is_pooled()) {
            let load = loads.entry(session.place).or_insert(Load {
                target: session.place,
                dialling: 0,
                connected: 0,
                is_draining: matches!(session.phase, Phase::Draining(_)),
            });
            match session.phase {
                Phase::Dialling => load.dialling += 1,
                _ => load.connected += 1,
            }
        }
        loads.into_values()
    }

    fn counts(&self) -> (u64, usize, u64) {
        let accepted = self.sessions.len() as u64;
        (accepted, (accepted - self.ended) as usize, self.ended)
    }

    fn is_round_robin(&self) -> bool {
        false
    }
}
