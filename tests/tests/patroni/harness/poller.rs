use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Cluster, Promotion, api};

/// Asks every node all the time for its role, apart from any balancer.
pub(crate) struct Poller {
    sights: Arc<Mutex<Vec<Sight>>>,
    _tasks: JoinSet<()>,
}

/// What one node answered once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) place: usize,
    pub(crate) asked: Instant,
    pub(crate) at: Instant,
    /// `None`: it didn't answer.
    pub(crate) status: Option<u16>,
    /// It is the primary, and takes writes.
    pub(crate) is_writable: bool,
}

const PERIOD: Duration = Duration::from_millis(25);

/// A machine that pauses for longer says nothing about the program.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(300);

impl Poller {
    /// Asks whether it is the primary.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        Self::ask(cluster, "/primary")
    }

    /// Gets this path.
    pub(crate) fn ask(cluster: &Cluster, path: &'static str) -> Self {
        let sights = Arc::<Mutex<Vec<Sight>>>::default();
        let mut tasks = JoinSet::new();
        for (place, node) in cluster.nodes.iter().enumerate() {
            let (address, sights) = (node.api(), Arc::clone(&sights));
            tasks.spawn(async move {
                loop {
                    let asked = Instant::now();
                    let answer = api::get(address, path).await.ok();
                    let status = answer.as_ref().map(|answer| answer.status);
                    let is_writable = answer.is_some_and(|answer| answer.is_primary());
                    let at = Instant::now();
                    sights.lock().unwrap().push(Sight { place, asked, at, status, is_writable });
                    sleep_until(asked + PERIOD).await;
                }
            });
        }
        Self { sights, _tasks: tasks }
    }

    /// When a node first answered with a status after a moment.
    pub(crate) fn first(&self, place: usize, status: u16, after: Instant) -> Option<Instant> {
        self.find(after, |sight| sight.place == place && sight.status == Some(status))
    }

    /// When a node first was a primary that takes writes, after a moment.
    pub(crate) fn first_writable(&self, place: usize, after: Instant) -> Option<Instant> {
        self.find(after, |sight| sight.place == place && sight.is_writable)
    }

    /// When a node first was none, after a moment.
    pub(crate) fn first_unwritable(&self, place: usize, after: Instant) -> Option<Instant> {
        self.find(after, |sight| sight.place == place && !sight.is_writable)
    }

    /// When Patroni first named another node than this one the primary, after a moment.
    pub(crate) fn first_successor(&self, old: usize, after: Instant) -> Option<Instant> {
        self.find(after, |sight| sight.place != old && sight.status == Some(200))
    }

    /// How a node became the primary after a moment. `None`: it didn't yet.
    pub(crate) fn promotion(
        &self,
        cluster: &Cluster,
        place: usize,
        after: Instant,
    ) -> Option<Promotion> {
        let writable = self.first_writable(place, after)?;
        let sights = self.sights.lock().unwrap();
        let mut own = sights.iter().filter(|sight| sight.place == place && sight.at < writable);
        // The last answer that wasn't 200. Since it was asked for, the node may have been named.
        let other = own.rfind(|sight| sight.status != Some(200));
        let named = other.map_or(after, |sight| sight.asked.max(after));
        Some(Promotion { host: cluster.nodes[place].host, named, writable })
    }

    /// The longest time for which some node wasn't asked although it should have been: how long this
    /// machine paused. A node that doesn't answer isn't asked again for a second.
    pub(crate) fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let sights = self.sights.lock().unwrap();
        let mut longest = Duration::ZERO;
        for place in 0..3 {
            let own = sights.iter().filter(|sight| sight.place == place);
            let own: Vec<_> = own.filter(|sight| sight.at >= from && sight.asked <= to).collect();
            for pair in own.windows(2) {
                longest = longest.max(pair[1].asked.saturating_duration_since(pair[0].at));
            }
        }
        longest
    }

    fn find(&self, after: Instant, holds: impl Fn(&Sight) -> bool) -> Option<Instant> {
        let sights = self.sights.lock().unwrap();
        sights.iter().find(|sight| sight.asked >= after && holds(sight)).map(|sight| sight.at)
    }
}
