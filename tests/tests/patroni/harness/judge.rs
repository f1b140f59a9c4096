use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use tokio::time::Instant;

use super::{Cluster, Entry, What};

/// From a node's first 503 until the last connection to it is cut: the check's interval and timeout.
pub(crate) const BOUND: Duration = Duration::from_millis(1500);

/// A promotion that takes less is over before a node has passed two checks, which begin half a second
/// apart. (The rest is for the time that the answers take.)
const PROMOTION_MAX: Duration = Duration::from_millis(350);

/// How a node became the primary. Patroni says so when the node gets the leader key, and promotes
/// PostgreSQL after that.
pub(crate) struct Promotion {
    pub(crate) host: Ipv4Addr,
    /// Until now, Patroni didn't say so.
    pub(crate) named: Instant,
    /// When PostgreSQL took writes.
    pub(crate) writable: Instant,
}

impl Promotion {
    /// How long the node was named before it was the primary.
    pub(crate) fn time(&self) -> Duration {
        self.writable.saturating_duration_since(self.named)
    }

    /// Whether it is no fault of the balancer's that this row was refused: the node was named, wasn't
    /// the primary yet, and that took so long that it may have passed its checks.
    fn excuses(&self, entry: &Entry) -> bool {
        let is_between = entry.opened >= self.named && entry.began <= self.writable;
        let is_read_only = matches!(&entry.what, What::Refused(why) if why.contains("read-only"));
        let is_early = entry.node == Some(self.host) && is_between && is_read_only;
        is_early && self.time() > PROMOTION_MAX
    }
}

/// Judges what the clients noticed.
pub(crate) struct Judge(pub(crate) Vec<Entry>);

impl Judge {
    /// When the connection of each client to a node ended that was open at a moment.
    pub(crate) fn ends(&self, node: Ipv4Addr, open_at: Instant) -> BTreeMap<usize, Instant> {
        let own = self.0.iter().filter(|entry| entry.node == Some(node));
        let ended = own.filter(|entry| {
            let is_end = matches!(entry.what, What::Ended(_) | What::Refused(_));
            is_end && entry.opened <= open_at && entry.at >= open_at
        });
        ended.map(|entry| (entry.client, entry.at)).collect()
    }

    /// When a row was first acknowledged by a node after a moment.
    pub(crate) fn first_row(&self, node: Ipv4Addr, after: Instant) -> Option<Instant> {
        let mut rows = self.0.iter().filter(|entry| {
            let is_row = matches!(entry.what, What::Acknowledged { .. });
            is_row && entry.node == Some(node) && entry.at >= after
        });
        rows.next().map(|entry| entry.at)
    }

    /// Once it was known that a node is no longer the primary, clients noticed nothing but the resets
    /// of their connections to it. A row that was refused early doesn't count, see [`Promotion`].
    /// Returns how many of those there were.
    pub(crate) fn assert_only_resets(
        &self,
        known: Instant,
        old: Ipv4Addr,
        promotion: &Promotion,
    ) -> usize {
        let is_reset = |entry: &Entry| {
            let is_old = entry.node == Some(old) && entry.opened < known;
            is_old && matches!(entry.what, What::Ended(_))
        };
        let errors = self.errors(known).into_iter().filter(|entry| !is_reset(entry));
        let (early, errors): (Vec<_>, Vec<_>) = errors.partition(|entry| promotion.excuses(entry));
        assert!(errors.is_empty(), "once the verdict was known, clients saw errors: {errors:#?}");
        early.len()
    }

    /// What clients noticed, other than rows acknowledged, of what they began after a moment.
    pub(crate) fn errors(&self, after: Instant) -> Vec<&Entry> {
        let is_error =
            |entry: &&Entry| !matches!(entry.what, What::Connected | What::Acknowledged { .. });
        self.0.iter().filter(|entry| entry.began >= after).filter(is_error).collect()
    }

    /// Connections that were opened to a node after a moment.
    pub(crate) fn connections(&self, node: Ipv4Addr, after: Instant) -> Vec<&Entry> {
        let to_node = self.0.iter().filter(|entry| entry.node == Some(node));
        to_node.filter(|entry| entry.what == What::Connected && entry.opened >= after).collect()
    }

    /// The longest time between two rows of one client.
    pub(crate) fn longest_pause(&self, from: Instant) -> Duration {
        let mut last = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for entry in self.0.iter().filter(|entry| entry.at >= from) {
            if matches!(entry.what, What::Acknowledged { .. }) {
                let before = last.insert(entry.client, entry.at).unwrap_or(from);
                longest = longest.max(entry.at.duration_since(before));
            }
        }
        longest
    }

    /// No node acknowledges a row once another one has begun a newer timeline: it isn't the primary
    /// any more, whatever it believes.
    pub(crate) fn assert_one_primary(&self) {
        // When a row of each timeline was first acknowledged, and by whom.
        let mut began: BTreeMap<u32, (Instant, Ipv4Addr)> = BTreeMap::new();
        for entry in &self.0 {
            let What::Acknowledged { timeline, .. } = entry.what else { continue };
            let node = entry.node.unwrap();
            let (_, by) = began.entry(timeline).or_insert((entry.at, node));
            assert_eq!(*by, node, "two nodes took rows on timeline {timeline}: {entry:?}");
        }
        for entry in &self.0 {
            let What::Acknowledged { timeline, .. } = entry.what else { continue };
            let newer = began.range(timeline + 1..).map(|(_, (at, _))| *at).min();
            assert!(
                newer.is_none_or(|newer| entry.began <= newer),
                "a row was sent to an old primary, and acknowledged: {entry:?}"
            );
        }
    }

    /// Every row that was acknowledged exists on a node.
    pub(crate) async fn assert_no_row_lost(&self, cluster: &Cluster, place: usize) {
        let client = cluster.client(place).await;
        let rows = client.query("SELECT client, number FROM rows", &[]).await.unwrap();
        let existing: BTreeSet<(i32, i32)> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let mut acknowledged = 0;
        for entry in &self.0 {
            let What::Acknowledged { number, .. } = entry.what else { continue };
            acknowledged += 1;
            let row = (entry.client as i32, number);
            assert!(existing.contains(&row), "an acknowledged row is gone: {entry:?}");
        }
        assert!(acknowledged > 0, "nobody wrote anything");
    }
}
