use std::{
    io,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    Cli,
    child::Child,
    connections::{Backends, Connections},
    prefix::Prefix,
    report::{Row, mebibytes, micros, millis},
    window::{Rate, Window},
};

/// Connections that are open, if there are as many backends.
const CONNECTIONS_MAX: usize = 300;

/// From one change to the next: longer than the pause that the balancer makes from set to set.
pub const PAUSE: Duration = Duration::from_millis(20);

/// For what a process does after its work is done.
pub const SETTLE: Duration = Duration::from_millis(500);

pub const TITLE: &str = "Address after address is changed, each of a backend in use: the time from \
    the put until no client and no backend has a connection of the old one any more";

/// One balancer, and so many backends.
pub async fn measure(cli: &Cli, backends: usize) -> io::Result<Row> {
    let etcd = cli.start_etcd().await?;
    let servers = Backends::start().await?;
    let etcd_empty = etcd.usage();
    let mut prefix = Prefix::fill(etcd.client().await, backends, servers.port).await?;
    sleep(SETTLE).await;
    let etcd_full = etcd.usage();
    let mut balancer = Child::start("balancer", &etcd.urls()).await?;
    let address = balancer.control.heard().await?.parse().map_err(io::Error::other)?;
    sleep(SETTLE).await;
    let usage = balancer.usage();
    let without = usage();
    let of_etcd = || etcd.usage();
    let (window, began) = (Window::begin(of_etcd), Instant::now());
    balancer.control.say("follow").await?;
    balancer.control.hear(backends).await?;
    let until_first = began.elapsed();
    let cpu_first = window.beyond(Rate::NONE);
    sleep(SETTLE).await;
    let with = usage();

    let mut connections = Connections::by(address, servers);
    for _ in 0..backends.min(CONNECTIONS_MAX) {
        connections.open().await?;
    }
    let idle = Rate::while_idle(of_etcd, cli.idle()).await;
    let (window, of_balancer) = (Window::begin(of_etcd), Window::begin(&usage));
    let mut done = Done::default();
    for _ in 0..cli.changes {
        done.change(&mut prefix, &mut connections).await?;
        sleep(PAUSE).await;
    }
    let etcd_cpu = window.beyond(idle) / cli.changes;
    let balancer_cpu = of_balancer.beyond(Rate::NONE) / cli.changes;

    let mut row = Row::new(backends);
    row.add_times("until all is cut", done.cut);
    row.add_times("until etcd answers the put", done.put);
    row.add_times("from that answer until all is cut", done.after);
    row.add("until the first set is in force", "ms", millis(until_first));
    row.add("CPU of etcd for that", "µs", micros(cpu_first));
    row.add(
        "connections cut by a change",
        "",
        f64::from(done.connections) / f64::from(cli.changes),
    );
    row.add("CPU of etcd for a change", "µs", micros(etcd_cpu));
    row.add("CPU of the balancer for a change and for who comes back", "µs", micros(balancer_cpu));
    row.add("memory of the balancer before", "MiB", mebibytes(without));
    row.add("… with the set", "MiB", mebibytes(with));
    row.add("… after the changes", "MiB", mebibytes(usage()));
    row.add("memory of etcd before", "MiB", mebibytes(etcd_empty));
    row.add("… with the keys", "MiB", mebibytes(etcd_full));
    row.add("… after the changes", "MiB", mebibytes(etcd.usage()));
    Ok(row)
}

/// What came of changes.
#[derive(Default)]
struct Done {
    /// In milliseconds.
    cut: Vec<f64>,
    put: Vec<f64>,
    /// From the put's answer until all was cut, which may have been before.
    after: Vec<f64>,
    connections: u32,
}

impl Done {
    /// Changes the backend whose connection is the oldest, and has its clients come back.
    async fn change(
        &mut self,
        prefix: &mut Prefix,
        connections: &mut Connections,
    ) -> io::Result<()> {
        let old = connections.oldest()?;
        let began = Instant::now();
        prefix.change(old).await?;
        let until_put = millis(began.elapsed());
        let (cut, last) = connections.cut(old).await?;
        let until_cut = millis(last - began);
        self.put.push(until_put);
        self.cut.push(until_cut);
        self.after.push(until_cut - until_put);
        for _ in 0..cut {
            self.connections += 1;
            connections.open().await?;
        }
        Ok(())
    }
}
