use std::{
    cell::Cell,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use etcd_client::CompactionOptions;
use futures::future::{Either, join, join_all, select};
use tinylb_tokio::{Address, EtcdOptions};
use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    super::harness::{Backends, Balancer, Client, Cluster, PREFIX, Relay, Writer, eventually, say},
    LAG_MAX,
};

/// About how long it goes on, and the pause between two changes.
const TIME: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(50);
const CHANGES: usize = (TIME.as_millis() / PACE.as_millis()) as usize;

/// The last so many pass without a disturbance: a source that found nobody pauses for 10 s at most.
const CHANGES_CALM: usize = CHANGES / 4;

/// So many changes pass between two disturbances.
const STEP: usize = 20;

/// Longer than it takes to leave a member that hangs.
const LONG: usize = 6 * STEP;

const MEMBERS: usize = 3;
const BALANCERS: usize = 5;
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// A balancer, and a network of its own to each member.
struct Site {
    balancer: Balancer,
    relays: Vec<Relay>,
    /// Clients that were greeted.
    greeted: Cell<usize>,
}

impl Site {
    async fn new(cluster: &Cluster) -> Self {
        let mut relays = Vec::new();
        for place in 0..MEMBERS {
            relays.push(Relay::to(cluster.address(place)).await);
        }
        let mut options = EtcdOptions::new(relays.iter().map(Relay::url), PREFIX);
        // Often, so that comparisons cross changes.
        options.resync = Duration::from_secs(3);
        Self { balancer: Balancer::following(options), relays, greeted: Cell::new(0) }
    }

    /// Clients come one after the other. Whoever greets one was in force meanwhile.
    async fn serve(&self) {
        loop {
            let before = self.balancer.seen().in_force.len();
            // One whose backend left before it was greeted is cut.
            if let Ok(client) = Client::connect(self.balancer.front()).await {
                let seen = self.balancer.seen();
                let target = Address::from(client.backend);
                let sets = &seen.in_force[before - 1..];
                let was_in_force = sets.iter().any(|set| set.targets().contains(&target));
                assert!(was_in_force, "{target} greeted a client, with {sets:#?} in force");
                self.greeted.set(self.greeted.get() + 1);
            }
            sleep(PACE / 2).await;
        }
    }
}

/// How far the changes are.
struct Progress {
    changes: Cell<usize>,
    /// So many are made.
    changes_max: Cell<usize>,
    /// The newest revision that deletes nothing: etcd before 3.4.34 and 3.5.16 doesn't report
    /// to all watches the deletions at the very revision that is compacted (etcd's issue 18089). What
    /// becomes of that has tests of its own.
    without_delete: Cell<i64>,
}

impl Progress {
    fn new() -> Self {
        let (changes, without_delete) = (Cell::new(0), Cell::new(0));
        Self { changes, changes_max: Cell::new(usize::MAX), without_delete }
    }

    /// Waits until so many more have been made.
    async fn pass(&self, changes: usize) {
        let until = self.changes.get() + changes;
        let passed = async || (self.changes.get() >= until).then_some(());
        eventually("further changes", passed).await;
    }
}

async fn write(writer: &mut Writer, backends: &Backends, progress: &Progress) {
    let mut ticks = interval(PACE);
    while progress.changes.get() < progress.changes_max.get() {
        ticks.tick().await;
        let number = progress.changes.get() + 1;
        let random = BuildHasherDefault::<DefaultHasher>::default().hash_one(number) as usize;
        let name = |place: usize| NAMES[place % NAMES.len()];
        // Nobody has had it before.
        let fresh = |place: usize| backends.address((number * 4 + place) as u16);
        let there: Vec<_> = NAMES.into_iter().filter(|name| writer.has(name)).collect();
        let (gone, any) = (there[random / 4 % there.len()], random / 64);
        let other = if name(any) == gone { name(any + 1) } else { name(any) };
        let (puts, deletes) = match random % 4 {
            0 if there.len() > 2 => (vec![], vec![gone]),
            1 if there.len() > 2 => (vec![(other, fresh(0))], vec![gone]),
            2 => ((0..3).map(|place| (name(any + place), fresh(place))).collect(), vec![]),
            _ => (vec![(name(any), fresh(0))], vec![]),
        };
        let revision = writer.change(&puts, &deletes).await;
        if deletes.is_empty() {
            progress.without_delete.set(revision);
        }
        progress.changes.set(number);
    }
}

