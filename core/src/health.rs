use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use slab::Slab;

use crate::{Fault, Generation, SessionId, Settings, Target, pool::NONE, spread::fraction};

/// A connect that took this long says nothing of the distance: TCP sends its first packet again after
/// a second (RFC 6298), so that one was lost, or came to a target that was down then.
const RETRANSMISSION: Duration = Duration::from_secs(1);

/// When the first of all ejected targets has returned, the others are probed within this time.
const BURST: Duration = Duration::from_millis(100);

/// What is known of targets beyond that they are in the set: which targets are ejected, and which
/// probes are under way. The cycle knows which keys are skipped; the [`Balancer`] keeps the two in
/// step.
///
/// There is a record only of targets that are ejected, were so not long ago, or are slow.
///
/// [`Balancer`]: crate::Balancer
pub(crate) struct Health<T, K> {
    records: BTreeMap<T, Record>,
    /// The next probe of each ejected target that has none under way.
    due: BTreeSet<(Duration, T)>,
    /// The ejected targets that answer nothing, by when that began, until their sessions are cut.
    silent: BTreeSet<(Silence, T)>,
    /// How often any target has answered.
    answers: u64,
    probes: Slab<UnderWay<T, K>>,
    /// How many probes have begun, ever.
    begun: u64,
    notices: Vec<Notice<T>>,
}

struct Record {
    /// The target's index in the current set.
    index: u32,
    /// How long its last connect took; zero if that was fast.
    took: Duration,
    ejection: Option<Ejection>,
    /// When it last returned, and how many probes had had a result.
    returned: Option<(Duration, u32)>,
    /// The probe that is under way, perhaps one that has been cancelled.
    probe: Option<ProbeId>,
}

struct Ejection {
    since: Duration,
    fault: Fault,
    /// How many probes have had a result, in one numbering: the number of the probe that is next or
    /// under way, which the pause after it depends on.
    number: u32,
    /// When the next probe is due. It waits for the one that is under way.
    due: Duration,
    /// While the target answers nothing.
    silence: Option<Silence>,
}

/// Since when a target has answered nothing, and how often others had answered then. The one that
/// began first has the least of both.
type Silence = (Duration, u64);

struct UnderWay<T, K> {
    id: ProbeId,
    target: T,
    kill: K,
    /// The replacement that removed the target, and waits for the probe to let go.
    owed: Option<Generation>,
}

/// Identifies one probe of a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeId {
    serial: u64,
    slot: u32,
}

/// A probe to start: see [`Balancer::start_probe`](crate::Balancer::start_probe).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the balancer waits for the end of the probe"]
pub struct Probe<T> {
    /// Its number.
    pub id: ProbeId,
    /// The target to dial.
    pub target: T,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeEnd {
    /// The target accepted the connection, which took this long.
    Succeeded(Duration),
    /// It didn't.
    Failed(Fault),
    /// The probe was given up before it had a result.
    Cancelled,
}

/// What a step has found out about targets, or wants of the driver: see
/// [`Balancer::take_notices`](crate::Balancer::take_notices).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<T> {
    /// The target is ejected.
    Ejected {
        /// The target.
        target: T,
        /// What it did.
        fault: Fault,
    },
    /// The target is in rotation again.
    Returned {
        /// The target.
        target: T,
        /// Time since it was ejected.
        ejected_for: Duration,
    },
    /// There may be another target for a session whose dial has outlived its patience: ask
    /// [`Balancer::overdue`](crate::Balancer::overdue) again.
    Reconsider(SessionId),
    /// The probe is no longer wanted: give it up.
    Cancel(ProbeId),
}

/// A target that is ejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejected<T> {
    /// The target.
    pub target: T,
    /// Why it was ejected.
    pub fault: Fault,
    /// Time since then.
    pub ejected_for: Duration,
    /// Time until the next probe is due; `None` while one is under way.
    pub next_probe: Option<Duration>,
}

