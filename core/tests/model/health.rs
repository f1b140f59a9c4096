//! The model's part about targets that don't accept connections.

use std::{collections::BTreeMap, mem};

use tinylb_core::Fault;

use super::naive::{Done, Naive, Place, State};

/// Times of the model, in milliseconds: the defaults of the settings.
pub const DIAL_TIMEOUT: u64 = 3000;
pub const PATIENCE: u64 = 250;
pub const INTERVAL_MIN: u64 = 250;
pub const INTERVAL_MAX: u64 = 5000;
pub const BURST: u64 = 100;
/// Not the defaults: small, so that sequences reach them.
pub const PROBES_MAX: usize = 2;
pub const CUT_SILENT: u64 = 1000;
/// How often a session's dials may be given up.
pub const MOVES_MAX: u32 = 8;

/// What the model knows of a target.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its last connect took this long.
    pub took: u64,
    pub ejection: Option<Ejection>,
    /// When it last returned, and how many probes had had a result.
    pub returned: Option<(u64, u32)>,
}

#[derive(Clone, Debug)]
pub struct Ejection {
    pub since: u64,
    pub fault: Fault,
    /// Probes that have had a result, those before a short return included.
    pub number: u32,
    /// The next probe is due in this range.
    pub due: (u64, u64),
    /// Since when it has answered nothing, and whether another has answered meanwhile.
    pub silence: Option<(u64, bool)>,
    pub is_cut: bool,
}

/// How a probe ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Succeeded(u64),
    Failed(Fault),
    Cancelled,
}

/// A probe that is under way.
#[derive(Clone, Debug)]
pub struct Probing {
    pub place: Place,
    pub kill: u32,
    pub owes: Option<u64>,
    /// It is no longer wanted, and a notice has asked for its end.
    pub is_cancelled: bool,
}

impl Naive {
    pub fn patience(&self, place: Place) -> u64 {
        let took = self.known.get(&place).map_or(0, |known| known.took);
        PATIENCE.max(took * 3).min(DIAL_TIMEOUT)
    }

    /// Whether the session is to give its dial up; `None` if it has none.
    pub fn overdue(&mut self, serial: u64) -> Option<bool> {
        let session = self.sessions.get_mut(&serial)?;
        if session.state != State::Dialling {
            return None;
        }
        session.is_overdue = true;
        let (has_rival, place) = (session.has_rival, session.pick?.1);
        self.failed(place, Fault::TimedOut, !has_rival);
        let eligible = self.in_rotation();
        let session = self.sessions.get_mut(&serial)?;
        if !session.is_moving && session.moves < MOVES_MAX {
            let is_other = |at: &Place| *at != place && !session.tried.contains(at);
            session.is_moving = eligible.values().any(is_other);
            session.moves += u32::from(session.is_moving);
        }
        Some(session.is_moving)
    }

    pub fn dial_failed(&mut self, serial: u64, fault: Fault, lasted: u64) {
        let Some(session) = self.sessions.get(&serial) else { return };
        let (has_rival, Some((_, place))) = (session.has_rival, session.pick) else { return };
        let is_too_short = fault == Fault::TimedOut && lasted < self.patience(place);
        if session.state == State::Dialling && !is_too_short {
            self.failed(place, fault, !has_rival);
        }
    }

    fn failed(&mut self, place: Place, fault: Fault, is_news: bool) {
        let is_answer = matches!(fault, Fault::Refused | Fault::Reset);
        let now = self.now;
        if is_answer {
            let known = self.known.entry(place).or_default();
            if let Some(ejection) = &mut known.ejection {
                (ejection.silence, ejection.is_cut) = (None, false);
            }
            self.answered();
        }
        if fault == Fault::Ours || !is_news {
            return;
        }
        let known = self.known.entry(place).or_default();
        if let Some(ejection) = &mut known.ejection {
            if !is_answer && ejection.silence.is_none() {
                ejection.silence = Some((now, false));
            }
            return;
        }
        if !self.ejects {
            return;
        }
        let (number, due) = match known.returned {
            Some((at, number)) if now < at + 2 * INTERVAL_MAX => {
                let (from, to) = interval(number.saturating_sub(1));
                (number, (now + from, now + to))
            }
            _ => (0, (now, now)),
        };
        known.ejection = Some(Ejection {
            since: now,
            fault,
            number,
            due,
            silence: (!is_answer).then_some((now, false)),
            is_cut: false,
        });
        self.ejected.push((place, fault));
        self.reconsider |= self.are_all_ejected();
    }

    /// Some target has answered, and its own silence has ended before.
    fn answered(&mut self) {
        let ejections = self.known.values_mut().filter_map(|known| known.ejection.as_mut());
        let silences = ejections.filter_map(|ejection| ejection.silence.as_mut());
        silences.for_each(|(_, has_other_answered)| *has_other_answered = true);
    }

