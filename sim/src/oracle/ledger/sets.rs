//! What replacements do, and what they wait for.

use super::{Ledger, Phase, Reported};
use crate::{Law, Sometimes, scenario::Backends};

impl Ledger {
    /// The set was replaced by this one; `drain_until`: what sessions of removed targets may do.
    pub(crate) fn replaced(
        &mut self,
        set: &Backends,
        reported: Reported,
        drain_until: Option<u64>,
    ) {
        self.repeated(reported.generation);
        let generation = reported.generation;
        let mut keys_of = vec![0; self.keys_of.len()];
        for (_, place) in set {
            keys_of[usize::from(place.0)] += 1;
        }
        let (mut cut, mut revoked, mut draining, mut refused) = (0, 0, 0, 0);
        let (mut kept, mut shared, mut interrupted) = (0, 0, 0);
        let was_in_doubt = self.is_in_doubt();
        let is_empty_wait = set.is_empty() && self.waits_if_empty;
        let silenced: Vec<_> = self.places().filter(|place| self.may_be_silenced(*place)).collect();
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            session.is_doubtful |= silenced.contains(&session.place);
            let session_place = session.place;
            let place = usize::from(session_place.0);
            let stays = keys_of[place] > 0;
            match session.phase {
                Phase::Dialling | Phase::Failed if !stays => {
                    // What had failed already counts as revoked, and isn't tried.
                    if session.phase == Phase::Failed {
                        session.all_tried_mut().for_each(|tried| tried.remove(session_place));
                    }
                    session.phase = Phase::Revoked(generation);
                    session.waits_since = is_empty_wait.then_some(self.at);
                    self.loads[place].dialling -= 1;
                    revoked += 1;
                }
                Phase::Connected if !stays => match drain_until {
                    Some(until) => {
                        session.phase = Phase::Draining(generation, until);
                        draining += 1;
                    }
                    None => {
                        session.phase = Phase::Cut(generation);
                        self.loads[place].connected -= 1;
                        cut += 1;
                    }
                },
                Phase::Draining(_, until) if stays => {
                    session.phase = Phase::Connected;
                    let may_be_over = self.at + self.slack >= until;
                    session.is_doubtful = may_be_over || session.is_doubtful && was_in_doubt;
                    if may_be_over {
                        self.doubt_until = self.at + self.slack;
                    }
                    interrupted += 1;
                }
                Phase::Dialling => kept += 1,
                Phase::Connected if keys_of[place] < self.keys_of[place] => shared += 1,
                Phase::Revoked(_) if is_empty_wait => {
                    session.waits_since.get_or_insert(self.at);
                }
                Phase::Waiting if set.is_empty() && !is_empty_wait => {
                    session.phase = Phase::Refused;
                    refused += 1;
                }
                _ => {}
            }
        }
        self.waiting -= refused;
        for (what, times) in [
            (Sometimes::CutSession, cut),
            (Sometimes::RevokedDial, revoked),
            (Sometimes::KeptDial, kept),
            (Sometimes::SharedTargetKept, shared),
            (Sometimes::DrainInterrupted, interrupted),
        ] {
            self.counts.add(what, times as u64);
        }
        let probes = self.health.replaced(set, generation);
        self.probes_taken = probes;
        self.counts.add(Sometimes::ProbeRevoked, probes as u64);
        self.owe(generation, (cut + revoked + probes) as u32);
        if draining > 0 {
            self.drains.push((generation, self.at));
        }
        if self.set.is_empty() && !set.is_empty() {
            self.filled_at = self.at;
        }
        self.set.clone_from(set);
        self.serves_waiting = !set.is_empty();
        self.keys_of = keys_of;
        self.has_set = true;
        let is_report_wrong =
            (cut, revoked, draining) != (reported.cut, reported.revoked, reported.draining);
        let is_in_doubt = self.is_in_doubt() || !silenced.is_empty();
        if is_report_wrong && !self.has_closed() && !is_in_doubt {
            let text = format!(
                "replacement {generation} says that it cut {}, revoked {} and drains {}, and it \
                 had to cut {cut}, revoke {revoked} and drain {draining}",
                reported.cut, reported.revoked, reported.draining
            );
            self.fail(Law::Report, text);
        }
    }

    /// A replacement that changes nothing.
    pub(crate) fn repeated(&mut self, generation: u64) {
        let is_next = match self.may_be_unheard {
            true => generation > self.generation,
            false => generation == self.generation + 1,
        };
        if !is_next {
            let text = format!("replacement {generation} came after {}", self.generation);
            self.fail(Law::Order, text);
        }
        self.generation = generation;
    }

    /// Sessions of removed targets may drain for this long from now on, including those that
    /// already drain.
    pub(crate) fn drains_change(&mut self, time: u64) {
        let (at, slack, was_in_doubt) = (self.at, self.slack, self.is_in_doubt());
        let mut counts = [(Sometimes::DrainShortened, 0), (Sometimes::DrainProlonged, 0)];
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            let Phase::Draining(generation, until) = session.phase else { continue };
            let Ok(drain) = self.drains.binary_search_by_key(&generation, |(number, _)| *number)
            else {
                continue;
            };
            let now_until = (self.drains[drain].1 + time).max(at);
            session.phase = Phase::Draining(generation, now_until);
            let may_be_over = at + slack >= until && now_until > until;
            session.is_doubtful = may_be_over || session.is_doubtful && was_in_doubt;
            if may_be_over {
                self.doubt_until = at + slack;
            }
            counts[0].1 += u64::from(now_until < until);
            counts[1].1 += u64::from(now_until > until);
        }
        counts.into_iter().for_each(|(what, times)| self.counts.add(what, times));
    }

    /// When a replacement's drain must be over, if it takes this long.
    pub(crate) fn drain_until(&self, generation: u64, time: u64) -> Option<u64> {
        let drain = self.drains.iter().find(|(number, _)| *number == generation)?;
        Some(drain.1 + time)
    }

    /// The deadline of a replacement's drain has come; how many sessions were taken out.
    pub(crate) fn drain_expired(&mut self, generation: u64, taken: usize) {
        self.drains.retain(|(number, _)| *number != generation);
        let mut due = 0;
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            if matches!(session.phase, Phase::Draining(since, _) if since == generation) {
                session.phase = Phase::Expired(generation);
                self.loads[usize::from(session.place.0)].connected -= 1;
                due += 1;
            }
        }
        self.owe(generation, due);
        if due as usize != taken {
            let text = format!("the deadline of {generation} took out {taken} sessions, not {due}");
            self.fail(Law::Kept, text);
        }
    }

    /// A replacement says that it is applied.
    pub(crate) fn applied(&mut self, generation: u64) {
        // Of a session that waits again there is no word, and it has let go by then.
        let waits = |serial: &u32| {
            let session = &self.sessions[*serial as usize];
            let is_taken = matches!(session.phase, Phase::Revoked(by) if by <= generation);
            is_taken && session.waits_since.is_some() && self.set.is_empty()
        };
        let waiting: Vec<_> = self.live.iter().copied().filter(waits).collect();
        waiting.into_iter().for_each(|serial| self.waits(u64::from(serial)));
        if let Some((owing, count)) = self.owed.first().filter(|(owing, _)| *owing <= generation) {
            let text = format!(
                "replacement {generation} is reported as applied, and {count} attempts taken out \
                 by {owing} have not let go"
            );
            self.fail(Law::Barrier, text);
        }
    }

    /// These are the attempts that a replacement took out: each of them, and no other.
    pub(crate) fn check_taken(&mut self, generation: u64, taken: impl Iterator<Item = u32>) {
        for serial in taken {
            let phase = self.sessions[serial as usize].phase;
            if !matches!(phase, Phase::Cut(by) | Phase::Revoked(by) if by == generation) {
                let text = format!("replacement {generation} took out session {serial}: {phase:?}");
                self.fail(Law::Kept, text);
            }
        }
    }

    /// Whether a replacement has to count as applied: nothing is owed to it or those before.
    pub(crate) fn is_applied(&self, generation: u64) -> bool {
        self.owed.first().is_none_or(|(owing, _)| *owing > generation)
    }

    /// Whether a deadline and a replacement came at about the same time, and either may have been
    /// first: what the deadline cut is known only when it has ended.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.at < self.doubt_until
    }

    /// An attempt or a probe that a replacement took out has let go.
    pub(super) fn acknowledged(&mut self, generation: u64) {
        if let Some(at) = self.owed.iter().position(|(number, _)| *number == generation) {
            self.owed[at].1 -= 1;
            if self.owed[at].1 == 0 {
                self.owed.remove(at);
            }
        }
    }

    pub(super) fn owe(&mut self, generation: u64, count: u32) {
        let at = self.owed.partition_point(|(number, _)| *number < generation);
        match self.owed.get_mut(at) {
            Some((number, owed)) if *number == generation => *owed += count,
            _ if count == 0 => {}
            _ => self.owed.insert(at, (generation, count)),
        }
    }
}
