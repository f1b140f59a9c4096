use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use tinylb_core::{Following, Handle, Update};
use tinylb_tokio::{Address, DnsSource, FileSource, restarting};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    checks::Checks,
    config::{Followed, Place, ServiceConfig},
    last_known::{Kept, LastKnown, begin, keep},
    log::EventLog,
};

/// A source that a service follows until this is dropped.
pub(crate) struct Source {
    following: Following,
    /// Which of its backends may be used, if that is checked.
    pub(crate) checks: Option<Checks>,
    /// Where its last set is kept, and the task that does so, if it is.
    file: Option<Arc<LastKnown>>,
    keeping: Option<JoinHandle<()>>,
}

impl Source {
    /// Follows a source, whose sets aren't kept yet. `replaced` is notified when a set has been
    /// taken; `restarts` counts how often the source was restarted.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub(crate) fn follow(
        followed: &Followed,
        config: &ServiceConfig,
        handle: &Handle<Address>,
        replaced: &Arc<Notify>,
        restarts: &Arc<AtomicU64>,
        events: &Arc<EventLog>,
    ) -> Result<Self, String> {
        let service = events.service();
        let in_service = |error: &dyn fmt::Display| format!("service {service}: {error}");
        let updates = updates(&followed.place, Arc::clone(restarts), events)
            .map_err(|error| in_service(&error))?;
        let place = followed.place.clone();
        let file = followed.last_known.clone().map(|path| Arc::new(LastKnown::new(path, place)));
        let is_checked = config.check.is_some();
        let known =
            file.clone().map(|file| begin(file, service.into(), handle.clone(), is_checked));
        let known = stream::iter(known).then(|known| known).flat_map(stream::iter);
        let mut updates = known.chain(updates).boxed();
        let mut checks = None;
        if let Some(check) = &config.check {
            // A set that changes nothing of those that pass is kept as well.
            let replaced = Arc::clone(replaced);
            let source = updates.inspect(move |_| replaced.notify_one());
            let bad_entries = followed.settings.bad_entries;
            let (dial_from, in_force) = (&config.dial_from, handle.set());
            let begun = Checks::begin(check, dial_from, bad_entries, in_force, events, source);
            let (begun, passing) = begun.map_err(|error| in_service(&error))?;
            (checks, updates) = (Some(begun), passing.boxed());
        }
        let following = handle
            .follow_with(updates, followed.settings.clone())
            .map_err(|error| in_service(&error))?;
        // A notification may be left from the source before.
        let _ = replaced.notified().now_or_never();
        Ok(Self { following, checks, file, keeping: None })
    }

    /// Keeps its sets in the file of the last known backends, if it has one. Returns whether it
    /// didn't before.
    pub(crate) fn keep(
        &mut self,
        handle: &Handle<Address>,
        replaced: &Arc<Notify>,
        events: &Arc<EventLog>,
    ) -> bool {
        if self.keeping.is_some() {
            return false;
        }
        let board = self.checks.as_ref().map(|checks| checks.board().clone());
        let kept = Kept { handle: handle.clone(), board, events: Arc::clone(events) };
        let keep = |file| keep(file, kept, Arc::clone(replaced));
        self.keeping = self.file.clone().map(|file| tokio::spawn(keep(file)));
        self.keeping.is_some()
    }

    /// Begins no further write of that file. A write that has begun is finished before the next
    /// service that has the file can write it.
    pub(crate) fn stop_keeping(&mut self) {
        if let Some(keeping) = self.keeping.take() {
            keeping.abort();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.following.stop();
        self.stop_keeping();
    }
}

fn updates(
    place: &Place,
    restarts: Arc<AtomicU64>,
    events: &Arc<EventLog>,
) -> Result<BoxStream<'static, Update<Address>>, String> {
    let mut count = restarts_counted(restarts, Arc::clone(events));
    Ok(match place {
        Place::Dns(name, options) => {
            let events = Arc::clone(events);
            let source = DnsSource::new(name.clone())
                .with_options(options.clone())
                .on_partial_failure(move |reason| match reason {
                    Some(reason) => events.lookups_fail(reason),
                    None => events.lookups_succeed(),
                });
            restarting(move || {
                count();
                source.clone().updates()
            })
            .boxed()
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(etcd) => {
            let source = tinylb_tokio::EtcdSource::new(etcd.options()?);
            let source = source.map_err(|error| error.to_string())?;
            restarting(move || {
                count();
                source.clone().updates()
            })
            .boxed()
        }
        #[cfg(not(feature = "etcd"))]
        Place::Etcd(_) => return Err(crate::config::WITHOUT_ETCD.into()),
        Place::File(path) => {
            let source = FileSource::new(path);
            restarting(move || {
                count();
                source.clone().updates()
            })
            .boxed()
        }
    })
}

/// What to call at each start of a source: all but the first are restarts.
fn restarts_counted(restarts: Arc<AtomicU64>, events: Arc<EventLog>) -> impl FnMut() {
    let mut has_begun = false;
    move || {
        if mem::replace(&mut has_begun, true) {
            restarts.fetch_add(1, Ordering::Relaxed);
            events.source_restarted();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::logged;

    #[test]
    fn lookups_that_failed_before_a_restart_have_their_end_in_the_log() {
        let (restarts, events) = (Arc::default(), Arc::new(EventLog::new("s")));
        let mut begin = restarts_counted(Arc::clone(&restarts), Arc::clone(&events));
        let log = logged(|| {
            begin();
            events.lookups_fail("SERVFAIL");
            begin();
            events.lookups_succeed();
        });
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("SERVFAIL") && lines[1].contains("starts over"), "{log}");
        assert_eq!(restarts.load(Ordering::Relaxed), 1);
    }
}
