use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tinylb_core::{BackendKey, DialFailure, Event, Handle, Limit, Report, SessionId};
use tinylb_tokio::Address;
use tracing::{Level, debug, enabled, info, warn};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{filter::Targets, prelude::*};

use crate::args;

/// Lines that wait to be written; more are dropped, since a log must not hold up traffic.
const LINES_MAX: usize = 10_000;

/// The target of lines that are logged at any level: who starts the program reads them.
pub(crate) const ALWAYS: &str = "tinylb::always";

/// Keys named in one line.
const KEYS_MAX: usize = 10;

/// The least time between two lines of a service about failures.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Starts the log, on standard error and by a thread of its own. The guard writes out what waits
/// when it is dropped. Whether a line can be written makes no difference to anything.
pub(crate) fn start(log: &args::Log) -> WorkerGuard {
    let is_terminal = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .finish(std::io::stderr());
    let level = match log.log_level {
        args::LogLevel::Error => Level::ERROR,
        args::LogLevel::Warn => Level::WARN,
        args::LogLevel::Info => Level::INFO,
        args::LogLevel::Debug => Level::DEBUG,
    };
    let shown = Targets::new().with_default(level).with_target(ALWAYS, Level::INFO);
    let lines = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(Level::TRACE)
        .with_target(false)
        .with_ansi(is_terminal && std::env::var_os("NO_COLOR").is_none());
    let is_human = log.log_format.map_or(is_terminal, |f| f == args::LogFormat::Human);
    if is_human {
        lines.finish().with(shown).init();
    } else {
        let lines = lines.json().flatten_event(true).with_current_span(false);
        lines.with_span_list(false).finish().with(shown).init();
    }
    guard
}

/// Makes log lines and counts of one service's events.
pub(crate) struct EventLog {
    service: String,
    /// Knows what no event tells. Weak, since the server holds this log.
    handle: OnceLock<Weak<Handle<Address>>>,
    pub(crate) dial_failures: AtomicU64,
    pub(crate) accept_failures: AtomicU64,
    failure_lines: Mutex<Sparing>,
    /// Who is connected, and since when; kept only while lines for each connection are wanted.
    clients: Mutex<BTreeMap<SessionId, (String, Instant)>>,
}

/// At most a line a second.
#[derive(Default)]
struct Sparing {
    last: Option<Instant>,
    spared: u64,
}