impl<T: Target, K> Health<T, K> {
    pub(crate) fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            due: BTreeSet::new(),
            silent: BTreeSet::new(),
            answers: 0,
            probes: Slab::new(),
            begun: 0,
            notices: Vec::new(),
        }
    }

    /// How long a dial to a target may go unanswered, before that says something of the target.
    pub(crate) fn patience(&self, target: &T, settings: &Settings) -> Duration {
        let took = self.records.get(target).map_or(Duration::ZERO, |record| record.took);
        let patience = settings.dial_patience.unwrap_or(settings.dial_timeout);
        patience.max(took * 3).min(settings.dial_timeout)
    }

    pub(crate) fn is_ejected(&self, target: &T) -> bool {
        self.records.get(target).is_some_and(|record| record.ejection.is_some())
    }

    pub(crate) fn notice(&mut self, notice: Notice<T>) {
        self.notices.push(notice);
    }

    pub(crate) fn take_notices(&mut self) -> Vec<Notice<T>> {
        mem::take(&mut self.notices)
    }

    /// Notes a fault. `is_news`: nothing has succeeded since the attempt began, so that the fault
    /// says something of the present. Returns whether the target is ejected by it.
    pub(crate) fn failed(
        &mut self,
        (target, index): (&T, u32),
        fault: Fault,
        is_news: bool,
        now: Duration,
        settings: &Settings,
    ) -> bool {
        if fault.is_answer() {
            self.answered(target);
        }
        if fault == Fault::Ours || !is_news {
            return false;
        }
        if self.is_ejected(target) {
            self.falls_silent(target, fault, now);
            return false;
        }
        if !settings.ejection {
            return false;
        }
        let record = self.records.entry(target.clone()).or_insert(Record::new(index));
        let flaps_until = |(at, _): &(Duration, u32)| *at + settings.probe_interval_max * 2;
        let (number, due) = match record.returned.filter(|returned| now < flaps_until(returned)) {
            Some((_, number)) => {
                let last = number.saturating_sub(1);
                (number, now + pause(settings, target, last))
            }
            None => (0, now),
        };
        record.ejection = Some(Ejection { since: now, fault, number, due, silence: None });
        if record.probe.is_none() {
            self.due.insert((due, target.clone()));
        }
        self.falls_silent(target, fault, now);
        self.notices.push(Notice::Ejected { target: target.clone(), fault });
        true
    }

    /// Notes a connect that took this long. Returns whether the target returns by it.
    pub(crate) fn succeeded(
        &mut self,
        (target, index): (&T, u32),
        took: Duration,
        now: Duration,
        settings: &Settings,
    ) -> bool {
        self.answers += 1;
        let is_slow = took < RETRANSMISSION
            && settings.dial_patience.is_some_and(|patience| took * 3 > patience);
        if !is_slow && self.records.is_empty() {
            return false;
        }
        if is_slow {
            self.records.entry(target.clone()).or_insert(Record::new(index));
        }
        let Some(record) = self.records.get_mut(target) else { return false };
        if took < RETRANSMISSION {
            record.took = if is_slow { took } else { Duration::ZERO };
        }
        if record.ejection.is_none() {
            if !record.is_needed(now, settings) {
                self.records.remove(target);
            }
            return false;
        }
        self.returns(target, now);
        true
    }

    fn returns(&mut self, target: &T, now: Duration) {
        self.end_silence(target);
        let Some(record) = self.records.get_mut(target) else { return };
        let Some(ejection) = record.ejection.take() else { return };
        record.returned = Some((now, ejection.number));
        self.due.remove(&(ejection.due, target.clone()));
        self.notices.extend(record.probe.map(Notice::Cancel));
        let ejected_for = now.saturating_sub(ejection.since);
        self.notices.push(Notice::Returned { target: target.clone(), ejected_for });
    }

    /// Returns every target, since ejection has been turned off. Their indices.
    pub(crate) fn return_all(&mut self, now: Duration) -> Vec<u32> {
        let is_ejected = |(target, record): (&T, &Record)| {
            record.ejection.is_some().then(|| (target.clone(), record.index))
        };
        let ejected: Vec<(T, u32)> = self.records.iter().filter_map(is_ejected).collect();
        ejected.iter().for_each(|(target, _)| self.returns(target, now));
        ejected.into_iter().map(|(_, index)| index).collect()
    }

    fn answered(&mut self, target: &T) {
        self.answers += 1;
        self.end_silence(target);
    }

    fn end_silence(&mut self, target: &T) {
        let record = self.records.get_mut(target);
        let ejection = record.and_then(|record| record.ejection.as_mut());
        if let Some(silence) = ejection.and_then(|ejection| ejection.silence.take()) {
            self.silent.remove(&(silence, target.clone()));
        }
    }

    /// Notes a fault of a target that is ejected, which begins a silence if it is no answer.
    fn falls_silent(&mut self, target: &T, fault: Fault, now: Duration) {
        let record = self.records.get_mut(target);
        let Some(ejection) = record.and_then(|record| record.ejection.as_mut()) else { return };
        if !fault.is_answer() && ejection.silence.is_none() {
            let silence = (now, self.answers);
            ejection.silence = Some(silence);
            self.silent.insert((silence, target.clone()));
        }
    }

    /// The longest silence of a target, if another has answered meanwhile. If none has, then none has
    /// since the others fell silent, either.
    fn longest_silence(&self) -> Option<&(Silence, T)> {
        self.silent.first().filter(|((_, answers), _)| self.answers > *answers)
    }

    /// All were ejected, and one has returned: has the others probed soon, and anew if they are
    /// being probed, since that dial may have to wait for a lost packet to be sent again.
    pub(crate) fn probe_all_soon(&mut self, now: Duration, settings: &Settings) {
        for (target, record) in &mut self.records {
            let Some(ejection) = &mut record.ejection else { continue };
            let due = now + BURST.mul_f64(fraction(settings.seed, target, u32::MAX));
            if record.probe.is_some() {
                self.notices.extend(record.probe.map(Notice::Cancel));
                ejection.due = due;
            } else if due < ejection.due {
                self.due.remove(&(ejection.due, target.clone()));
                ejection.due = due;
                self.due.insert((due, target.clone()));
            }
        }
    }

    /// The pauses between probes may be shorter from now on, also those that have begun.
    pub(crate) fn hasten(&mut self, now: Duration, settings: &Settings) {
        for (target, record) in &mut self.records {
            let Some(ejection) = &mut record.ejection else { continue };
            let begun = ejection.number.saturating_add(record.probe.is_some().into());
            let due = now + pause(settings, target, begun.saturating_sub(1));
            if due < ejection.due {
                if self.due.remove(&(ejection.due, target.clone())) {
                    self.due.insert((due, target.clone()));
                }
                ejection.due = due;
            }
        }
    }

    /// When [`Self::start_probe`] or [`Self::next_silent`] next has something to do.
    pub(crate) fn due(&self, settings: &Settings) -> Option<Duration> {
        let may_probe = self.probes.len() < settings.probes_max;
        let probe = self.due.first().filter(|_| may_probe).map(|(due, _)| *due);
        let limit = settings.cut_silent;
        let cut = self.longest_silence().zip(limit).map(|(((since, _), _), limit)| *since + limit);
        probe.into_iter().chain(cut).min()
    }

    pub(crate) fn start_probe(
        &mut self,
        now: Duration,
        kill: impl FnOnce() -> K,
        settings: &Settings,
    ) -> Option<Probe<T>> {
        let is_due = self.due.first().is_some_and(|(due, _)| *due <= now);
        if !is_due || self.probes.len() >= settings.probes_max {
            return None;
        }
        let (_, target) = self.due.pop_first()?;
        debug_assert!(self.is_ejected(&target), "only ejected targets have a probe that is due");
        let record = self.records.get_mut(&target)?;
        debug_assert!(record.probe.is_none(), "a target with a probe under way has none due");
        let ejection = record.ejection.as_mut()?;
        ejection.due = now + pause(settings, &target, ejection.number);
        let entry = self.probes.vacant_entry();
        let id = ProbeId { serial: self.begun, slot: entry.key() as u32 };
        entry.insert(UnderWay { id, target: target.clone(), kill: kill(), owed: None });
        self.begun += 1;
        record.probe = Some(id);
        Some(Probe { id, target })
    }

    /// Forgets a probe that has ended. Its target, with its index, unless a replacement has removed
    /// that; or what the probe owes.
    pub(crate) fn end_probe(
        &mut self,
        id: ProbeId,
        end: ProbeEnd,
    ) -> Option<Result<(T, u32), Generation>> {
        self.kill_of(id)?;
        let probe = self.probes.remove(id.slot as usize);
        if let Some(generation) = probe.owed {
            return Some(Err(generation));
        }
        let record = self.records.get_mut(&probe.target).filter(|it| it.probe == Some(id));
        debug_assert!(record.is_some(), "the record of a target that is being probed is gone");
        let record = record?;
        record.probe = None;
        if let Some(ejection) = &mut record.ejection {
            // One that was given up may never have left the machine.
            let has_result = end != ProbeEnd::Cancelled;
            ejection.number = ejection.number.saturating_add(has_result.into());
            self.due.insert((ejection.due, probe.target.clone()));
        }
        Some(Ok((probe.target, record.index)))
    }

    pub(crate) fn kill_of(&self, id: ProbeId) -> Option<&K> {
        let probe = self.probes.get(id.slot as usize).filter(|probe| probe.id == id);
        probe.map(|probe| &probe.kill)
    }

    /// A target whose sessions are to be cut, since it answers nothing and another does.
    pub(crate) fn next_silent(&mut self, now: Duration, settings: &Settings) -> Option<u32> {
        let ((since, _), _) = self.longest_silence()?;
        if *since + settings.cut_silent? > now {
            return None;
        }
        let (_, target) = self.silent.pop_first()?;
        let record = self.records.get(&target);
        debug_assert!(record.is_some(), "the record of a silent target is gone");
        record.map(|record| record.index)
    }

    /// Follows a change of the set. Returns the probes that are revoked, and the indices in the new
    /// set of the targets that stay ejected.
    pub(crate) fn retarget(
        &mut self,
        moved: &[u32],
        generation: Generation,
        now: Duration,
        settings: &Settings,
    ) -> (Vec<ProbeId>, Vec<u32>) {
        let (mut revoked, mut ejected) = (Vec::new(), Vec::new());
        self.records.retain(|target, record| {
            record.index = moved[record.index as usize];
            let stays = record.index != NONE;
            if let Some(ejection) = &record.ejection {
                if stays {
                    ejected.push(record.index);
                } else {
                    self.due.remove(&(ejection.due, target.clone()));
                    let silent = ejection.silence.map(|silence| (silence, target.clone()));
                    silent.map(|silent| self.silent.remove(&silent));
                }
            }
            if !stays && let Some(id) = record.probe {
                self.probes[id.slot as usize].owed = Some(generation);
                revoked.push(id);
            }
            stays && record.is_needed(now, settings)
        });
        (revoked, ejected)
    }

    /// The ejected targets, ascending.
    pub(crate) fn ejected(&self, now: Duration) -> Vec<Ejected<T>> {
        let ejected = |(target, record): (&T, &Record)| {
            record.ejection.as_ref().map(|ejection| Ejected {
                target: target.clone(),
                fault: ejection.fault,
                ejected_for: now.saturating_sub(ejection.since),
                next_probe: match record.probe {
                    Some(_) => None,
                    None => Some(ejection.due.saturating_sub(now)),
                },
            })
        };
        self.records.iter().filter_map(ejected).collect()
    }

    /// How many probes are under way.
    pub(crate) fn probes(&self) -> usize {
        self.probes.len()
    }
}

impl Record {
    fn new(index: u32) -> Self {
        Self { index, took: Duration::ZERO, ejection: None, returned: None, probe: None }
    }

    /// Whether it says anything that a target without a record doesn't.
    fn is_needed(&self, now: Duration, settings: &Settings) -> bool {
        let flaps_until = settings.probe_interval_max * 2;
        self.ejection.is_some()
            || self.probe.is_some()
            || !self.took.is_zero()
            || self.returned.is_some_and(|(at, _)| now < at + flaps_until)
    }
}

/// The pause from the start of the probe with this number to the start of the next.
fn pause<T: Target>(settings: &Settings, target: &T, number: u32) -> Duration {
    let doubled =
        1_u32.checked_shl(number).and_then(|n| settings.probe_interval_min.checked_mul(n));
    let whole = doubled.unwrap_or(Duration::MAX).min(settings.probe_interval_max);
    whole.mul_f64(0.5 + fraction(settings.seed, target, number) / 2.0)
}
