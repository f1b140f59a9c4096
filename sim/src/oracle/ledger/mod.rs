//! What a balancer may do, decided anew from what it says that it does.

mod health;
mod life;
mod limits;
mod sessions;
mod sets;
mod turns;

use tinylb_core::{EmptySet, Settings};

use self::limits::{DialLimits, Limits};
use super::{
    Law, Violation,
    health::{Health, Stake},
};
use crate::{
    Counts,
    scenario::{Backends, Config, Key, Place},
};

/// A naive balancer beside the one that is judged. It hears of each step, and says whether the step
/// was the right one. It knows neither bytes nor packets.
///
/// Times are microseconds since the beginning.
pub(crate) struct Ledger {
    at: u64,
    /// By the balancer's clock.
    now: u64,
    /// How exactly that is known.
    grain: u64,
    is_fair: bool,
    may_be_unheard: bool,
    /// Other threads may act between a session's decision and what it then does; and no one hears
    /// of the beginnings of probes.
    is_concurrent: bool,
    /// When the set last got backends, after it had none.
    filled_at: u64,
    limits: Limits,
    /// Sessions wait for a set with backends while there is none.
    waits_if_empty: bool,
    start: u64,

    set: Backends,
    has_set: bool,
    /// How many keys each place has.
    keys_of: Vec<u32>,
    /// The key served last.
    anchor: Option<Key>,
    generation: u64,
    sessions: Vec<Account>,
    /// Serials of those that have not ended, in no order.
    live: Vec<u32>,
    waiting: usize,
    loads: Vec<PlaceLoad>,
    /// Replacements that took attempts out, ascending, each with how many have not let go.
    owed: Vec<(u64, u32)>,
    is_closing: bool,
    /// When the server aborts what is left, or has done so.
    closes_at: Option<u64>,
    /// How late a timer may be.
    slack: u64,
    /// When the unfinished drains began, by replacement, ascending.
    drains: Vec<(u64, u64)>,
    /// Until then, if a session's target came back after its deadline, or its deadline was
    /// postponed after it, the session may be kept or cut.
    doubt_until: u64,
    /// The set has just been replaced, and those that waited for one are admitted before anything
    /// else happens.
    serves_waiting: bool,
    health: Health,
    /// How many probes the newest replacement took out.
    probes_taken: usize,
    /// When faults stopped.
    healed_at: Option<u64>,
    violations: Vec<Violation>,
    pub(crate) counts: Counts,
}

/// A scenario has at most 32 backends; a recording may have more.
pub(crate) const PLACES: usize = 32;

/// How late a timer may be in a simulation: the clock's grain, and a task that has to wait for the
/// others.
pub(crate) const SLACK: u64 = 30_000;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct PlaceLoad {
    dialling: u32,
    connected: u32,
}

/// What the ledger knows of a session.
struct Account {
    phase: Phase,
    key: Key,
    place: Place,
    /// The places whose dials failed.
    tried: Tried,
    /// What it may have tried instead, if that isn't sure.
    or_tried: Vec<Tried>,
    failures: u32,
    /// Its place among the live.
    live_at: u32,
    /// When it began to wait or to dial for the first time.
    began: u64,
    /// The limits of its dials, once it has begun to dial.
    dial_limits: Option<DialLimits>,
    /// When this attempt's dial began; 0: not yet.
    dial_began: u64,
    /// The target's dial is to panic.
    may_panic: bool,
    /// Its target came back after the deadline of its drain, or the deadline was postponed after it
    /// had passed; the deadline may have come first.
    is_doubtful: bool,
    /// What its attempt has to do with its target's health.
    stake: Stake,
    /// How many of its dials were given up, so that it goes elsewhere.
    moves: u32,
    /// Its next attempt goes elsewhere, since the one before was given up.
    is_moving: bool,
    /// Microseconds that don't count as time to dial: of dials that were given up, and of waiting for
    /// a set.
    unpaid: u64,
    /// Since when it waits although it may go elsewhere.
    stuck_since: Option<u64>,
    /// Since when it waits for a set with backends, or is about to, after an attempt that was revoked.
    waits_since: Option<u64>,
}

/// The few places that a session has tried, ascending.
#[derive(Clone, Default, PartialEq)]
struct Tried(Vec<Place>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Accepted, and no more is known.
    New,
    Waiting,
    /// It waited in vain, and is about to end: the set was empty, or the server has closed.
    Refused,
    Dialling,
    /// The dial has failed; still in the pool until the next attempt.
    Failed,
    /// Taken out by this replacement while it dialled.
    Revoked(u64),
    Connected,
    /// Since this replacement, until this time.
    Draining(u64, u64),
    /// Taken out by this replacement.
    Cut(u64),
    /// Taken out by the deadline of this replacement's drain.
    Expired(u64),
    /// Taken out since its target was silent, after this replacement.
    Silenced(u64),
    Ended,
}

impl Account {
    /// All that it may have tried.
    fn all_tried(&self) -> impl Iterator<Item = &Tried> {
        self.or_tried.iter().chain([&self.tried])
    }

