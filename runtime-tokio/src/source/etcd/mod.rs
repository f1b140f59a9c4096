mod failure;
mod keys;
mod member;
mod options;
mod registration;
mod turns;
mod watcher;

use std::{sync::Arc, time::Duration};

use futures::{Stream, stream};
use tinylb_core::Update;
use tokio::time::sleep;

use self::{keys::Keys, turns::Turns, watcher::Watcher};
pub use self::{
    options::{EtcdOptions, EtcdOptionsError, EtcdTls},
    registration::{EtcdRegistration, EtcdRegistrationEvent},
};
use crate::Address;

/// A source of backends in etcd 3.4 or later: the keys under a prefix.
///
/// A backend's key is what follows the prefix. The value is its address as text, or a JSON object
/// whose `address` is that, and whose other fields mean nothing yet. An entry that is neither comes
/// with the set as [`Update::Partial`], with its key and what is wrong with it.
///
/// A set is always the whole prefix at one revision of etcd. All keys are listed, without reading
/// what a member happens to remember but what the cluster has agreed on, then watched from the
/// next revision on. Each connection begins with that, whether the one before was ended, or
/// compacted changes, or a change of the leader, has ended its watch. Every
/// [`resync`](EtcdOptions::resync) what is known is compared with what is there. A state that is
/// older than what was known before isn't taken, so that members that lag never bring a backend
/// back; only if the cluster insists for 10 s, or is another, which is a restored backup.
///
/// It keeps to one member at a time. One that fails costs an attempt at the next at once; when all
/// have failed, that is a loss, reported with each endpoint and its cause: it can't be reached, or
/// doesn't answer, or is cut off from the other members and so without a leader, or it refuses the
/// login. The next round follows after 100 ms to 10 s, longer and longer, and spread at random; but
/// after 2 s at most while a member says that it has no leader or is slow, since that costs it little
/// and is over soon. A member that hangs or can't be reached any more is noticed within 5 s. (etcd's gRPC
/// proxy answers from its memory, whether or not it has a member: that it has lost them is noticed by
/// the next comparison.)
///
/// ```no_run
/// # use tinylb_core::Handle;
/// # use tinylb_tokio::Address;
/// # fn follow(handle: &Handle<Address>) -> Result<(), Box<dyn std::error::Error>> {
/// use tinylb_tokio::{EtcdOptions, EtcdSource};
///
/// let endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"];
/// handle.follow(EtcdSource::new(EtcdOptions::new(endpoints, "/lb/web/"))?.updates());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EtcdSource {
    options: EtcdOptions,
    urls: Vec<String>,
}

impl EtcdSource {
    /// The source of what these options say.
    ///
    /// # Errors
    /// [`EtcdOptions::validate`]'s.
    pub fn new(options: EtcdOptions) -> Result<Self, EtcdOptionsError> {
        options.validate()?;
        let urls = options.urls()?;
        Ok(Self { options, urls })
    }

    /// The sets and losses, without end. A set follows each change, and each loss that is over; it
    /// may equal the one before. A loss follows each round of endpoints that all fail.
    ///
    /// It runs on the tokio runtime that polls it, whose I/O and time must be enabled. Nothing
    /// happens unless it is polled; dropped, it ends its connection.
    pub fn updates(self) -> impl Stream<Item = Update<Address>> + Send + 'static {
        stream::unfold(Follower::new(self), |mut follower| async move {
            let update = follower.next().await;
            Some((update, follower))
        })
    }
}

/// What goes from one update to the next.
struct Follower {
    options: EtcdOptions,
    turns: Turns,
    keys: Keys,
    watcher: Option<Watcher>,
}

impl Follower {
    fn new(source: EtcdSource) -> Self {
        let EtcdSource { options, urls } = source;
        let keys = Keys::new(options.prefix.clone());
        Self { options, turns: Turns::new(urls, Duration::MAX), keys, watcher: None }
    }

    async fn next(&mut self) -> Update<Address> {
        loop {
            if let Some(watcher) = &mut self.watcher {
                match watcher.next(&mut self.keys).await {
                    Ok(update) => return update,
                    // Why it ended matters only if no member is better, and then they say why.
                    Err(_) => {
                        self.turns.ended(watcher.age());
                        self.watcher = None;
                        if let Some(update) = self.keys.tell() {
                            return update;
                        }
                    }
                }
            }
            sleep(self.turns.pause()).await;
            if let Err(reason) = self.open().await {
                self.keys.lost();
                return Update::Lost(reason);
            }
        }
    }

    /// Opens a connection to the first member that can, or says why none does.
    async fn open(&mut self) -> Result<(), Arc<str>> {
        self.turns.begin();
        while let Some(url) = self.turns.next() {
            match Watcher::open(url, &self.options, &mut self.keys).await {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    return Ok(());
                }
                Err(failure) => self.turns.failed(&failure),
            }
        }
        Err(self.turns.lost())
    }
}
