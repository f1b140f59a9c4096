use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Fuse, FusedFuture},
};
use tinylb_services::Ends;
use tinylb_tokio::{Address, FileSignature, run_blocking};
use tokio::{signal::unix::SignalKind, sync::mpsc, time::sleep};
use tracing::{error, info};

use crate::{
    Failure, admin, allocator,
    args::Run,
    block_on,
    config::{self, Config, LoadError, ServiceConfig},
    descriptors, log,
    program::{Applied, Program},
    record::{self, Recorder},
    stop::{Stop, signals},
    watch,
};

/// Pause before the file is read again if something else than the file prevented that.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// `tinylb run`: balances until it is stopped.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    args.check()?;
    // Before the file is read, so that a change in between counts.
    let read = args.config.as_deref().and_then(|path| FileSignature::of(path).ok());
    let config = configuration(args)?;
    check_admin(args, &config)?;
    descriptors::raise_limit();
    let _log = log::start(&args.log)?;
    // Ended after the services, and before the log.
    let (recorder, _recording) = record::start(args)?.unzip();
    // The workers carry the connections.
    block_on(serve(args, config, read, recorder))
}

fn configuration(args: &Run) -> Result<Config, Failure> {
    match &args.config {
        Some(path) => {
            // Checked here too, so that no argument is ignored.
            args.etcd.read()?;
            args.check.read().map_err(Failure::Usage)?;
            config::load(path).map_err(|error| Failure::Error(error.to_string()))
        }
        None => {
            let mut service = ServiceConfig::new(args.listen.clone(), args.backends()?);
            service.check = args.check.read().map_err(Failure::Usage)?;
            let check = service.check.as_ref();
            if let Some(message) = check.and_then(|check| check.misfit(&service.backends)) {
                return Err(Failure::Usage(message));
            }
            Ok(Config { services: BTreeMap::from([("default".into(), service)]), workers: None })
        }
    }
}

/// Refuses an admin address where a service listens: the two would be in each other's way.
fn check_admin(args: &Run, config: &Config) -> Result<(), Failure> {
    let Some(admin) = &args.admin else { return Ok(()) };
    let takes_any_port = matches!(admin, Address::Tcp(target) if target.port == 0);
    let has_it = |service: &ServiceConfig| service.listen.contains(admin) && !takes_any_port;
    match config.services.iter().find(|(_, service)| has_it(service)) {
        Some((name, _)) => Err(Failure::Usage(format!(
            "--admin {admin} is where the service {name} listens: choose another address for one of \
             them"
        ))),
        None => Ok(()),
    }
}

async fn serve(
    args: &Run,
    config: Config,
    read: Option<FileSignature>,
    recorder: Option<Recorder>,
) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    // On this thread, like everything that is spawned from it.
    tokio::spawn(allocator::collect_regularly());
    let mut hangup = signals(SignalKind::hangup())?;
    let (fatal, mut deaths) = mpsc::unbounded_channel();
    let splice = args.splice.into();
    let program = Arc::new(Program::new(args.workers, splice, args.admin.clone(), recorder, fatal));
    let _admin_file = match &args.admin {
        Some(address) => admin::start(address, args.admin_write, Arc::clone(&program)),
        None => Ok(None),
    }
    .map_err(Failure::Error)?;
    program.apply(config).map_err(Failure::Error)?;

    // Without a file, nothing changes, and a hangup does nothing.
    let path = args.config.clone();
    let (_unchanged, no_changes) = mpsc::channel(1);
    let mut changes = match path.clone() {
        Some(path) => watch::changes(path, read).map_err(|error| {
            Failure::Error(format!("can't watch the file: {error}: raise the limit on threads"))
        })?,
        None => no_changes,
    };
    // While the file is read, a hangup or a change waits, since the file may have changed meanwhile.
    let mut reading = Fuse::terminated();
    // Why the last read failed, if the next one may succeed though the file stays as it is.
    let mut failed = None;
    let mut result = Ok(());
    loop {
        tokio::select! {
            biased;
            Some(death) = deaths.recv() => {
                error!("{death}");
                let _ = program.stop();
                result = Err(Failure::Error(death));
            }
            () = stop.requested() => if !program.stop() {
                program.abort();
            },
            ends = program.stopped() => {
                let Ends { finished, cut, removed, otherwise } = ends;
                info!(
                    sessions_finished = finished,
                    sessions_cut = cut,
                    sessions_cut_by_removal = removed,
                    sessions_ended_otherwise = otherwise,
                    "stopped"
                );
                return result;
            }
            () = program.watch_sets() => {}
            read = &mut reading => failed = reload(&program, read, failed.take()),
            _ = hangup.recv(), if reading.is_terminated() => {
                failed = None;
                reading = start_reading(path.as_ref(), Reading::AsItIs);
            }
            Some(()) = changes.recv(), if reading.is_terminated() => {
                reading = start_reading(path.as_ref(), Reading::Settled);
            }
            () = sleep(READ_PAUSE), if failed.is_some() && reading.is_terminated() => {
                reading = start_reading(path.as_ref(), Reading::AsItIs);
            }
        }
    }
}

/// How a file is read again.
enum Reading {
    /// Now, as a hangup asks for.
    AsItIs,
    /// Unless it is being written at this moment: its watcher reports that change too.
    Settled,
}

/// The outcome of a read: `None` if the file is being written, an error if no thread can be started.
type Read = io::Result<Option<Loaded>>;

struct Loaded {
    config: Result<Config, LoadError>,
    /// Whether the file was there when the read began.
    was_there: bool,
}

/// Reads the file on a thread of its own, so that a file system that hangs holds up nothing else.
fn start_reading(path: Option<&PathBuf>, reading: Reading) -> Fuse<BoxFuture<'static, Read>> {
    let Some(path) = path.cloned() else { return Fuse::terminated() };
    run_blocking(move || load(&path, reading)).boxed().fuse()
}

fn load(path: &Path, reading: Reading) -> Option<Loaded> {
    let before = FileSignature::of(path).ok();
    let config = config::load(path);
    let is_settled = matches!(reading, Reading::AsItIs) || FileSignature::of(path).ok() == before;
    is_settled.then_some(Loaded { config, was_there: before.is_some() })
}

/// Applies the file. A file that can't be used changes nothing, and the log has the reason, unless
/// the read before `failed` with the same one. Returns the reason if the next read may succeed though
/// the file stays as it is.
fn reload(program: &Arc<Program>, read: Read, failed: Option<String>) -> Option<String> {
    let (applied, may_pass) = match read {
        Ok(Some(Loaded { config, was_there })) => {
            // The watcher reports when a missing or unreadable file changes. It can't report the end
            // of a lack of descriptors.
            let may_pass = matches!(&config, Err(LoadError::Io { source, .. })
                if source.raw_os_error().is_some() && was_there);
            let config = config.map_err(|error| error.to_string());
            (config.and_then(|config| program.apply(config)), may_pass)
        }
        Ok(None) => return None,
        Err(error) => (Err(error.to_string()), true),
    };
    match applied {
        Ok(Applied::Whole) => info!("configuration reloaded"),
        Ok(Applied::ToTheRest { reached, passed_over }) => info!(
            services_reached = reached,
            services_passed_over = passed_over,
            "configuration reloaded while shutting down: services that still have sessions took \
             their backends and settings, nothing else was started or changed"
        ),
        Err(error) => {
            if failed.as_ref() != Some(&error) {
                for line in error.lines() {
                    error!("configuration rejected, nothing changed: {line}");
                }
            }
            return may_pass.then_some(error);
        }
    }
    None
}
