use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tinylb_tokio::Address;
use tokio::{signal::unix::SignalKind, sync::mpsc, time::sleep};
use tracing::{error, info};

use crate::{
    Failure, admin, allocator,
    args::Run,
    block_on,
    config::{self, Config, LoadError},
    descriptors,
    life::Ends,
    log,
    program::{Applied, Program},
    stop::{Stop, hear},
    watch,
};

/// Pause before a file that could not be read for want of something is read again.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// `tinylb run`: balances until told to stop.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    args.check()?;
    // Before the file is read, so that a change in between counts.
    let read = args.config.as_deref().and_then(|path| watch::signature(path).ok());
    let config = configuration(args)?;
    check_admin(args, &config)?;
    descriptors::raise_limit();
    let _log = log::start(&args.log)?;
    // Connections are the workers' affair.
    block_on(serve(args, config, read))
}

fn configuration(args: &Run) -> Result<Config, Failure> {
    match &args.config {
        Some(path) => {
            // Nothing for etcd that would go unheard.
            args.etcd.read()?;
            config::load(path).map_err(|error| Failure::Error(error.to_string()))
        }
        None => {
            let service = config::Service::new(args.listen.clone(), args.source()?);
            Ok(Config { services: BTreeMap::from([("default".into(), service)]), workers: None })
        }
    }
}

/// Otherwise the program's own listener would be in the way.
fn check_admin(args: &Run, config: &Config) -> Result<(), Failure> {
    let Some(admin) = &args.admin else { return Ok(()) };
    let takes_any_port = matches!(admin, Address::Tcp(target) if target.port == 0);
    let has_it = |service: &config::Service| service.listen.contains(admin) && !takes_any_port;
    match config.services.iter().find(|(_, service)| has_it(service)) {
        Some((name, _)) => Err(Failure::Usage(format!(
            "--admin {admin} is where the service {name} listens: choose another address for one of \
             them"
        ))),
        None => Ok(()),
    }
}

async fn serve(args: &Run, config: Config, read: Option<watch::Signature>) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    // On this thread, like everything that is spawned from it.
    tokio::spawn(allocator::collect_regularly());
    let mut hangup = hear(SignalKind::hangup())?;
    let (fatal, mut deaths) = mpsc::unbounded_channel();
    let program =
        Arc::new(Program::new(args.workers, args.splice.into(), args.admin.clone(), fatal));
    let _admin_file = match &args.admin {
        Some(address) => admin::start(address, args.admin_write, Arc::clone(&program)),
        None => Ok(None),
    }
    .map_err(Failure::Error)?;
    program.apply(config).map_err(Failure::Error)?;

    // Without a file, nothing changes and a hangup has nothing to read again.
    let path = args.config.clone();
    let (_unchanged, no_changes) = mpsc::channel(1);
    let mut changes = match path.clone() {
        Some(path) => watch::changes(path, read).map_err(|error| {
            Failure::Error(format!("can't watch the file: {error}: raise the limit on threads"))
        })?,
        None => no_changes,
    };
    let mut try_again = false;
    let mut result = Ok(());
    loop {
        tokio::select! {
            biased;
            Some(death) = deaths.recv() => {
                error!("{death}");
                let _ = program.stop();
                result = Err(Failure::Error(death));
            }
            () = stop.said() => if !program.stop() {
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
            _ = hangup.recv() => try_again = reload(&program, path.as_ref(), Reading::AsItIs),
            Some(()) = changes.recv() => {
                try_again = reload(&program, path.as_ref(), Reading::Settled);
            }
            () = sleep(READ_PAUSE), if try_again => {
                try_again = reload(&program, path.as_ref(), Reading::AsItIs);
            }
        }
    }
}

/// How a file is read again.
enum Reading {
    /// Now, since somebody said so.
    AsItIs,
    /// Unless it is being written at this moment: its change will be told of again.
    Settled,
}

/// Reads the file again and does as it says. A file that can't be used changes nothing. Returns
/// whether that is worth another try though the file stays as it is.
fn reload(program: &Arc<Program>, path: Option<&PathBuf>, reading: Reading) -> bool {
    let Some(path) = path else { return false };
    let before = watch::signature(path).ok();
    let loaded = config::load(path);
    if matches!(reading, Reading::Settled) && watch::signature(path).ok() != before {
        return false;
    }
    // A file that is gone or is somebody else's tells when that changes; a lack of descriptors
    // does not.
    let is_passing = matches!(&loaded, Err(LoadError::Io { source, .. })
        if source.raw_os_error().is_some() && before.is_some());
    let applied =
        loaded.map_err(|error| error.to_string()).and_then(|config| program.apply(config));
    match applied {
        Ok(Applied::Whole) => info!("configuration read again"),
        Ok(Applied::ToTheRest { reached, passed_over }) => info!(
            services_reached = reached,
            services_passed_over = passed_over,
            "configuration read again while shutting down: services that still have sessions took \
             their backends and settings, nothing else was started or changed"
        ),
        Err(error) => {
            for line in error.lines() {
                error!("configuration not taken, nothing changed: {line}");
            }
        }
    }
    is_passing
}
