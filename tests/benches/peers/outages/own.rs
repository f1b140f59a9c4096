use std::{io, time::Duration};

use futures::future::try_join_all;
use tinylb_tests::outage::{Filter, Outcome, at_rate, one_by_one, visit};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    task::{JoinSet, block_in_place},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Times,
    stage::{Balancer, Row, Stage, first_turn, over, served, start_all, waits},
};

/// What is measured of tinylb alone.
#[derive(Clone, Copy)]
pub enum Case {
    AllHang,
    Loss,
    Removal,
    Idle,
    Silent,
    Flapping,
}

pub const ALL: [Case; 6] =
    [Case::AllHang, Case::Loss, Case::Removal, Case::Idle, Case::Silent, Case::Flapping];

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Self::AllHang => "all-hang",
            Self::Loss => "loss",
            Self::Removal => "removal",
            Self::Idle => "idle",
            Self::Silent => "silent",
            Self::Flapping => "flapping",
        }
    }

    /// Its rows: with ejection, and without if that is among the balancers. Both are measured at the
    /// same time.
    pub async fn measure(
        self,
        balancers: &[Balancer],
        filter: &Filter,
        times: Times,
    ) -> io::Result<Vec<Row>> {
        if let Self::Silent = self {
            return silence(balancers, filter, times).await;
        }
        let stages = start_all(balancers, 3)?;
        if let Self::AllHang = self {
            return all_hang(&stages, filter).await;
        }
        let columns =
            try_join_all(stages.iter().map(|stage| self.play(stage, filter, times))).await?;
        Ok(vec![Row { title: self.title(times), cells: columns }])
    }

    fn title(self, times: Times) -> String {
        match self {
            Self::Loss => format!(
                "1 % of SYNs lost, {} clients at 100/s: over 300 ms / over 1 s / failed; time ejected",
                times.dials
            ),
            Self::Removal => "a backend that hangs is removed: until that is applied; SYNs in the \
                              5 s after"
                .into(),
            Self::Idle => {
                format!("all are healthy and idle for {} s: SYNs to them", times.idle.as_secs())
            }
            Self::Flapping => format!(
                "1 of 3 flaps for {} s, 1 s up and 1 s down, clients at 100/s: ejections; over 350 ms \
                 / over 1 s / failed",
                2 * times.flaps
            ),
            Self::AllHang | Self::Silent => String::new(),
        }
    }

    async fn play(self, stage: &Stage, filter: &Filter, times: Times) -> io::Result<String> {
        let address = stage.running.address;
        match self {
            Self::Loss => {
                for backend in &stage.backends {
                    filter.lose(backend.address)?;
                }
                let outcomes = at_rate(address, times.dials, 100).await;
                // Those that are ejected at the end are logged when they have returned.
                sleep(Duration::from_secs(6)).await;
                let ejected = stage.ejected_for()? / f64::from(times.dials / 100 * 3);
                Ok(format!("{}; {:.2} %", long_waits(&outcomes, 300), ejected * 100.0))
            }
            Self::Removal => removal(stage, filter).await,
            Self::Idle => {
                one_by_one(address, 30).await;
                let syns = || {
                    let syns = stage.backends.iter().map(|backend| filter.syns(backend.address));
                    syns.sum::<io::Result<u64>>()
                };
                let before = syns()?;
                sleep(times.idle).await;
                Ok((syns()? - before).to_string())
            }
            Self::Flapping => flapping(stage, filter, times.flaps).await,
            Self::AllHang | Self::Silent => unreachable!("they have rows of their own"),
        }
    }
}

/// Clients that waited over this many milliseconds, over a second, and in vain.
fn long_waits(outcomes: &[Outcome], ms: u64) -> String {
    format!(
        "{} / {} / {}",
        over(outcomes, Duration::from_millis(ms)),
        over(outcomes, Duration::from_secs(1)),
        outcomes.len() - served(outcomes).count()
    )
}

async fn removal(stage: &Stage, filter: &Filter) -> io::Result<String> {
    let address = stage.backends[1].address;
    filter.hang(address)?;
    one_by_one(stage.running.address, 6).await;
    // The probe that begins now and then has its dial_timeout.
    sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    block_in_place(|| stage.running.controller.replace(&[0, 2]))?;
    let applied = began.elapsed();
    let before = filter.syns(address)?;
    sleep(Duration::from_secs(5)).await;
    let syns = filter.syns(address)? - before;
    Ok(format!("{:.1} ms; {syns}", applied.as_secs_f64() * 1e3))
}

async fn flapping(stage: &Stage, filter: &Filter, flaps: u32) -> io::Result<String> {
    let (began, address) = (Instant::now(), stage.backends[1].address);
    let clients = tokio::spawn(at_rate(stage.running.address, flaps * 200, 100));
    for flap in 0..flaps {
        sleep_until(began + Duration::from_secs(1) * (2 * flap)).await;
        filter.hang(address)?;
        sleep_until(began + Duration::from_secs(1) * (2 * flap + 1)).await;
        filter.heal(address)?;
    }
    let outcomes = clients.await?;
    Ok(format!("{}; {}", stage.ejections()?, long_waits(&outcomes, 350)))
}