    pub fn succeeded(&mut self, place: Place, took: u64) {
        for session in self.sessions.values_mut() {
            let is_at = session.pick.is_some_and(|(_, at)| at == place);
            session.has_rival |= session.state == State::Dialling && is_at;
        }
        if took < 1000 {
            self.known.entry(place).or_default().took = took;
        }
        let were_all_ejected = self.are_all_ejected();
        if self.is_ejected(place) {
            self.returns(place);
            if were_all_ejected {
                self.probe_all_soon();
            }
        }
        self.answered();
    }

    fn returns(&mut self, place: Place) {
        let now = self.now;
        let known = self.known.entry(place).or_default();
        let Some(ejection) = known.ejection.take() else { return };
        known.returned = Some((now, ejection.number));
        self.returned.push((place, now - ejection.since));
        self.reconsider = true;
        self.cancel(place);
    }

    /// Nobody is ejected any more.
    pub fn return_all(&mut self) {
        let places: Vec<Place> = self.known.keys().copied().collect();
        places.into_iter().for_each(|place| self.returns(place));
        self.reconsider = true;
    }

    fn cancel(&mut self, place: Place) {
        for probe in self.probes.iter_mut().filter(|probe| probe.place == place) {
            probe.is_cancelled |= probe.owes.is_none();
        }
    }

    fn probe_all_soon(&mut self) {
        let now = self.now;
        let places: Vec<Place> = self.known.keys().copied().collect();
        for place in places {
            let is_probed = self.is_probed(place);
            let Some(known) = self.known.get_mut(&place) else { continue };
            let Some(ejection) = &mut known.ejection else { continue };
            if is_probed {
                ejection.due = (now, now + BURST);
                self.cancel(place);
            } else {
                let (from, to) = ejection.due;
                ejection.due = (from.min(now), to.min(now + BURST));
            }
        }
    }

    pub fn is_probed(&self, place: Place) -> bool {
        self.probes.iter().any(|probe| probe.place == place && probe.owes.is_none())
    }

    /// A probe of this target begins.
    pub fn start_probe(&mut self, place: Place, kill: u32) {
        let now = self.now;
        if let Some(ejection) = self.known.entry(place).or_default().ejection.as_mut() {
            let (from, to) = interval(ejection.number);
            ejection.due = (now + from, now + to);
        }
        self.probes.push(Probing { place, kill, owes: None, is_cancelled: false });
    }

    /// A probe has ended. Returns what it owes.
    pub fn end_probe(&mut self, at: usize, end: End) -> Option<u64> {
        let probe = self.probes.remove(at);
        let known = self.known.get_mut(&probe.place).filter(|_| probe.owes.is_none());
        if let Some(ejection) = known.and_then(|known| known.ejection.as_mut()) {
            ejection.number += u32::from(!matches!(end, End::Cancelled));
        }
        match end {
            _ if probe.owes.is_some() => {}
            End::Succeeded(took) => self.succeeded(probe.place, took),
            End::Failed(fault) if self.is_ejected(probe.place) => {
                self.failed(probe.place, fault, true);
            }
            End::Failed(_) | End::Cancelled => {}
        }
        probe.owes
    }

    /// Whose sessions are cut: their kill handles, ascending.
    pub fn cut_silent(&mut self) -> Vec<u32> {
        let mut kills = Vec::new();
        for (place, known) in &mut self.known {
            let Some(ejection) = &mut known.ejection else { continue };
            let is_over = ejection.silence.is_some_and(|(since, has_other_answered)| {
                since + CUT_SILENT <= self.now && has_other_answered
            });
            if !is_over || mem::replace(&mut ejection.is_cut, true) {
                continue;
            }
            for session in self.sessions.values_mut() {
                let is_at = session.pick.is_some_and(|(_, at)| at == *place);
                if is_at && session.state == State::Connected {
                    kills.extend(session.take_out(self.generation));
                }
            }
        }
        kills.sort_unstable();
        kills
    }

    /// The kill handles of those who may wait no longer, in the order of acceptance.
    pub fn configure(&mut self, may_wait: bool, ejects: bool) -> Vec<u32> {
        (self.may_wait, self.ejects) = (may_wait, ejects);
        if !ejects {
            self.return_all();
        }
        let mut done = Done::default();
        if self.set.as_ref().is_some_and(BTreeMap::is_empty) {
            self.serve_waiting(&mut done);
        }
        done.refused
    }
}

/// The pause after the probe of this number, at the least and at the most.
fn interval(number: u32) -> (u64, u64) {
    let whole = INTERVAL_MIN.saturating_mul(1 << number.min(20)).min(INTERVAL_MAX);
    (whole / 2, whole)
}
