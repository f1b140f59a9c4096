use std::{fmt, fs, io, time::Duration};

use serde_json::Value;
use tinylb_tests::outage::{Backend, Outcome};
use tokio::task::block_in_place;

use crate::proxy::{Proxy, Running, Wanted};

/// A balancer with what it is told about backends that don't answer: a column.
#[derive(Clone, Copy)]
pub struct Balancer {
    pub name: &'static str,
    pub proxy: Proxy,
    settings: &'static str,
}

/// A balancer at work, and its backends.
pub struct Stage {
    pub running: Running,
    pub backends: Vec<Backend>,
}

/// What is printed.
pub struct Table {
    heads: Vec<String>,
    pub rows: Vec<Row>,
}

/// A case: what it is, and what each balancer made of it.
pub struct Row {
    pub title: String,
    pub cells: Vec<String>,
}

impl Balancer {
    pub const ALL: [Self; 6] = [
        Self { name: "tinylb", proxy: TINYLB, settings: "start = 0" },
        Self {
            name: "tinylb without ejection",
            proxy: TINYLB,
            settings: "start = 0\nejection = false\ndial_patience = \"off\"",
        },
        Self { name: "haproxy", proxy: HAPROXY, settings: " option redispatch 1\n" },
        Self {
            name: "haproxy with checks",
            proxy: HAPROXY,
            settings: " option redispatch 1\n default-server check inter 2s fall 3\n",
        },
        Self {
            name: "nginx",
            proxy: Proxy::Nginx { workers: 1 },
            settings: "max_fails=1 fail_timeout=10s",
        },
        Self {
            name: "Envoy",
            proxy: Proxy::Envoy { threads: 2 },
            settings: "max_connect_attempts: 3",
        },
    ];

    /// Starts it with backends of its own, and with more settings if it is tinylb.
    pub fn start(&self, backends: u8, more: &str) -> io::Result<Stage> {
        let backends = Backend::several(backends)?;
        let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
        let settings = format!("{}\n{more}", self.settings);
        let first = addresses.len();
        let wanted = Wanted { backends: &addresses, first, bulk: false, settings: &settings };
        let running = block_in_place(|| self.proxy.start(&wanted))?;
        Ok(Stage { running, backends })
    }
}

/// Starts each with as many backends of its own.
pub fn start_all(balancers: &[Balancer], backends: u8) -> io::Result<Vec<Stage>> {
    balancers.iter().map(|balancer| balancer.start(backends, "")).collect()
}

const TINYLB: Proxy = Proxy::Tinylb { workers: 2, splice: "hot" };
const HAPROXY: Proxy = Proxy::Haproxy { threads: 2, splice: false };

impl Stage {
    /// The lines that tinylb has logged with this message.
    pub fn logged(&self, message: &str) -> io::Result<Vec<Value>> {
        let log = fs::read_to_string(self.running.files().join("log"))?;
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let says = |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with(message));
        Ok(lines.filter(says).collect())
    }

    /// How often tinylb has ejected a backend.
    pub fn ejections(&self) -> io::Result<usize> {
        Ok(self.logged("backend ejected")?.len())
    }

    /// For how long backends were ejected that have returned.
    pub fn ejected_for(&self) -> io::Result<f64> {
        let lines = self.logged("backend is back in rotation")?;
        let times = lines.iter().filter_map(|line| line["ejected_seconds"].as_f64());
        // The sum of no numbers is -0.
        Ok(times.sum::<f64>().abs())
    }
}

impl Table {
    pub fn new(first: &str, others: impl Iterator<Item = String>) -> Self {
        Self { heads: [first.to_string()].into_iter().chain(others).collect(), rows: Vec::new() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.heads.join(" | "))?;
        writeln!(f, "|{}", " --- |".repeat(self.heads.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} | {} |", row.title, row.cells.join(" | "))?;
        }
        Ok(())
    }
}

/// How many waited over 100 ms, over a second, and in vain; and the longest wait of those served.
pub fn waits(outcomes: &[Outcome]) -> String {
    let longest = served(outcomes).map(|outcome| outcome.waited).max().unwrap_or_default();
    format!(
        "{} / {} / {} ({} ms)",
        over(outcomes, Duration::from_millis(100)),
        over(outcomes, Duration::from_secs(1)),
        outcomes.len() - served(outcomes).count(),
        longest.as_millis()
    )
}

/// How many of those served waited longer.
pub fn over(outcomes: &[Outcome], time: Duration) -> usize {
    served(outcomes).filter(|outcome| outcome.waited > time).count()
}

pub fn served(outcomes: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(|outcome| outcome.backend.is_some())
}

/// The first moment from that one on, counted from it, at which a backend greets a client.
pub fn first_turn(outcomes: &[Outcome], backend: u8, from: Duration) -> Option<Duration> {
    let of_it = outcomes.iter().filter(|outcome| outcome.backend == Some(backend));
    of_it.filter_map(|outcome| (outcome.came + outcome.waited).checked_sub(from)).min()
}
