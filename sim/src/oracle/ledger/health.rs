//! What the balancer makes of targets that don't accept connections.

use tinylb_core::Fault;

use super::{Ledger, Phase, Tried};
use crate::{
    Law, Sometimes,
    oracle::{
        Judged,
        health::{MOVES_MAX, Stake, Way},
    },
    scenario::Place,
};

impl Ledger {
    /// What comes now happens at this time on the balancer's clock, which is more exact than
    /// [`Self::set_time`] and may be ahead of it.
    pub(crate) fn set_now(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Takes the times of [`Self::set_now`] to be known no better than this.
    pub(crate) fn set_grain(&mut self, grain: u64) {
        self.grain = grain;
        self.health.set_grain(grain);
    }

    /// Asks for no ejection: for a policy that knows none.
    pub(crate) fn allow_no_ejection(&mut self) {
        self.health.turn_off();
    }

    /// Targets are ejected from now on, or no more.
    pub(crate) fn set_ejection(&mut self, is_on: bool) {
        self.health.set_ejection(self.now, is_on);
    }

    /// Faults have stopped: from now on, each target accepts connections.
    pub(crate) fn healed(&mut self) {
        self.healed_at = Some(self.at);
    }

    /// Until when every target has to be in rotation again, once faults have stopped.
    pub(crate) fn return_max(&self) -> u64 {
        self.health.return_max()
    }

    // Dials.

    /// The balancer says how long the dial of a session's attempt may go unanswered.
    pub(crate) fn check_patience(&mut self, serial: u64, answer: Option<u64>) {
        let stake = self.sessions[serial as usize].stake;
        let due = stake.patience;
        if answer != due {
            let text = format!(
                "session {serial} may wait for {} for {answer:?}, not {due:?}",
                stake.place
            );
            self.fail(Law::Wait, text);
        }
    }

    /// A replacement says that it took out this many probes.
    pub(crate) fn check_probes_taken(&mut self, reported: usize) {
        let due = self.probes_taken;
        if reported != due {
            self.fail(Law::Report, format!("{reported} probes are given up, not {due}"));
        }
    }

    /// The balancer looks at a session's dial that has outlived its patience.
    pub(crate) fn overdue(&mut self, serial: u64) {
        if let Some(stake) = self.dialling(serial) {
            self.health.overdue(self.now, &stake);
        }
    }

    /// Whether a session whose dial has outlived its patience has somewhere else to go, and may.
    pub(crate) fn has_elsewhere(&self, serial: u64) -> bool {
        let Some(session) = self.sessions.get(serial as usize) else { return false };
        let is_other = |tried: &Tried, place: Place| {
            place != session.place && !tried.has(place) && self.health.is_eligible(place)
        };
        let has_other = |tried: &Tried| self.set.iter().any(|(_, place)| is_other(tried, *place));
        session.moves < MOVES_MAX && session.all_tried().any(has_other)
    }

    /// A session's dial is given up, so that it goes elsewhere.
    pub(super) fn given_up(&mut self, serial: u64) {
        let session = &self.sessions[serial as usize];
        let stake = session.stake;
        let is_overdue = stake.is_overdue(self.now + self.grain);
        let is_revoked = session.phase != Phase::Dialling;
        // Another thread may have taken that place out since.
        let may_go = is_revoked || self.is_concurrent || self.has_elsewhere(serial);
        if !is_overdue || !may_go {
            let text = format!("session {serial} gives up a dial of {}", session.place);
            let why = if is_overdue { "it can go nowhere else" } else { "it is too early" };
            self.fail(Law::Wait, format!("{text}, and {why}"));
        }
        if !is_revoked {
            self.health.look_back(&stake);
        }
        let session = &mut self.sessions[serial as usize];
        session.moves += 1;
        session.unpaid += self.now.saturating_sub(stake.began);
        session.is_moving = true;
        let are_used_up = session.moves == MOVES_MAX;
        self.counts.add(Sometimes::Moved, 1);
        self.counts.add(Sometimes::MovesUsedUp, u64::from(are_used_up));
    }

    /// Whether an attempt of a session is under way, and may come through.
    pub(crate) fn is_dialling(&self, serial: u64) -> bool {
        self.dialling(serial).is_some()
    }

    /// What an attempt that dials has to do with its target's health.
    fn dialling(&self, serial: u64) -> Option<Stake> {
        let session = self.sessions.get(serial as usize)?;
        let is_dialling = session.phase == Phase::Dialling && session.dial_began > 0;
        is_dialling.then_some(session.stake)
    }

    fn all_dialling(&self) -> impl Iterator<Item = (u64, Stake)> {
        let dialling =
            |serial: &u32| Some((u64::from(*serial), self.dialling(u64::from(*serial))?));
        self.live.iter().filter_map(dialling)
    }

    // Targets.

    pub(crate) fn ejected(&mut self, place: Place, fault: Fault) {
        let now = self.now + self.grain;
        let blames =
            |(_, stake): (u64, Stake)| stake.place == place && self.health.is_evidence(now, &stake);
        let is_overdue = self.all_dialling().any(blames);
        let judged = self.health.eject(self.now, place, fault, is_overdue);
        self.counts.add(Sometimes::Ejected, 1);
        self.counts.add(Sometimes::Flapped, u64::from(judged == Ok(true)));
        self.counts.add(Sometimes::AllEjected, u64::from(self.health.are_all_ejected()));
        self.judge(judged);
    }

    /// A target is in rotation again, after this time.
    pub(crate) fn returned(&mut self, place: Place, ejected_for: u64) {
        let judged = self.health.restore(self.now, place, ejected_for);
        match judged {
            Ok(Way::Probe) => self.counts.add(Sometimes::ReturnedByProbe, 1),
            Ok(Way::Dial) => self.counts.add(Sometimes::ReturnedByDial, 1),
            Ok(Way::Settings) | Err(_) => {}
        }
        self.judge(judged);
    }

    /// Whether a target is ejected.
    pub(crate) fn has_ejected(&self) -> bool {
        self.health.ejected().next().is_some()
    }

    /// A probe begins, and has this number from now on.
    pub(crate) fn probe_started(&mut self, number: u32, place: Place) {
        let judged = self.health.probe_started(self.now, number, place);
        self.judge(judged);
    }

    /// A probe has let go of its connection. Returns whether its target had left the set.
    pub(crate) fn probe_let_go(&mut self, number: u32) -> bool {
        let owed = self.health.probe_let_go(self.now, number);
        owed.into_iter().for_each(|generation| self.acknowledged(generation));
        owed.is_some()
    }

    /// The newest probe of a target, which has let go, has come to an end by itself; `None`: it
    /// succeeded.
    pub(crate) fn probed(&mut self, place: Place, fault: Option<Fault>) {
        self.note_silenced(place);
        self.health.probed(self.now, place, fault);
    }

    /// No probe is under way.
    pub(crate) fn check_no_probes(&mut self) {
        if self.health.probes() > 0 {
            self.fail(Law::Quiet, format!("{} probes are left", self.health.probes()));
        }
    }

    /// The balancer's view is the same one: the targets that are ejected, ascending, and how many
    /// probes are under way, if that is known exactly.
    pub(crate) fn check_ejected(&mut self, ejected: &[Place], probes: Option<usize>) {
        let due: Vec<_> = self.health.ejected().collect();
        if ejected != due {
            let text = format!("{ejected:?} are ejected, and by all that was seen {due:?}");
            self.fail(Law::Evidence, text);
        }
        if probes.is_some_and(|probes| probes != self.health.probes()) {
            let text = format!("{probes:?} probes are under way, not {}", self.health.probes());
            self.fail(Law::Probes, text);
        }
    }

    // Silence.

    /// The sessions of silent targets are cut: these.
    pub(crate) fn cut_silent(&mut self, taken: &[u32]) {
        let is_silent = |serial: &u32| {
            let session = &self.sessions[*serial as usize];
            session.phase == Phase::Connected && self.health.is_silent(self.now, session.place)
        };
        let mut due: Vec<_> = self.live.iter().copied().filter(is_silent).collect();
        let mut taken = taken.to_vec();
        due.sort_unstable();
        taken.sort_unstable();
        if due != taken {
            let text = format!("{taken:?} are cut because of silence, not {due:?}");
            self.fail(Law::Kept, text);
        }
        for serial in taken {
            let session = &mut self.sessions[serial as usize];
            session.phase = Phase::Silenced(self.generation);
            self.loads[usize::from(session.place.0)].connected -= 1;
            self.owe(self.generation, 1);
        }
    }

    /// Whether sessions of a target may have been cut by now, since it is silent.
    pub(super) fn may_be_silenced(&self, place: Place) -> bool {
        let has_sessions = self.loads[usize::from(place.0)].connected > 0;
        has_sessions && self.health.may_be_silent(self.now + self.slack, place)
    }

    /// A target is about to answer, or to leave. Its sessions may have been cut just before.
    pub(super) fn note_silenced(&mut self, place: Place) {
        if !self.may_be_silenced(place) {
            return;
        }
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            session.is_doubtful |= session.place == place && session.phase == Phase::Connected;
        }
        self.doubt_until = self.at + self.slack;
    }