    fn all_tried_mut(&mut self) -> impl Iterator<Item = &mut Tried> {
        self.or_tried.iter_mut().chain([&mut self.tried])
    }
}

impl Tried {
    fn has(&self, place: Place) -> bool {
        self.0.contains(&place)
    }

    fn add(&mut self, place: Place) {
        if let Err(at) = self.0.binary_search(&place) {
            self.0.insert(at, place);
        }
    }

    fn remove(&mut self, place: Place) {
        self.0.retain(|tried| *tried != place);
    }
}

impl Phase {
    /// Whether bytes may move in it, or may have moved just before.
    fn may_move(self) -> bool {
        matches!(
            self,
            Self::Connected
                | Self::Draining(..)
                | Self::Cut(_)
                | Self::Expired(_)
                | Self::Silenced(_)
        )
    }
}

/// What a replacement reports that it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported {
    pub(crate) generation: u64,
    pub(crate) cut: usize,
    pub(crate) revoked: usize,
    pub(crate) draining: usize,
}

impl Ledger {
    pub(crate) fn new(config: &Config) -> Self {
        Self::for_settings(&config.settings())
    }

    /// For a balancer with these settings.
    pub(crate) fn for_settings(settings: &Settings) -> Self {
        Self {
            at: 0,
            now: 0,
            grain: 0,
            is_fair: true,
            may_be_unheard: false,
            is_concurrent: false,
            filled_at: 0,
            limits: Limits::new(settings),
            waits_if_empty: settings.empty == EmptySet::Wait,
            start: settings.start,
            set: Vec::new(),
            has_set: false,
            keys_of: vec![0; PLACES],
            anchor: None,
            generation: 0,
            sessions: Vec::new(),
            live: Vec::new(),
            waiting: 0,
            loads: vec![PlaceLoad::default(); PLACES],
            owed: Vec::new(),
            is_closing: false,
            closes_at: None,
            slack: SLACK,
            drains: Vec::new(),
            doubt_until: 0,
            serves_waiting: false,
            health: Health::for_settings(settings),
            probes_taken: 0,
            healed_at: None,
            violations: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Doesn't ask for turns in key order: for a policy that chooses otherwise.
    pub(crate) fn allow_any_order(&mut self) {
        self.is_fair = false;
    }

    /// Lets replacements go unheard of that change nothing.
    pub(crate) fn allow_unheard(&mut self) {
        self.may_be_unheard = true;
    }

    /// Judges what threads do that run at the same time, by events alone. There are this many places.
    pub(crate) fn allow_concurrent(&mut self, places: usize) {
        (self.is_concurrent, self.may_be_unheard) = (true, true);
        self.keys_of = vec![0; places];
        self.loads = vec![PlaceLoad::default(); places];
    }

    /// Lets timers be this late, in microseconds.
    pub(crate) fn set_slack(&mut self, slack: u64) {
        self.slack = slack;
    }

    /// What comes now happens at this time.
    pub(crate) fn set_time(&mut self, at: u64) {
        self.at = at;
        self.now = self.now.max(at);
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// The set, once there is one.
    pub(crate) fn set(&self) -> Option<&Backends> {
        self.has_set.then_some(&self.set)
    }

    /// Whether the balancer may move bytes for a session.
    pub(crate) fn may_move(&self, serial: u64) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| session.phase.may_move())
    }

    fn places(&self) -> impl Iterator<Item = Place> + use<> {
        (0..self.loads.len() as u16).map(Place)
    }

    /// Whether a session may have, or await, a connection to this place.
    pub(crate) fn is_at(&self, serial: u64, place: Place) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| {
            let is_dialling = matches!(session.phase, Phase::Dialling | Phase::Revoked(_));
            session.place == place && (is_dialling || session.phase.may_move())
        })
    }

    /// How many sessions were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.sessions.len() as u64
    }

    pub(crate) fn has_ended(&self, serial: u64) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| session.phase == Phase::Ended)
    }

    /// Whether the balancer may have to do with a place: it is in the set, or a session is there
    /// that drains or hasn't let go yet.
    pub(crate) fn is_in_use(&self, place: Place) -> bool {
        self.keys_of[usize::from(place.0)] > 0
            || self.health.is_probed(place)
            || self.live.iter().any(|serial| {
                let session = &self.sessions[*serial as usize];
                let may_be_there = matches!(
                    session.phase,
                    Phase::Draining(..)
                        | Phase::Cut(_)
                        | Phase::Expired(_)
                        | Phase::Revoked(_)
                        | Phase::Failed
                );
                session.place == place && may_be_there
            })
    }

    /// The target of a session's newest attempt; b0 if there was none.
    pub(crate) fn place_of(&self, serial: u64) -> Place {
        self.sessions.get(serial as usize).map_or(Place(0), |session| session.place)
    }

    /// Where a session is served, if it is connected.
    pub(crate) fn connected_place(&self, serial: u64) -> Option<Place> {
        let session = self.sessions.get(serial as usize)?;
        matches!(session.phase, Phase::Connected | Phase::Draining(..)).then_some(session.place)
    }

    pub(crate) fn fail(&mut self, law: Law, text: String) {
        self.violations.push(Violation { at: self.at, law, text });
    }
}
