use std::{
    io, mem,
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    backend::Backend,
    calls::Calls,
    load, paced,
    proxy::{Proxy, Running, Wanted},
};

/// Something that balancers do, and what it costs.
pub struct Scenario {
    pub name: &'static str,
    pub what: What,
}

#[derive(Clone, Copy)]
pub enum What {
    /// The client sends a request, and closes once it has the answer.
    Connections {
        clients: usize,
    },
    /// The backend greets and closes.
    Greetings {
        clients: usize,
    },
    Requests {
        clients: usize,
        size: usize,
    },
    Latency {
        clients: usize,
        per_second: u32,
    },
    Download {
        clients: usize,
    },
    SlowDownload {
        clients: usize,
    },
    Upload {
        clients: usize,
    },
    Idle {
        clients: usize,
    },
    Cut {
        clients: usize,
    },
    Churn {
        clients: usize,
    },
    /// System calls of one.
    Calls {
        of: Unit,
    },
}

/// The unit for which system calls are counted.
#[derive(Clone, Copy)]
pub enum Unit {
    Connection,
    Greeting,
    Request,
}

/// A number of a round: what, in which unit.
pub type Figure = (String, f64);

/// All there are.
pub const ALL: [Scenario; 21] = [
    Scenario { name: "connections", what: What::Connections { clients: 64 } },
    Scenario { name: "greetings", what: What::Greetings { clients: 64 } },
    Scenario { name: "requests-1x64", what: What::Requests { clients: 1, size: 64 } },
    Scenario { name: "requests-64x64", what: What::Requests { clients: 64, size: 64 } },
    Scenario { name: "requests-512x64", what: What::Requests { clients: 512, size: 64 } },
    Scenario { name: "requests-1x4096", what: What::Requests { clients: 1, size: 4096 } },
    Scenario { name: "requests-64x4096", what: What::Requests { clients: 64, size: 4096 } },
    Scenario { name: "requests-512x4096", what: What::Requests { clients: 512, size: 4096 } },
    Scenario { name: "latency", what: What::Latency { clients: 64, per_second: 5000 } },
    Scenario { name: "download-1", what: What::Download { clients: 1 } },
    Scenario { name: "download-8", what: What::Download { clients: 8 } },
    Scenario { name: "upload-1", what: What::Upload { clients: 1 } },
    Scenario { name: "upload-8", what: What::Upload { clients: 8 } },
    Scenario { name: "slow-readers-100", what: What::SlowDownload { clients: 100 } },
    Scenario { name: "idle-3000", what: What::Idle { clients: 3000 } },
    Scenario { name: "idle-9000", what: What::Idle { clients: 9000 } },
    Scenario { name: "cut-9000", what: What::Cut { clients: 9000 } },
    Scenario { name: "churn", what: What::Churn { clients: 64 } },
    Scenario { name: "calls-connection", what: What::Calls { of: Unit::Connection } },
    Scenario { name: "calls-greeting", what: What::Calls { of: Unit::Greeting } },
    Scenario { name: "calls-request-64x64", what: What::Calls { of: Unit::Request } },
];

/// Between two replacements of the scenario that churns.
const CHURN_PAUSE: Duration = Duration::from_millis(10);

impl Scenario {
    /// What each row of it is about, in words.
    pub fn title(&self) -> String {
        match self.what {
            What::Connections { clients } => {
                format!("connections, {clients} at a time, each with a request of 64 B")
            }
            What::Greetings { clients } => {
                format!("connections, {clients} at a time, each greeted and closed by its backend")
            }
            What::Requests { clients, size } => {
                format!("requests of {size} B, {clients} connections")
            }
            What::Latency { clients, per_second } => {
                format!("{per_second} requests of 64 B a second over {clients} connections")
            }
            What::Download { clients } => {
                format!("download, {clients} connections")
            }
            What::SlowDownload { clients } => format!("download, {clients} slow readers"),
            What::Upload { clients } => format!("upload, {clients} connections"),
            What::Idle { clients } => format!("{clients} idle connections"),
            What::Cut { clients } => format!("a replacement that cuts {clients} connections"),
            What::Churn { clients } => {
                format!("a replacement every 10 ms under the requests of {clients} clients")
            }
            What::Calls { of: Unit::Connection } => "system calls of a connection".into(),
            What::Calls { of: Unit::Greeting } => {
                "system calls of a connection greeted and closed by its backend".into()
            }
            What::Calls { of: Unit::Request } => "system calls of a request, 64 connections".into(),
        }
    }

