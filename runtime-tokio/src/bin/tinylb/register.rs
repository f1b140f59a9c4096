//! `tinylb register`: keeps a backend's key in etcd while the backend is there.

mod check;
mod command;

use std::{convert::Infallible, future::pending, io, path::Path, pin::pin, process::ExitCode};

use futures::{Stream, StreamExt, stream};
use tinylb_tokio::{EtcdRegistration, EtcdRegistrationEvent};
use tracing::{info, warn};

use self::{check::Verdict, command::Command};
use crate::{Failure, args::Register, log, stop::Stop};

/// Keeps a backend registered until a signal says to stop, or until its command has ended.
pub(crate) fn register(args: &Register) -> Result<ExitCode, Failure> {
    let options = args.etcd.read()?.options().map_err(Failure::Usage)?;
    let registration = EtcdRegistration::new(options, &args.key, &args.address, args.ttl)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let _log = log::start(&args.log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Error(format!("can't start the runtime: {error}")))?;
    let result = runtime.block_on(serve(args, registration));
    // A name that is still being looked up would hold the program up.
    runtime.shutdown_background();
    result
}

async fn serve(args: &Register, registration: EtcdRegistration) -> Result<ExitCode, Failure> {
    let mut stop =
        Stop::new().map_err(|error| Failure::Error(format!("can't listen to signals: {error}")))?;
    let mut command = match args.command.split_first() {
        Some((program, arguments)) => {
            let started = Command::start(program, arguments);
            Some(started.map_err(|error| cannot_run(Path::new(program), &error))?)
        }
        None => None,
    };
    let verdicts = match args.check {
        Some(_) => check::verdicts(args.address.clone(), args.ttl).boxed(),
        None => stream::iter([Verdict::Accepts]).chain(stream::pending()).boxed(),
    };
    let mut keeper =
        Keeper { args, registration, is_wanted: false, is_registered: false, is_lost: false };
    let code = tokio::select! {
        biased;
        code = ended(&mut command) => Some(code),
        () = stop.said() => None,
        never = keeper.keep(verdicts) => match never {},
    };
    // First out of etcd, then the end: nobody new is sent to who is about to go.
    let withdrawn = keeper.withdraw().await;
    match (code, command) {
        (Some(code), _) => Ok(code),
        (None, Some(command)) => Ok(command.finish(&mut stop).await),
        (None, None) => withdrawn.map(|()| ExitCode::SUCCESS).map_err(Failure::Error),
    }
}

/// With the exit codes that `env` and `nohup` have for it.
fn cannot_run(program: &Path, error: &io::Error) -> Failure {
    let (code, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (127, "check its name"),
        _ => (126, "give a program that may be run"),
    };
    Failure::Code(code, format!("can't run {}: {error}: {remedy}", program.display()))
}

async fn ended(command: &mut Option<Command>) -> ExitCode {
    match command {
        Some(command) => command.ended().await,
        None => pending().await,
    }
}

struct Keeper<'a> {
    args: &'a Register,
    registration: EtcdRegistration,
    /// The backend is there.
    is_wanted: bool,
    /// That the key is set was told.
    is_registered: bool,
    /// That etcd is away was told.
    is_lost: bool,
}

impl Keeper<'_> {
    /// Keeps the backend registered while it is there. If it is dropped, what it has in etcd stays
    /// for the time of the lease.
    async fn keep(&mut self, verdicts: impl Stream<Item = Verdict>) -> Infallible {
        let mut verdicts = pin!(verdicts);
        loop {
            tokio::select! {
                biased;
                Some(verdict) = verdicts.next() => self.judge(verdict).await,
                event = self.registration.next(), if self.is_wanted => self.tell(event),
            }
        }
    }

    async fn judge(&mut self, verdict: Verdict) {
        let address = self.args.address.to_string();
        match verdict {
            Verdict::Accepts => self.is_wanted = true,
            Verdict::Refuses(reason) => {
                self.is_wanted = false;
                warn!(address, "the backend accepts no connections: {reason}");
                if let Err(error) = self.withdraw().await {
                    warn!("{error}");
                }
            }
        }
    }

    fn tell(&mut self, event: EtcdRegistrationEvent) {
        let Register { key, address, .. } = self.args;
        let address = address.to_string();
        self.is_registered |= event == EtcdRegistrationEvent::Registered;
        match event {
            EtcdRegistrationEvent::Registered => {
                self.is_lost = false;
                info!(key, address, "registered");
            }
            EtcdRegistrationEvent::Taken => {
                self.is_lost = false;
                warn!(
                    key,
                    "another one has registered this key, which is left to it until it ends"
                );
            }
            EtcdRegistrationEvent::Lost(reason) if !self.is_lost => {
                self.is_lost = true;
                warn!(key, "etcd lost, and the key with it if that lasts: {reason}");
            }
            _ => {}
        }
    }

    /// Takes the backend out of etcd.
    async fn withdraw(&mut self) -> Result<(), String> {
        let Register { key, ttl, .. } = self.args;
        match self.registration.withdraw().await {
            Ok(()) => {
                if std::mem::take(&mut self.is_registered) {
                    info!(key, "no longer registered");
                }
                Ok(())
            }
            Err(reason) => {
                Err(format!("can't take {key} out of etcd, its lease of {ttl:?} ends it: {reason}"))
            }
        }
    }
}
