mod failure;
mod keys;
mod member;
mod options;
mod session;

use std::{sync::Arc, time::Duration};

use futures::{Stream, stream};
use tinylb_core::Update;
use tokio::time::sleep;

pub use self::options::{EtcdOptions, EtcdOptionsError, EtcdTls};
use self::{keys::Keys, session::Session};
use crate::{
    Address,
    source::backoff::{Backoff, random},
};

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
/// have failed, that is a loss, told with each endpoint and its cause: it can't be reached, or
/// doesn't answer, or is cut off from the other members and so without a leader, or it refuses the
/// login. The next round follows after 100 ms to 10 s, longer and longer, and spread at random; but
/// after 2 s at most while a member says that it has no leader, since that costs it little and is
/// over soon. A member that hangs or can't be reached any more is noticed within 5 s.
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
pub struct EtcdSource {
    options: EtcdOptions,
    urls: Vec<String>,
}

/// A watch that has run for so long is no sign of a member that ends each at once.
const SESSION_LONG: Duration = Duration::from_secs(10);

/// The pause before a new connection when such a watch has ended: a member that dies ends those of
/// all balancers at once.
const FIRST_PAUSE_MAX: Duration = Duration::from_millis(300);

/// The pause before the next round while a member says that it has no leader is the double of this
/// at most.
const NO_LEADER_PAUSE: Duration = Duration::from_secs(1);

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
    /// The endpoints, in the order in which they are tried, and whose turn it is.
    urls: Vec<String>,
    turn: usize,
    keys: Keys,
    session: Option<Session>,
    backoff: Backoff,
    /// Before the next round.
    pause: Duration,
}

impl Follower {
    fn new(source: EtcdSource) -> Self {
        let EtcdSource { options, mut urls } = source;
        // A thousand balancers spread over the members.
        urls.sort_by_cached_key(|_| random());
        Self {
            keys: Keys::new(options.prefix.clone()),
            options,
            urls,
            turn: 0,
            session: None,
            backoff: Backoff::new(),
            pause: Duration::ZERO,
        }
    }

    async fn next(&mut self) -> Update<Address> {
        loop {
            if let Some(session) = &mut self.session {
                match session.next(&mut self.keys).await {
                    Ok(update) => return update,
                    // Why it ended matters only if no member is better, and then they say why.
                    Err(_) => {
                        self.close();
                        if let Some(update) = self.keys.tell() {
                            return update;
                        }
                    }
                }
            }
            sleep(self.pause).await;
            if let Err(reason) = self.open().await {
                self.keys.lost();
                return Update::Lost(reason);
            }
        }
    }

    /// Ends the session: the next one is with another member.
    fn close(&mut self) {
        let Some(session) = self.session.take() else { return };
        self.turn += 1;
        if session.age() >= SESSION_LONG {
            self.backoff.reset();
            self.pause = spread(FIRST_PAUSE_MAX);
        } else {
            self.pause = self.backoff.pause(random());
        }
    }

    /// Opens a session with the first member that can, or says why none does.
    async fn open(&mut self) -> Result<(), Arc<str>> {
        let mut failures = Vec::new();
        let mut has_leader = true;
        for _ in 0..self.urls.len() {
            let url = &self.urls[self.turn % self.urls.len()];
            match Session::open(url, &self.options, &mut self.keys).await {
                Ok(session) => {
                    self.session = Some(session);
                    return Ok(());
                }
                Err(failure) => {
                    has_leader &= !failure.is_no_leader();
                    failures.push(format!("{url}: {failure}"));
                }
            }
            self.turn += 1;
        }
        self.pause = self.backoff.pause(random());
        if !has_leader {
            self.pause = self.pause.min(NO_LEADER_PAUSE + spread(NO_LEADER_PAUSE));
        }
        // The same failures give the same reason, whoever was tried first.
        failures.sort();
        Err(failures.join("; ").into())
    }
}

/// A time up to this one, at random.
fn spread(max: Duration) -> Duration {
    let nanos = (max.as_nanos() * u128::from(random())) >> u64::BITS;
    Duration::from_nanos(nanos as u64)
}