    /// Whether this can be measured of that proxy.
    pub fn suits(&self, proxy: Proxy) -> bool {
        match self.what {
            What::Cut { .. } | What::Churn { .. } => proxy.can_replace() && !proxy.is_other_mode(),
            What::Idle { .. } | What::Calls { .. } => {
                proxy != Proxy::Direct && !proxy.is_other_mode()
            }
            What::Download { .. } | What::SlowDownload { .. } | What::Upload { .. } => true,
            _ => !proxy.is_other_mode(),
        }
    }

    /// Whether a proxy serves one round only.
    pub fn is_fresh_each_round(&self) -> bool {
        matches!(self.what, What::Idle { .. } | What::Cut { .. })
    }

    /// What is counted rather than timed is the same in every round.
    pub fn rounds_max(&self) -> usize {
        match self.what {
            What::Idle { .. } | What::Calls { .. } => 1,
            _ => usize::MAX,
        }
    }

    pub fn start_backends(&self) -> Vec<SocketAddr> {
        match self.what {
            What::Download { .. } | What::SlowDownload { .. } => Backend::Source.start(1),
            What::Upload { .. } => Backend::Sink.start(1),
            What::Greetings { .. } | What::Calls { of: Unit::Greeting } => {
                Backend::Greeter.start(4)
            }
            _ => Backend::Echo.start(4),
        }
    }

    pub fn start(&self, proxy: Proxy, backends: &[SocketAddr]) -> io::Result<Running> {
        let first = if matches!(self.what, What::Cut { .. }) { 1 } else { backends.len() };
        let bulk = matches!(
            self.what,
            What::Download { .. } | What::SlowDownload { .. } | What::Upload { .. }
        );
        proxy.start(&Wanted { backends, first, bulk, settings: "" })
    }

    /// One round. The first figure is the one to compare by.
    pub async fn round(&self, proxy: &mut Running, time: Duration) -> io::Result<Vec<Figure>> {
        match self.what {
            What::Connections { clients } => {
                Ok(figures(load::connections(proxy, clients, time).await?))
            }
            What::Greetings { clients } => {
                Ok(figures(load::greetings(proxy, clients, time).await?))
            }
            What::Requests { clients, size } => {
                Ok(figures(load::requests(proxy, clients, size, time).await?))
            }
            What::Latency { clients, per_second } => latency(proxy, clients, per_second, time),
            What::Download { clients } => {
                Ok(bulk_figures(load::download(proxy, clients, time).await?))
            }
            What::SlowDownload { clients } => {
                Ok(bulk_figures(load::slow_download(proxy, clients, time).await?))
            }
            What::Upload { clients } => Ok(bulk_figures(load::upload(proxy, clients, time).await?)),
            What::Idle { clients } => idle(proxy, clients).await,
            What::Cut { clients } => cut(proxy, clients).await,
            What::Churn { clients } => churn(proxy, clients, time).await,
            What::Calls { of } => calls(proxy, of, time).await,
        }
    }
}

fn figures(done: load::Done) -> Vec<Figure> {
    let cpu = done.cpu.map(|cpu| figure("CPU µs each", cpu.as_secs_f64() * 1e6 / done.units));
    let rate = figure("a second", done.units / done.time.as_secs_f64());
    cpu.into_iter().chain([rate]).collect()
}

fn bulk_figures(done: load::Done) -> Vec<Figure> {
    let gibibytes = done.units / f64::from(1 << 30);
    let cpu = done.cpu.map(|cpu| figure("CPU ms a GiB", cpu.as_secs_f64() * 1e3 / gibibytes));
    let rate = figure("GiB/s", gibibytes / done.time.as_secs_f64());
    cpu.into_iter().chain([rate]).collect()
}

