use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::blocking::start_blocking;

/// Looks names up through the system's resolver, including `/etc/hosts`.
///
/// The resolver blocks for as long as it likes, and can't be interrupted. So each name that is
/// being looked up has one thread of its own, and all callers that ask for it meanwhile wait for
/// the same answer. An abandoned lookup goes on until the resolver returns, and holds up only its
/// own name. Answers aren't cached: a later call asks the resolver again.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<State>);

struct State {
    resolve: Box<Resolve>,
    /// The most lookups at a time, and so the most threads.
    max: usize,
    pending: Mutex<BTreeMap<Arc<str>, Pending>>,
}

/// A name's addresses, each with port 0.
pub(crate) type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

type Resolve = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

type Pending = Shared<BoxFuture<'static, Answer>>;

/// The most lookups at a time, of all dialers together. There are only this many if name servers
/// don't answer.
const LOOKUPS_MAX: usize = 1024;

/// Shared, since all dialers use the one resolver of the system.
static SYSTEM: LazyLock<Lookups> =
    LazyLock::new(|| Lookups::new(LOOKUPS_MAX, |name| Ok((name, 0).to_socket_addrs()?.collect())));

impl Lookups {
    /// The lookups of this process, through the system's resolver.
    pub(crate) fn system() -> Self {
        SYSTEM.clone()
    }

    pub(crate) fn new(
        max: usize,
        resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(State { resolve: Box::new(resolve), max, pending: Mutex::default() }))
    }

    /// The addresses of a name, in the resolver's order, each with port 0.
    ///
    /// # Errors
    /// The resolver's error, in its words; too many lookups are in progress; or no thread can be
    /// started.
    pub(crate) async fn lookup(&self, name: &Arc<str>) -> io::Result<Arc<[SocketAddr]>> {
        let pending = self.pending(name)?;
        pending.await.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }

    /// The lookup of this name that is in progress, or a new one.
    fn pending(&self, name: &Arc<str>) -> io::Result<Pending> {
        let mut pending = self.lock();
        if let Some(pending) = pending.get(name) {
            return Ok(pending.clone());
        }
        if pending.len() >= self.0.max {
            let text = format!(
                "lookups of {} names are waiting for an answer: check the name servers of this \
                 machine, or give IP addresses",
                pending.len()
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let (lookups, asked) = (self.clone(), Arc::clone(name));
        // The lock is held until the lookup is in the map, so that it can't be removed before.
        let answer = start_blocking(move || {
            let _in_progress = InProgress { lookups: &lookups, name: &asked };
            match (lookups.0.resolve)(&asked) {
                Ok(addresses) => Ok(addresses.into()),
                Err(error) => Err(Arc::new(error)),
            }
        })?;
        let lookup = answer.map(|answer| answer.unwrap_or_else(|error| Err(Arc::new(error))));
        let lookup = lookup.boxed().shared();
        pending.insert(Arc::clone(name), lookup.clone());
        Ok(lookup)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Pending>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Lookups {
    fn default() -> Self {
        Self::system()
    }
}

/// A lookup on its thread. Dropped when the resolver has returned, before the answer is passed on:
/// later callers start a new lookup.
struct InProgress<'a> {
    lookups: &'a Lookups,
    name: &'a str,
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let lookup = self.lookups.lock().remove(self.name);
        debug_assert!(lookup.is_some(), "only its own thread takes a lookup out");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Condvar,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Duration,
    };

    use futures::{
        future::{join, join_all},
        poll,
    };
    use tokio::time::timeout;

    use super::*;

    /// A resolver that hangs for every name but those that begin with `good`, until it is opened.
    #[derive(Default)]
    struct Gate {
        is_open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    impl Gate {
        fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
            self.asked.fetch_add(1, SeqCst);
            if name.starts_with("panic") {
                panic!("on purpose");
            }
            if !name.starts_with("good") {
                let is_open = self.is_open.lock().unwrap();
                drop(self.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
            }
            match name.ends_with("none") {
                true => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
                false => Ok(vec!["192.0.2.1:0".parse().unwrap()]),
            }
        }

        fn open(&self) {
            *self.is_open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    fn gated(max: usize) -> (Lookups, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        let resolver = Arc::clone(&gate);
        (Lookups::new(max, move |name| resolver.resolve(name)), gate)
    }

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    #[tokio::test]
    async fn thousands_who_wait_for_a_name_that_hangs_take_one_thread_and_hold_up_no_other_name() {
        let (lookups, gate) = gated(8);
        let hung = name("hung");
        let mut waiting: Vec<_> = (0..5000).map(|_| Box::pin(lookups.lookup(&hung))).collect();
        for lookup in &mut waiting {
            assert!(poll!(lookup).is_pending());
        }
        assert_eq!(lookups.lookup(&name("good")).await.unwrap().len(), 1);
        gate.open();
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert_eq!(gate.asked.load(SeqCst), 2);
        // An answer isn't kept.
        lookups.lookup(&hung).await.unwrap();
        assert_eq!(gate.asked.load(SeqCst), 3);
    }

    #[tokio::test]
    async fn a_name_that_hangs_is_asked_for_once_however_many_have_given_up() {
        let (lookups, gate) = gated(8);
        let hung = name("hung");
        for _ in 0..100 {
            let mut lookup = Box::pin(lookups.lookup(&hung));
            assert!(poll!(&mut lookup).is_pending());
        }
        let lookup = lookups.lookup(&hung);
        let open = async { gate.open() };
        assert!(join(lookup, open).await.0.is_ok());
        assert_eq!(gate.asked.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn more_names_that_hang_than_there_is_room_for_fail_with_a_remedy() {
        let (lookups, gate) = gated(2);
        let hung = ["hung-1", "hung-2"].map(name);
        let mut waiting = hung.each_ref().map(|name| Box::pin(lookups.lookup(name)));
        for lookup in &mut waiting {
            assert!(poll!(lookup).is_pending());
        }
        let error = lookups.lookup(&name("hung-3")).await.unwrap_err().to_string();
        assert!(error.contains("2 names") && error.contains("IP addresses"), "{error}");
        gate.open();
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert!(lookups.lookup(&name("hung-3")).await.is_ok());
    }

    #[tokio::test]
    async fn what_the_resolver_says_reaches_all_who_wait() {
        let (lookups, gate) = gated(2);
        let (none, panics) = (name("hung-none"), name("panic"));
        let both = join(lookups.lookup(&none), lookups.lookup(&none));
        let open = async { gate.open() };
        let ((one, other), ()) = join(both, open).await;
        for answer in [one, other] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert_eq!(error.to_string(), "no such name");
        }
        for _ in 0..3 {
            let error = lookups.lookup(&panics).await.unwrap_err().to_string();
            assert!(error.contains("panicked"), "{error}");
        }
    }

    #[tokio::test]
    async fn one_runtime_waits_for_what_another_has_asked() {
        let (lookups, gate) = gated(2);
        let hung = name("hung");
        let mut lookup = Box::pin(lookups.lookup(&hung));
        assert!(poll!(&mut lookup).is_pending());
        let other = {
            let (lookups, hung) = (lookups.clone(), Arc::clone(&hung));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            std::thread::spawn(move || runtime.block_on(lookups.lookup(&hung)).unwrap().len())
        };
        gate.open();
        let answer = timeout(Duration::from_secs(60), lookup).await.expect("an answer");
        assert_eq!((answer.unwrap().len(), other.join().unwrap()), (1, 1));
    }
}
