//! `tinylb register`: keeps a backend's key in etcd as long as the backend is up.

mod check;
mod command;

use std::{
    convert::Infallible,
    future::pending,
    io, mem,
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream::BoxStream};
use tinylb_tokio::{EtcdRegistration, EtcdRegistrationEvent};
use tokio::signal::unix::SignalKind;
use tracing::{info, warn};

use self::{check::Verdict, command::Command};
use crate::{
    Failure,
    args::{CheckHow, Register},
    block_on, log,
    stop::{Stop, signals},
};

/// Keeps a backend registered until a signal arrives, or until its command has ended.
pub(crate) fn register(args: &Register) -> Result<ExitCode, Failure> {
    let no_etcd = || Failure::Usage("no etcd to register in: give `--etcd` and `--prefix`".into());
    let etcd = args.etcd.read()?.ok_or_else(no_etcd)?;
    let options = etcd.options().map_err(Failure::Usage)?;
    let registration = EtcdRegistration::new(options, &args.key, &args.address, args.ttl)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let verdicts = check::verdicts(args).map_err(Failure::Usage)?;
    let _log = log::start(&args.log)?;
    block_on(serve(args, registration, verdicts))
}

async fn serve(
    args: &Register,
    registration: EtcdRegistration,
    verdicts: BoxStream<'static, Verdict>,
) -> Result<ExitCode, Failure> {
    let mut stop = Stop::new()?;
    // A hangup ends neither this nor `tinylb run`: it would leave the key in etcd.
    let _hangup = signals(SignalKind::hangup())?;
    let mut command = match args.command.split_first() {
        Some((program, arguments)) => {
            let started = Command::start(program, arguments);
            Some(started.map_err(|error| cannot_run(Path::new(program), &error))?)
        }
        None => None,
    };
    let mut keeper = Keeper::new(args, registration);
    let code = tokio::select! {
        biased;
        code = ended(&mut command) => Some(code),
        () = stop.requested() => None,
        never = keeper.keep(verdicts) => match never {},
    };
    // The key goes before the command ends, so that no new client is sent to it.
    let withdrawn = tokio::select! {
        biased;
        withdrawn = keeper.withdraw() => withdrawn,
        () = stop.requested() => Err("stopped by a second signal".into()),
    };
    if let Err(reason) = &withdrawn {
        warn!("{}", keeper.left_behind(reason));
    }
    match (code, command) {
        (Some(code), _) => Ok(code),
        (None, Some(command)) => Ok(command.finish(&mut stop).await),
        (None, None) if withdrawn.is_err() => Ok(ExitCode::FAILURE),
        (None, None) => Ok(ExitCode::SUCCESS),
    }
}

/// Fails with the exit codes that `env` and `nohup` use.
fn cannot_run(program: &Path, error: &io::Error) -> Failure {
    let (code, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (127, "check its name"),
        _ => (126, "give a program that may be run"),
    };
    Failure::Code(code, format!("can't run `{}`: {error}: {remedy}", program.display()))
}

async fn ended(command: &mut Option<Command>) -> ExitCode {
    match command {
        Some(command) => command.ended().await,
        None => pending().await,
    }
}

/// The time limit for taking the key out of etcd at the end.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(3);

/// Time between two lines about the loss of etcd, since its reasons may change back and forth.
const LOST_PAUSE: Duration = Duration::from_secs(60);

struct Keeper<'a> {
    args: &'a Register,
    registration: EtcdRegistration,
    /// Whether the backend is up.
    is_wanted: bool,
    /// Whether its key may be in etcd.
    is_in_etcd: bool,
    /// Whether the log says so last: registered, and not taken out since.
    is_registered: bool,
    /// Why etcd is lost, and when that was logged.
    lost: Option<(Arc<str>, Instant)>,
}

/// The outcome of some work in etcd.
enum Done {
    Event(EtcdRegistrationEvent),
    Withdrawn(Result<(), Arc<str>>),
}

impl<'a> Keeper<'a> {
    fn new(args: &'a Register, registration: EtcdRegistration) -> Self {
        Self {
            args,
            registration,
            is_wanted: false,
            is_in_etcd: false,
            is_registered: false,
            lost: None,
        }
    }

    /// Keeps the backend registered as long as it is up. If this is dropped, the key stays in etcd
    /// until its lease runs out.
    async fn keep(&mut self, verdicts: impl Stream<Item = Verdict>) -> Infallible {
        let mut verdicts = pin!(verdicts);
        loop {
            tokio::select! {
                biased;
                Some(verdict) = verdicts.next() => self.judge(verdict),
                done = self.work() => match done {
                    Done::Event(event) => self.report(event),
                    Done::Withdrawn(Ok(())) => self.withdrawn(),
                    Done::Withdrawn(Err(reason)) => self.report_loss(reason),
                },
            }
        }
    }

    /// Does the next thing in etcd. Dropping this loses nothing.
    async fn work(&mut self) -> Done {
        if self.is_wanted {
            self.is_in_etcd = true;
            Done::Event(self.registration.next().await)
        } else if self.is_in_etcd {
            Done::Withdrawn(self.registration.withdraw(self.args.ttl).await)
        } else {
            pending().await
        }
    }

    fn judge(&mut self, verdict: Verdict) {
        self.is_wanted = verdict == Verdict::Passes;
        if let Verdict::Fails(reason) = verdict {
            let address = self.args.address.to_string();
            match self.args.check {
                Some(CheckHow::Http | CheckHow::Https) => {
                    warn!(address, "the backend fails its check: {reason}")
                }
                _ => warn!(address, "the backend accepts no connections: {reason}"),
            }
        }
    }

    fn report(&mut self, event: EtcdRegistrationEvent) {
        let Register { key, address, .. } = self.args;
        let address = address.to_string();
        match event {
            EtcdRegistrationEvent::Registered => {
                (self.is_registered, self.lost) = (true, None);
                info!(key, address, "registered");
            }
            EtcdRegistrationEvent::Taken => {
                (self.is_registered, self.lost) = (false, None);
                warn!(
                    key,
                    "another process has registered this key, and has it until it ends: give each \
                     backend a key of its own"
                );
            }
            EtcdRegistrationEvent::Lost(reason) => self.report_loss(reason),
            _ => {}
        }
    }

    fn report_loss(&mut self, reason: Arc<str>) {
        let is_known = self
            .lost
            .as_ref()
            .is_some_and(|(logged, at)| *logged == reason || at.elapsed() < LOST_PAUSE);
        if !is_known {
            warn!(key = self.args.key, "etcd lost, the key will expire if that lasts: {reason}");
            self.lost = Some((reason, Instant::now()));
        }
    }

    fn withdrawn(&mut self) {
        self.is_in_etcd = false;
        if mem::take(&mut self.is_registered) {
            info!(key = self.args.key, "no longer registered");
        }
    }

    /// Takes the backend out of etcd, at the end.
    async fn withdraw(&mut self) -> Result<(), Arc<str>> {
        match self.registration.withdraw(WITHDRAWAL_MAX).await {
            Ok(()) => self.withdrawn(),
            // Most likely the key isn't there.
            Err(_) if !self.is_registered => {}
            Err(reason) => return Err(reason),
        }
        Ok(())
    }

    /// The message that the key is still there.
    fn left_behind(&self, reason: &str) -> String {
        let Register { key, ttl, .. } = self.args;
        format!(
            "can't take {key} out of etcd, where it expires within {ttl:?} after etcd is back: \
             {reason}"
        )
    }
}