fn latency(
    proxy: &Running,
    clients: usize,
    per_second: u32,
    time: Duration,
) -> io::Result<Vec<Figure>> {
    let before = cpu(proxy);
    let latencies = paced::latencies(proxy.address, clients, per_second, time)?;
    let cpu = proxy.process.as_ref().map(|process| process.usage().cpu - before);
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    let figures =
        [figure("p50 µs", at(0.5)), figure("p99 µs", at(0.99)), figure("p99.9 µs", at(0.999))];
    let cpu = cpu.map(|cpu| figure("CPU ms", cpu.as_secs_f64() * 1e3));
    Ok(figures.into_iter().chain(cpu).collect())
}

async fn idle(proxy: &mut Running, clients: usize) -> io::Result<Vec<Figure>> {
    let Running { address, process: Some(process), .. } = proxy else { return Ok(Vec::new()) };
    sleep(Duration::from_millis(300)).await;
    let before = process.usage();
    let streams = load::idle(*address, clients).await?;
    sleep(Duration::from_millis(500)).await;
    let with = process.usage();
    drop(streams);
    let began = Instant::now();
    while process.usage().files > before.files && began.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_millis(500)).await;
    let after = process.usage();
    let each = |count: f64| count / clients as f64;
    Ok(vec![
        figure("B each", each(with.memory as f64 - before.memory as f64)),
        figure("files each", each(with.files as f64 - before.files as f64)),
        figure("MiB before", before.memory as f64 / f64::from(1 << 20)),
        figure("MiB with", with.memory as f64 / f64::from(1 << 20)),
        figure("MiB after", after.memory as f64 / f64::from(1 << 20)),
    ])
}

async fn cut(proxy: &mut Running, clients: usize) -> io::Result<Vec<Figure>> {
    let streams = load::idle(proxy.address, clients).await?;
    sleep(Duration::from_millis(500)).await;
    let controller = mem::take(&mut proxy.controller);
    let (before, began) = (cpu(proxy), Instant::now());
    let answered = spawn_blocking(move || controller.replace(&[1]).map(|()| began.elapsed()));
    load::all_closed(streams).await;
    let closed = began.elapsed();
    let answered = answered.await??;
    sleep(Duration::from_millis(300)).await;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(vec![
        figure("CPU ms", ms(cpu(proxy) - before)),
        figure("ms to the last client", ms(closed)),
        figure("ms to the answer", ms(answered)),
    ])
}

async fn churn(proxy: &mut Running, clients: usize, time: Duration) -> io::Result<Vec<Figure>> {
    let controller = mem::take(&mut proxy.controller);
    let (stop, stopped) = mpsc::channel::<()>();
    let replacing = spawn_blocking(move || {
        for turn in 0.. {
            let keep: Vec<usize> = (0..4).filter(|n| *n != turn % 4).collect();
            controller.replace(&keep)?;
            if stopped.recv_timeout(CHURN_PAUSE) == Err(mpsc::RecvTimeoutError::Disconnected) {
                break;
            }
        }
        io::Result::Ok(controller)
    });
    let churned = load::churn(proxy, clients, time).await;
    drop(stop);
    proxy.controller = replacing.await??;
    let (done, cuts) = churned?;
    Ok(figures(done).into_iter().chain([figure("cut", cuts as f64)]).collect())
}

async fn calls(proxy: &Running, of: Unit, time: Duration) -> io::Result<Vec<Figure>> {
    let Some(process) = &proxy.process else { return Ok(Vec::new()) };
    let load = async || match of {
        Unit::Connection => load::connections(proxy, 64, time).await,
        Unit::Greeting => load::greetings(proxy, 64, time).await,
        Unit::Request => load::requests(proxy, 64, 64, time).await,
    };
    let calls = Calls::begin(process, proxy.files())?;
    let done = load().await?;
    let calls = calls.end()?;
    let each = |count: u64| count as f64 / done.units_in_all;
    let mut figures = vec![figure("calls each", each(calls.values().sum()))];
    figures.extend(calls.into_iter().map(|(name, count)| (name, each(count))));
    // What was called now and then says nothing of what was counted.
    figures.retain(|(_, each)| *each >= 0.05);
    Ok(figures)
}

fn figure(name: &str, value: f64) -> Figure {
    (name.to_string(), value)
}

fn cpu(proxy: &Running) -> Duration {
    proxy.process.as_ref().map_or(Duration::ZERO, |process| process.usage().cpu)
}