/// Disturbs members and networks, one after the other and all around, and says how often history was
/// compacted. There always is a majority.
async fn disturb(cluster: &mut Cluster, sites: &[Site], progress: &Progress) -> usize {
    let (mut rounds, mut compactions) = (0, 0);
    while progress.changes.get() < CHANGES - CHANGES_CALM {
        let site = |place: usize| &sites[(rounds + place) % BALANCERS];
        let leader = (cluster.leader().await + 1) % MEMBERS;
        let [one, other] = [(leader + 1) % MEMBERS, (leader + 2) % MEMBERS];
        cluster.lead(leader).await;
        progress.pass(STEP).await;

        cluster.kill(one);
        progress.pass(STEP).await;
        compactions += compact(cluster, leader, progress).await;
        cluster.restart(one);
        cluster.ready(one).await;
        progress.pass(STEP).await;

        cluster.freeze(other);
        if rounds % 2 == 0 {
            progress.pass(STEP).await;
            cluster.thaw(other);
        } else {
            progress.pass(LONG).await;
            // To one balancer only this member is left: it is asked before it has caught up.
            let relays = site(2).relays.iter().enumerate();
            let (left, cut): (Vec<_>, Vec<_>) = relays.partition(|(place, _)| *place == other);
            cut.iter().for_each(|(_, relay)| relay.set_cut(true));
            let asked = async || (left[0].1.live() > 0).then_some(());
            eventually("a balancer that asks the member that hangs", asked).await;
            progress.pass(STEP / 4).await;
            cluster.thaw(other);
            progress.pass(STEP).await;
            cut.iter().for_each(|(_, relay)| relay.set_cut(false));
        }
        cluster.ready(other).await;

        // One balancer finds nobody any more, and another its member gone.
        let used = site(1).relays.iter().filter(|relay| relay.live() > 0);
        let cut: Vec<_> = site(0).relays.iter().chain(used).collect();
        cut.iter().for_each(|relay| relay.set_cut(true));
        progress.pass(STEP).await;
        compactions += compact(cluster, leader, progress).await;
        progress.pass(STEP).await;
        cut.iter().for_each(|relay| relay.set_cut(false));
        progress.pass(STEP).await;
        rounds += 1;
    }
    progress.changes_max.set(progress.changes.get() + CHANGES_CALM);
    compactions
}

async fn compact(cluster: &Cluster, place: usize, progress: &Progress) -> usize {
    let mut client = cluster.client(place).await;
    let options = CompactionOptions::new().with_physical();
    let compaction = client.compact(progress.without_delete.get(), Some(options));
    // An election may refuse it.
    usize::from(matches!(timeout(Duration::from_secs(1), compaction).await, Ok(Ok(_))))
}

#[tokio::test]
async fn several_balancers_agree_on_etcds_sets_while_members_and_networks_are_disturbed() {
    let Some(mut cluster) = Cluster::start(MEMBERS).await else { return };
    let backends = Backends::start().await;
    let mut writer = Writer::of(&cluster, MEMBERS).await;
    let first: Vec<_> = NAMES.into_iter().map(|name| (name, backends.address(0))).collect();
    writer.change(&first, &[]).await;
    let mut sites = Vec::new();
    for _ in 0..BALANCERS {
        sites.push(Site::new(&cluster).await);
    }
    for Site { balancer, .. } in &sites {
        let set = async || balancer.snapshot().set;
        eventually("a first set", set).await;
    }

    let progress = Progress::new();
    let churn =
        join(write(&mut writer, &backends, &progress), disturb(&mut cluster, &sites, &progress));
    let clients = join_all(sites.iter().map(Site::serve));
    let compactions = match select(Box::pin(churn), Box::pin(clients)).await {
        Either::Left((((), compactions), _)) => compactions,
        Either::Right(_) => unreachable!("clients come all the time"),
    };

    let began = Instant::now();
    let last = writer.history().last().clone();
    for Site { balancer, .. } in &sites {
        let agrees = async || (balancer.snapshot().set.as_ref() == Some(&last)).then_some(());
        eventually("the last set", agrees).await;
    }
    let lag = began.elapsed();
    assert!(lag < LAG_MAX, "{lag:?}");
    assert_eq!(writer.listed().await, last);
    say(&format!(
        "{} changes, {} tried again, {compactions} compactions; all agree {lag:?} later",
        progress.changes.get(),
        writer.retried
    ));
    for (place, site) in sites.iter().enumerate() {
        let seen = site.balancer.seen();
        writer.history().assert_follows(&format!("reported to balancer {place}"), &seen.reported);
        writer.history().assert_follows(&format!("in force at {place}"), &seen.in_force);
        assert_eq!(seen.missed, 0);
        let (reported, in_force, losses) = (seen.reported.len(), seen.in_force.len(), seen.losses);
        let greeted = site.greeted.get();
        say(&format!(
            "balancer {place}: {reported} sets reported, {in_force} in force, {losses} losses, {greeted} \
             clients greeted"
        ));
    }
    assert!(compactions > 0);
    assert!(sites.iter().any(|site| site.balancer.seen().losses > 0));
}