/// With ejection and without: what becomes of the clients, who is refused only with it, and how far
/// apart the backends' first turns are.
async fn all_hang(stages: &[Stage], filter: &Filter) -> io::Result<Vec<Row>> {
    let began = Instant::now();
    let backends = || stages.iter().flat_map(|stage| &stage.backends);
    backends().try_for_each(|backend| filter.hang(backend.address))?;
    let clients =
        stages.iter().map(|stage| tokio::spawn(at_rate(stage.running.address, 1500, 100)));
    let clients: Vec<_> = clients.collect();
    sleep_until(began + Duration::from_secs(10)).await;
    backends().try_for_each(|backend| filter.heal(backend.address))?;
    let healed = began.elapsed();
    let outcomes = try_join_all(clients).await?;
    let refused_only = |outcomes: &Vec<Outcome>, others: &Vec<Outcome>| {
        let both = outcomes.iter().zip(others);
        both.filter(|(one, other)| one.backend.is_none() && other.backend.is_some()).count()
    };
    let spread = |outcomes: &Vec<Outcome>| {
        let firsts = (0..3).filter_map(|number| first_turn(outcomes, number, healed));
        let firsts: Vec<_> = firsts.collect();
        let spread = firsts.iter().max()?.checked_sub(*firsts.iter().min()?)?;
        (firsts.len() == 3).then(|| format!("{} ms", spread.as_millis()))
    };
    let cells = |cell: &dyn Fn(&Vec<Outcome>) -> String| outcomes.iter().map(cell).collect();
    let other = outcomes.last().unwrap_or(&outcomes[0]);
    Ok(vec![
        Row {
            title: "all 3 hang for 10 s, clients at 100/s".into(),
            cells: cells(&|outcomes| waits(outcomes)),
        },
        Row {
            title: "… refused, though served without ejection".into(),
            cells: cells(&|outcomes| refused_only(outcomes, other).to_string()),
        },
        Row {
            title: "… from the first backend's first turn to the last one's".into(),
            cells: cells(&|outcomes| spread(outcomes).unwrap_or_else(|| "none".into())),
        },
    ])
}

/// Idle sessions with a backend that hangs, by default and with `cut_silent`.
async fn silence(balancers: &[Balancer], filter: &Filter, times: Times) -> io::Result<Vec<Row>> {
    let Some(balancer) = balancers.first() else { return Ok(Vec::new()) };
    let settings = ["", "cut_silent = \"10s\""];
    let plays = settings.map(|settings| silence_with(balancer, filter, settings, times.sessions));
    let mut rows = Vec::new();
    for (settings, cell) in settings.iter().zip(try_join_all(plays).await?) {
        let with = if settings.is_empty() { "by default" } else { "with `cut_silent = \"10s\"`" };
        let sessions = times.sessions;
        let title = format!("{sessions} idle sessions of a backend that hangs for 20 s, {with}");
        let cells = [cell].into_iter().chain(balancers[1..].iter().map(|_| String::new()));
        rows.push(Row { title, cells: cells.collect() });
    }
    Ok(rows)
}

async fn silence_with(
    balancer: &Balancer,
    filter: &Filter,
    settings: &str,
    sessions: usize,
) -> io::Result<String> {
    let stage = balancer.start(2, settings)?;
    let address = stage.running.address;
    let mut streams: [Vec<TcpStream>; 2] = Default::default();
    while streams[1].len() < sessions {
        let (stream, number) = visit(address).await?;
        streams[usize::from(number)].push(stream);
    }
    let [others, silent] = streams;
    filter.hang(stage.backends[1].address)?;
    let began = Instant::now();
    let mut ends = JoinSet::new();
    for mut stream in silent {
        ends.spawn(async move {
            let end = stream.read(&mut [0]).await;
            (began.elapsed(), end.map_err(|error| error.kind()))
        });
    }
    // The other backend has to answer meanwhile.
    at_rate(address, 200, 10).await;
    let mut cuts: Vec<Duration> = Vec::new();
    while let Some(end) = ends.try_join_next() {
        let (at, end) = end?;
        if end != Err(io::ErrorKind::ConnectionReset) {
            return Err(io::Error::other(format!("a session has ended otherwise: {end:?}")));
        }
        cuts.push(at);
    }
    drop(others);
    let (first, last) = (cuts.iter().min(), cuts.iter().max());
    let Some((first, last)) = first.zip(last) else { return Ok("none is cut".into()) };
    let (first, last) = (first.as_secs_f64(), last.as_secs_f64());
    Ok(format!("{} are reset, after {first:.2} to {last:.2} s", cuts.len()))
}
