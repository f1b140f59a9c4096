mod checks;
mod ejections;
mod format;
mod writer;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tinylb_core::{
    BackendKey, BackendSet, DialFailure, EndReason, Event, Limit, Report, SessionId, VerdictChange,
};
use tinylb_tokio::{Address, AddressChange, AddressFailure};
use tokio::{runtime, time::sleep};
use tracing::{Level, debug, enabled, info, warn};
use tracing_subscriber::{filter::Targets, prelude::*};

use self::{
    format::{JsonLines, Keys},
    writer::Lines,
};
use crate::{
    Failure, args,
    flapping::{self, Flapping},
};

#[cfg(feature = "etcd")]
pub(crate) use self::checks::OwnFaults;
pub(crate) use self::{checks::Verdicts, ejections::Ejections, format::json_line, writer::Guard};

/// The target of lines that are logged at any level, because they say how the program has started.
pub(crate) const ALWAYS: &str = "tinylb::always";

/// The least time between two lines of a service about failures.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Whether lines are text for people instead of JSON.
pub(crate) fn is_human(log: &args::Log) -> bool {
    let is_terminal = io::stderr().is_terminal();
    log.log_format.map_or(is_terminal, |format| format == args::LogFormat::Human)
}

/// Starts the log, which a thread of its own writes to standard error. Dropping the guard writes
/// out waiting lines.
///
/// # Errors
/// The thread can't be started.
pub(crate) fn start(log: &args::Log) -> Result<Guard, Failure> {
    let is_human = is_human(log);
    let lost = move |count| {
        let message = format!("{count} log lines were lost: nobody read them in time");
        if is_human { format!("{message}\n") } else { json_line(Level::WARN, &message) }
    };
    let (writer, guard) = Lines::start(io::stderr(), lost).map_err(|error| {
        let remedy = "raise the limit on threads (`ulimit -u`, or pids.max of the cgroup)";
        Failure::Error(format!("can't start the thread that writes the log: {error}: {remedy}"))
    })?;
    let level = match log.log_level {
        args::LogLevel::Error => Level::ERROR,
        args::LogLevel::Warn => Level::WARN,
        args::LogLevel::Info => Level::INFO,
        args::LogLevel::Debug => Level::DEBUG,
    };
    let shown = Targets::new().with_default(level).with_target(ALWAYS, Level::INFO);
    let lines = tracing_subscriber::fmt().with_writer(writer).with_max_level(Level::TRACE);
    if is_human {
        let is_colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        lines.with_target(false).with_ansi(is_colourful).finish().with(shown).init();
    } else {
        lines.event_format(JsonLines).finish().with(shown).init();
    }
    Ok(guard)
}

