use std::{io, net::Ipv4Addr, time::Instant};

use tokio::time::sleep;

use crate::{
    Cli,
    changes::{PAUSE, SETTLE},
    child::Child,
    prefix::Prefix,
    report::{Row, mebibytes, micros, millis},
    window::{Rate, Window},
};

/// With fewer, what each takes is less than what etcd takes more at one time than at another.
const WATCHERS_MIN: usize = 50;

const BACKENDS: usize = 10;

/// Nobody answers there: there are sources only.
const PORT: u16 = 1;

/// More changes show no more.
const CHANGES_MAX: u32 = 100;

pub const TITLE: &str = "So many sources of sets, in a process with one thread, watch one prefix \
    with 10 backends by one endpoint: the figure for each is what etcd uses with them less what it \
    uses without";

/// So many sources, in one process with one thread.
pub async fn measure(cli: &Cli, watchers: usize) -> io::Result<Row> {
    let etcd = cli.start_etcd().await?;
    let mut prefix = Prefix::fill(etcd.client().await, BACKENDS, PORT).await?;
    let arguments = [watchers.to_string(), etcd.urls().swap_remove(0)];
    let mut sources = Child::start("watchers", &arguments).await?;
    let of_etcd = || etcd.usage();
    sleep(SETTLE).await;
    let idle_without = Rate::while_idle(of_etcd, cli.idle()).await;
    let changes = cli.changes.min(CHANGES_MAX);
    let window = Window::begin(of_etcd);
    for _ in 0..changes {
        change(&mut prefix).await?;
        sleep(PAUSE).await;
    }
    let cpu_without = window.beyond(idle_without) / changes;
    let without = etcd.usage();

    let (window, began) = (Window::begin(of_etcd), Instant::now());
    sources.control.say("follow").await?;
    sources.control.hear(prefix.newest()?).await?;
    let until_first = began.elapsed();
    sleep(SETTLE).await;
    let cpu_first = window.beyond(idle_without);
    let idle_with = Rate::while_idle(of_etcd, cli.idle()).await;
    let with = etcd.usage();
    let (window, of_sources) = (Window::begin(of_etcd), Window::begin(sources.usage()));
    let mut times = Vec::new();
    for _ in 0..changes {
        let began = Instant::now();
        let address = change(&mut prefix).await?;
        sources.control.hear(address).await?;
        times.push(millis(began.elapsed()));
        sleep(PAUSE).await;
    }
    // Who hears of changes asks for nothing else.
    let cpu_with = window.beyond(idle_without) / changes;
    let sources_cpu = of_sources.beyond(Rate::NONE) / changes;

    let each = |with: f64, without: f64| match watchers {
        0..WATCHERS_MIN => f64::NAN,
        _ => (with - without) / watchers as f64,
    };
    let mut row = Row::new(watchers);
    row.add_times("until the last one has the set", times);
    row.add("until all have the first set", "ms", millis(until_first));
    row.add("CPU of etcd for that, for each of them", "µs", each(micros(cpu_first), 0.0));
    row.add("CPU of etcd for a change, without sources", "µs", micros(cpu_without));
    row.add("… with them", "µs", micros(cpu_with));
    row.add("… for each of them", "µs", each(micros(cpu_with), micros(cpu_without)));
    row.add("CPU of a source for a change", "µs", each(micros(sources_cpu), 0.0));
    row.add("CPU of etcd while nothing changes, without sources", "µs/s", idle_without.micros());
    row.add("… with them", "µs/s", idle_with.micros());
    row.add("… for each of them", "µs/s", each(idle_with.micros(), idle_without.micros()));
    row.add("memory of etcd before", "MiB", mebibytes(without));
    row.add("… with them", "MiB", mebibytes(with));
    row.add("… after the changes", "MiB", mebibytes(etcd.usage()));
    row.add("… with them, for each", "KiB", 1024.0 * each(mebibytes(with), mebibytes(without)));
    let connections = (with.files as f64 - without.files as f64) / watchers as f64;
    row.add("connections of each", "", connections);
    Ok(row)
}

async fn change(prefix: &mut Prefix) -> io::Result<Ipv4Addr> {
    let old = prefix.oldest()?;
    prefix.change(old).await
}