impl EventLog {
    pub(crate) fn new(service: &str) -> Self {
        Self {
            service: service.into(),
            handle: OnceLock::new(),
            dial_failures: AtomicU64::new(0),
            accept_failures: AtomicU64::new(0),
            failure_lines: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// Asks the server by this handle, as long as there is one.
    pub(crate) fn ask(&self, handle: &Arc<Handle<Address>>) {
        let _ = self.handle.set(Arc::downgrade(handle));
    }

    pub(crate) fn observe(&self, event: &Event<Address>) {
        let service = self.service.as_str();
        match event {
            Event::Accepted { id, peer, .. } if enabled!(Level::DEBUG) => {
                lock(&self.clients).insert(*id, (peer.clone(), Instant::now()));
            }
            // A removal's doing, and counted there.
            Event::DialFailed { failure: DialFailure::Revoked, .. } => {}
            Event::DialFailed { pick, failure, .. } => {
                self.dial_failures.fetch_add(1, Ordering::Relaxed);
                if let Some(spared) = lock(&self.failure_lines).line() {
                    let (backend, target) = (pick.key.as_str(), &pick.target);
                    warn!(service, backend, %target, spared, "dial failed: {failure}");
                }
            }
            Event::Ended { id, pick, reason, bytes_to_backend, bytes_to_client } => {
                self.ended(*id, pick.as_ref().map(|pick| &pick.key), || {
                    (reason.as_str(), *bytes_to_backend, *bytes_to_client)
                });
            }
            Event::SetReplaced(report) => self.replaced(report),
            Event::SourceLost { reason } => {
                let handle = self.handle.get().and_then(Weak::upgrade);
                let set_age = handle.and_then(|handle| handle.snapshot().set_age);
                let set_age_seconds = set_age.map(|age| age.as_secs_f64());
                warn!(
                    service,
                    set_age_seconds,
                    "source of backends lost, nothing changes until it is back: {reason}"
                );
            }
            Event::SourceBack { lost_for } => {
                let lost_seconds = lost_for.as_secs_f64();
                info!(service, lost_seconds, "source of backends is back");
            }
            Event::SourceStale { reason } => {
                warn!(
                    service,
                    "source of backends lost for too long, no backend is left: {reason}"
                );
            }
            Event::SetHeld(held) => {
                let (removed, targets, hold) = (held.removed, held.targets, held.hold);
                warn!(
                    service,
                    "the source says that {removed} of {targets} targets have left: held for \
                     {hold:?}"
                );
            }
            Event::EntriesLeftOut(entries) if entries.is_empty() => {
                info!(service, "no entry of the source is left out any more");
            }
            Event::EntriesLeftOut(entries) => {
                let first = &entries[0];
                warn!(service, entries = entries.len(), "entries of the source left out: {first}");
            }
            Event::LimitReached(Limit::Own(max_connections)) => {
                warn!(
                    service,
                    max_connections,
                    "max_connections is reached, new clients wait until others leave: raise it if \
                     the backends can take more"
                );
            }
            Event::LimitReached(Limit::Shared(connections)) => {
                warn!(
                    service,
                    connections,
                    "no descriptors are left, new clients wait until others leave: raise \
                     `ulimit -n` (LimitNOFILE of a systemd unit)"
                );
            }
            Event::LimitLeft => info!(service, "new clients don't have to wait any more"),
            Event::AcceptFailed { error, pause, .. } => {
                self.accept_failures.fetch_add(1, Ordering::Relaxed);
                if let Some(spared) = lock(&self.failure_lines).line() {
                    let pause_ms = pause.map(|pause| pause.as_millis() as u64);
                    warn!(service, pause_ms, spared, "accept failed: {error}");
                }
            }
            _ => {}
        }
    }

    fn ended(
        &self,
        id: SessionId,
        backend: Option<&BackendKey>,
        end: impl FnOnce() -> (&'static str, u64, u64),
    ) {
        if !enabled!(Level::DEBUG) {
            return;
        }
        let Some((client, since)) = lock(&self.clients).remove(&id) else { return };
        let (reason, bytes_to_backend, bytes_to_client) = end();
        debug!(
            service = self.service,
            session = id.serial(),
            client,
            backend = backend.map(BackendKey::as_str),
            reason,
            bytes_to_backend,
            bytes_to_client,
            ms = since.elapsed().as_millis() as u64,
            "connection ended"
        );
    }

    fn replaced(&self, report: &Report) {
        info!(
            service = self.service,
            generation = report.generation.number(),
            backends = report.backends,
            added = keys(&report.added),
            removed = keys(&report.removed),
            retargeted = keys(&report.retargeted),
            sessions_cut = report.sessions_cut,
            dials_revoked = report.dials_revoked,
            sessions_draining = report.sessions_draining,
            "backends replaced"
        );
    }
}

impl Sparing {
    /// Whether a line may be logged now, and if so, how many were spared since the last.
    fn line(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < FAILURE_PAUSE) {
            self.spared += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.spared))
    }
}

/// The first few of many keys.
fn keys(keys: &[BackendKey]) -> String {
    let named: Vec<&str> = keys.iter().take(KEYS_MAX).map(BackendKey::as_str).collect();
    match keys.len() - named.len() {
        0 => named.join(","),
        more => format!("{} and {more} more", named.join(",")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_makes_one_line_a_second() {
        let mut sparing = Sparing::default();
        assert_eq!(sparing.line(), Some(0));
        assert_eq!((sparing.line(), sparing.line()), (None, None));
        sparing.last = Instant::now().checked_sub(FAILURE_PAUSE);
        assert_eq!(sparing.line(), Some(2));
    }

    #[test]
    fn a_line_names_a_few_keys_and_counts_the_rest() {
        let many: Vec<BackendKey> = (0..12).map(|n| format!("k{n}").into()).collect();
        assert_eq!(keys(&many[..2]), "k0,k1");
        assert!(keys(&many).ends_with("k9 and 2 more"));
    }
}