/// Makes log lines and counts of one service's events.
pub(crate) struct EventLog {
    service: String,
    pub(crate) dial_failures: AtomicU64,
    pub(crate) accept_failures: AtomicU64,
    pub(crate) address_failures: AtomicU64,
    pub(crate) ejections: Ejections,
    pub(crate) verdicts: Verdicts,
    /// The source's last set was given up.
    is_stale: AtomicBool,
    failure_lines: Mutex<Sparing>,
    flapping: Arc<Mutex<Flapping>>,
    /// Failures of some of the source's lookups.
    partial: Arc<Mutex<Flapping>>,
    /// Where tasks wait until it is known whether a line is needed.
    runtime: Option<runtime::Handle>,
    /// The clients' addresses, and when they connected. Only filled while each connection is logged.
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
            dial_failures: AtomicU64::new(0),
            accept_failures: AtomicU64::new(0),
            address_failures: AtomicU64::new(0),
            ejections: Ejections::default(),
            verdicts: Verdicts::default(),
            is_stale: AtomicBool::new(false),
            failure_lines: Mutex::default(),
            flapping: Arc::default(),
            partial: Arc::default(),
            runtime: runtime::Handle::try_current().ok(),
            clients: Mutex::default(),
        }
    }

    pub(crate) fn observe(&self, event: &Event<Address>) {
        let service = self.service.as_str();
        match event {
            Event::Accepted { id, peer, .. } if enabled!(Level::DEBUG) => {
                lock(&self.clients).insert(*id, (peer.clone(), Instant::now()));
            }
            // The removal caused it, and its line counts it.
            Event::DialFailed { failure: DialFailure::Revoked, .. } => {}
            Event::DialFailed { pick, failure: failure @ DialFailure::GivenUp, .. } => {
                self.ejections.dials_given_up.fetch_add(1, Ordering::Relaxed);
                self.ejections.dial_failed(&pick.target, failure);
            }
            Event::DialFailed { pick, failure, .. } => {
                self.dial_failures.fetch_add(1, Ordering::Relaxed);
                if self.ejections.dial_failed(&pick.target, failure)
                    && let Some(spared) = lock(&self.failure_lines).line()
                {
                    let (backend, target) = (pick.key.as_str(), &pick.target);
                    warn!(service, backend, %target, spared, "dial failed: {failure}");
                }
            }
            Event::Ejected { target, fault } => self.ejections.ejected(service, target, *fault),
            Event::Returned { target, ejected_for } => {
                self.ejections.returned(service, target, *ejected_for);
            }
            Event::Probed { target, failure } => {
                self.ejections.probed(service, target, failure.as_ref());
            }
            Event::Ended { id, pick, reason, bytes_to_backend, bytes_to_client } => {
                if let (EndReason::BackendSilent, Some(pick)) = (reason, pick) {
                    self.ejections.session_cut(service, &pick.target);
                }
                self.ended(*id, pick.as_ref().map(|pick| &pick.key), || {
                    (reason.as_str(), *bytes_to_backend, *bytes_to_client)
                });
            }
            Event::SetReplaced { report, .. } => {
                self.ejections.set_replaced();
                self.replaced(report);
            }
            Event::SourceLost { reason, set_age } => self.source_lost(reason, *set_age),
            Event::SourceBack { lost_for } => self.source_back(*lost_for),
            Event::SourceStale { reason } => {
                self.is_stale.store(true, Ordering::Relaxed);
                warn!(
                    service,
                    "source of backends lost for too long, no backend is left: {reason}"
                );
            }
            Event::SetHeld(held) => {
                let (removed, targets, hold) = (held.removed, held.targets, held.hold);
                warn!(
                    service,
                    "the source's new set lacks {removed} of {targets} targets: it is held for {hold:?}"
                );
            }
            Event::EntriesLeftOut(entries) if entries.is_empty() => {
                info!(service, "no entries of the source are left out any more");
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
            Event::LimitLeft => info!(service, "new clients no longer have to wait"),
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

    /// Logs that a backend passes its checks from now on, or no longer does. `set`: all backends that
    /// are checked.
    pub(crate) fn verdict_changed(
        &self,
        set: Option<&BackendSet<Address>>,
        change: &VerdictChange<Address>,
    ) {
        self.verdicts.changed(&self.service, set, change);
    }

    /// Logs that a backend couldn't be checked through our own fault. `set`: all backends that are
    /// checked.
    pub(crate) fn unasked(
        &self,
        set: Option<&BackendSet<Address>>,
        target: &Address,
        reason: &str,
    ) {
        self.verdicts.unasked(&self.service, set, target, reason);
    }

    /// Logs that one of several addresses of a backend's name has failed.
    pub(crate) fn address_failed(&self, failure: &AddressFailure<'_>) {
        self.address_failures.fetch_add(1, Ordering::Relaxed);
        if failure.is_news {
            let (service, target, address) =
                (self.service.as_str(), failure.target, failure.address.ip());
            warn!(
                service,
                %target,
                "{address} of the backend's name failed, its other addresses come first for a \
                 minute: {}",
                failure.error
            );
        }
    }

    /// Logs that the addresses of a backend's name have changed.
    pub(crate) fn addresses_changed(&self, change: &AddressChange<'_>) {
        info!(
            service = self.service,
            name = change.name,
            old = Keys::new(change.before).field(),
            new = Keys::new(change.after).field(),
            "the addresses of the backend's name have changed: new connections go to the new ones, \
             open connections stay where they are"
        );
    }

    /// The service's name.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// Whether the source has been lost for so long that its last set was given up.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    fn source_back(&self, lost_for: Duration) {
        self.is_stale.store(false, Ordering::Relaxed);
        if lock(&self.flapping).back() {
            let (service, lost_seconds) = (self.service.as_str(), lost_for.as_secs_f64());
            info!(service, lost_seconds, "source of backends is back");
        }
    }

    /// Logs the loss of the source, now or once it has lasted.
    fn source_lost(&self, reason: &Arc<str>, set_age: Option<Duration>) {
        let (service, lost) = (self.service.clone(), Instant::now());
        let log = move |line: flapping::Line| {
            let set_age_seconds = set_age.map(|age| (age + lost.elapsed()).as_secs_f64());
            let flapping::Line { reason, spared } = line;
            warn!(
                service,
                set_age_seconds,
                spared,
                "source of backends lost, nothing changes until it is back: {reason}"
            );
        };
        self.log_loss(&self.flapping, reason, log);
    }

    /// Logs that some of the source's lookups fail, with the reason.
    pub(crate) fn lookups_fail(&self, reason: &str) {
        let service = self.service.clone();
        self.log_loss(&self.partial, &reason.into(), move |line| {
            let flapping::Line { reason, spared } = line;
            warn!(
                service,
                spared, "some lookups of the source fail, their last answers stay in use: {reason}"
            );
        });
    }

    /// Logs that none of the source's lookups fails any more.
    pub(crate) fn lookups_succeed(&self) {
        if lock(&self.partial).back() {
            info!(service = self.service, "all lookups of the source are answered again");
        }
    }

    /// Forgets which of the source's lookups failed, since it has been restarted and will report
    /// them again. A failure in the log gets its end.
    pub(crate) fn source_restarted(&self) {
        if lock(&self.partial).back() {
            info!(
                service = self.service,
                "the source starts over, its earlier lookup failures are forgotten"
            );
        }
    }

    /// Forgets the failures of a source that is no longer followed. A failure in the log gets its
    /// end.
    pub(crate) fn source_gone(&self) {
        self.is_stale.store(false, Ordering::Relaxed);
        let was_lost = lock(&self.flapping).back();
        let was_partial = lock(&self.partial).back();
        if was_lost || was_partial {
            info!(service = self.service, "the source that failed is no longer followed");
        }
    }

    /// Logs a loss, now or once it has lasted.
    fn log_loss(
        &self,
        flapping: &Arc<Mutex<Flapping>>,
        reason: &Arc<str>,
        log: impl Fn(flapping::Line) + Send + 'static,
    ) {
        let line = lock(flapping).lost(Instant::now(), reason);
        match (line, &self.runtime) {
            (Some(line), _) => log(line),
            (None, Some(runtime)) => {
                let flapping = Arc::clone(flapping);
                drop(runtime.spawn(async move {
                    sleep(flapping::LASTING).await;
                    let line = lock(&flapping).lasting(Instant::now());
                    line.into_iter().for_each(log);
                }));
            }
            (None, None) => {}
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
            added = Keys::new(&report.added).field(),
            removed = Keys::new(&report.removed).field(),
            retargeted = Keys::new(&report.retargeted).field(),
            sessions_cut = report.sessions_cut,
            dials_revoked = report.dials_revoked,
            sessions_draining = report.sessions_draining,
            "backends replaced"
        );
    }
}

impl Sparing {
    /// Whether a line may be logged now; if so, how many were left out since the last one.
    fn line(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < FAILURE_PAUSE) {
            self.spared += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.spared))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is logged on this thread meanwhile.
    pub(crate) fn logged(what: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);

        impl io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                lock(&self.0).extend(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(lines.finish(), what);
        String::from_utf8(lock(&written.0).clone()).unwrap()
    }

    #[test]
    fn a_failure_in_the_log_has_its_end_there_whatever_becomes_of_the_source() {
        type Do = fn(&EventLog);
        let partial: Do = |events| events.lookups_fail("SERVFAIL");
        let lost: Do = |events| events.source_lost(&"SERVFAIL".into(), None);
        let cases: [(Do, Do, &str); 4] = [
            (partial, EventLog::lookups_succeed, "are answered again"),
            (partial, EventLog::source_restarted, "starts over"),
            (partial, EventLog::source_gone, "no longer followed"),
            (lost, EventLog::source_gone, "no longer followed"),
        ];
        for (begin, end, text) in cases {
            let events = EventLog::new("s");
            assert_eq!(logged(|| end(&events)), "", "nothing has failed");
            let log = logged(|| {
                begin(&events);
                end(&events);
                end(&events);
                events.lookups_succeed();
            });
            let lines: Vec<&str> = log.lines().collect();
            assert_eq!(lines.len(), 2, "{log}");
            assert!(lines[0].contains("SERVFAIL") && lines[1].contains(text), "{log}");
        }
    }

    #[test]
    fn a_flood_of_failures_makes_one_line_a_second() {
        let mut sparing = Sparing::default();
        assert_eq!(sparing.line(), Some(0));
        assert_eq!((sparing.line(), sparing.line()), (None, None));
        sparing.last = Instant::now().checked_sub(FAILURE_PAUSE);
        assert_eq!(sparing.line(), Some(2));
    }
}
