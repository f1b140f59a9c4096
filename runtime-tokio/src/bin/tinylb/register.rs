//! `tinylb register`: keeps a backend's key in etcd while the backend is there.

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

use futures::{Stream, StreamExt, stream};
use tinylb_tokio::{EtcdRegistration, EtcdRegistrationEvent};
use tokio::signal::unix::SignalKind;
use tracing::{info, warn};

use self::{check::Verdict, command::Command};
use crate::{
    Failure,
    args::Register,
    block_on, log,
    stop::{Stop, hear},
};

/// Keeps a backend registered until a signal says to stop, or until its command has ended.
pub(crate) fn register(args: &Register) -> Result<ExitCode, Failure> {
    let no_etcd = || Failure::Usage("no etcd to register in: give `--etcd` and `--prefix`".into());
    let etcd = args.etcd.read()?.ok_or_else(no_etcd)?;
    let options = etcd.options().map_err(Failure::Usage)?;
    let registration = EtcdRegistration::new(options, &args.key, &args.address, args.ttl)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let _log = log::start(&args.log)?;
    block_on(serve(args, registration))
}

async fn serve(args: &Register, registration: EtcdRegistration) -> Result<ExitCode, Failure> {
    let mut stop = Stop::new()?;
    // It doesn't end by a hangup, just as `tinylb run` doesn't: nothing would take the key out.
    let _hangup = hear(SignalKind::hangup())?;
    let mut command = match args.command.split_first() {
        Some((program, arguments)) => {
            let started = Command::start(program, arguments);
            Some(started.map_err(|error| cannot_run(Path::new(program), &error))?)
        }
        None => None,
    };
    let verdicts = match args.check {
        Some(_) => check::verdicts(args.address.clone()).boxed(),
        None => stream::iter([Verdict::Accepts]).chain(stream::pending()).boxed(),
    };
    let mut keeper = Keeper::new(args, registration);
    let code = tokio::select! {
        biased;
        code = ended(&mut command) => Some(code),
        () = stop.said() => None,
        never = keeper.keep(verdicts) => match never {},
    };
    // First out of etcd, then the end: nobody new is sent to who is about to go.
    let withdrawn = tokio::select! {
        biased;
        withdrawn = keeper.withdraw() => withdrawn,
        () = stop.said() => Err("stopped by a second signal".into()),
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

/// With the exit codes that `env` and `nohup` have for it.
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

/// How long it may take to take the key out of etcd at the end.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(3);

/// Between two lines that tell why etcd is away, as reasons may change back and forth.
const LOST_PAUSE: Duration = Duration::from_secs(60);

struct Keeper<'a> {
    args: &'a Register,
    registration: EtcdRegistration,
    /// The backend is there.
    is_wanted: bool,
    /// Its key may be.
    is_in_etcd: bool,
    /// That the key is set was told, and not that it is out again.
    is_registered: bool,
    /// Why etcd is away, and when that was told.
    lost: Option<(Arc<str>, Instant)>,
}

/// What came of some work.
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

    /// Keeps the backend registered while it is there. If it is dropped, what it has in etcd stays
    /// for the time of the lease.
    async fn keep(&mut self, verdicts: impl Stream<Item = Verdict>) -> Infallible {
        let mut verdicts = pin!(verdicts);
        loop {
            tokio::select! {
                biased;
                Some(verdict) = verdicts.next() => self.judge(verdict),
                done = self.work() => match done {
                    Done::Event(event) => self.tell(event),
                    Done::Withdrawn(Ok(())) => self.withdrawn(),
                    Done::Withdrawn(Err(reason)) => self.tell_lost(reason),
                },
            }
        }
    }

    /// Does what is to be done in etcd. If it is dropped, nothing is lost.
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
        self.is_wanted = verdict == Verdict::Accepts;
        if let Verdict::Refuses(reason) = verdict {
            let address = self.args.address.to_string();
            warn!(address, "the backend accepts no connections: {reason}");
        }
    }

    fn tell(&mut self, event: EtcdRegistrationEvent) {
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
                    "another one has registered this key, which is left to it until it ends: give \
                     each backend a key of its own"
                );
            }
            EtcdRegistrationEvent::Lost(reason) => self.tell_lost(reason),
            _ => {}
        }
    }

    fn tell_lost(&mut self, reason: Arc<str>) {
        let is_told = self
            .lost
            .as_ref()
            .is_some_and(|(told, at)| *told == reason || at.elapsed() < LOST_PAUSE);
        if !is_told {
            warn!(key = self.args.key, "etcd lost, and the key with it if that lasts: {reason}");
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
            // Most likely there is nothing to take out.
            Err(_) if !self.is_registered => {}
            Err(reason) => return Err(reason),
        }
        Ok(())
    }

    /// That the key is still there, for people to read.
    fn left_behind(&self, reason: &str) -> String {
        let Register { key, ttl, .. } = self.args;
        format!(
            "can't take {key} out of etcd, where its lease ends it within {ttl:?} after etcd is \
             back: {reason}"
        )
    }
}