    // Looking at it.

    /// What has been seen has had its consequences. `is_exact`: each step of the balancer is heard
    /// of, so that none can be under way.
    pub(crate) fn settle_health(&mut self, is_exact: bool) {
        let judged = self.health.settle(self.now + u64::from(is_exact));
        self.judge(judged);
    }

    /// Dials that go unanswered eject their targets in time, and their clients go elsewhere; probes
    /// begin, targets return, and silent ones lose their sessions.
    pub(super) fn check_health(&mut self) {
        let (now, slack) = (self.at.max(self.now), self.slack);
        let early = now.saturating_sub(slack);
        let dialling: Vec<_> = self.all_dialling().collect();
        for (serial, stake) in &dialling {
            if self.health.is_overlooked(early, stake) {
                let text =
                    format!("session {serial} waits for {}, which isn't ejected", stake.place);
                self.fail(Law::Evidence, text);
            }
            let is_sure = self.sessions[*serial as usize].or_tried.is_empty();
            let is_stuck = is_sure && stake.is_overdue(early) && self.has_elsewhere(*serial);
            let since = &mut self.sessions[*serial as usize].stuck_since;
            match is_stuck {
                true if now > *since.get_or_insert(now) + slack => {
                    let text = format!("session {serial} waits for {} for too long", stake.place);
                    self.fail(Law::Wait, text);
                }
                true => {}
                false => *since = None,
            }
            // The balancer looks at it when its patience is over, which begins a silence.
            if self.health.is_ejected(stake.place) && stake.is_overdue(now) {
                self.health.look_back(stake);
            }
        }
        if !self.is_concurrent {
            let judged = self.health.check_times(now, slack, self.healed_at);
            self.judge(judged);
        }
        let is_kept = |serial: &&u32| {
            let session = &self.sessions[**serial as usize];
            session.phase == Phase::Connected
                && self.health.is_silent(now.saturating_sub(2 * slack), session.place)
        };
        if let Some(serial) = self.live.iter().find(is_kept) {
            self.fail(
                Law::TimeLimit,
                format!("session {serial} isn't cut, and its target is silent"),
            );
        }
    }

    fn judge<T>(&mut self, judged: Judged<T>) {
        if let Err((law, text)) = judged {
            self.fail(law, text);
        }
    }
}
