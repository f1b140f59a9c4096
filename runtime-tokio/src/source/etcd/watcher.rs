use std::{future::Future, pin::pin, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Either, select},
};
use tinylb_core::Update;
use tokio::time::{Instant, timeout_at};

use super::{
    failure::Failure,
    keys::{Compared, KeyChange, Keys, Listing},
    member::{Member, Watch},
    options::EtcdOptions,
};
use crate::{
    Address,
    source::backoff::{random, spread},
};

/// One connection to a member, and the watch that runs on it.
///
/// It ends with the first failure, and its owner takes the next endpoint. Nothing is lost by that,
/// since every connection begins with a list.
pub(super) struct Watcher {
    member: Member,
    watch: Watch,
    began: Instant,
    /// When the member was last heard.
    heard: Instant,
    resync: Duration,
    /// When all is compared again.
    resync_at: Instant,
    /// What the member is being asked: one thing at a time.
    asked: Option<BoxFuture<'static, Result<Answer, Failure>>>,
    /// Answers in a row that were older than what the watch has reported.
    answers_too_old: u32,
}

/// What a member is asked while it is watched.
enum Answer {
    /// That it lives.
    Alive,
    /// What was set since the last comparison.
    Recent(Listing),
    /// All.
    All(Listing),
}

enum Happened {
    Told(Result<Vec<KeyChange>, Failure>),
    Answered(Result<Answer, Failure>),
    /// It is time to ask something.
    Due,
}

/// A watch that has been silent for this long may be dead: its member is asked, and given up after
/// another [`PATIENCE`], which makes 4.5 s.
///
/// It is asked by a call of its own, not by a request for the watch's progress: etcd from 3.4.38,
/// 3.5.22 and 3.6.2 on leaves that unanswered until the first change, and its gRPC proxy always.
/// HTTP/2's own pings may come each 5 s at most, or etcd ends the connection.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(2500);

/// As many changes as are taken for one set, if they are there already.
const CHANGES_MAX: usize = 1000;

/// How often in a row a list may be older than what the watch has reported. Under a hail of changes
/// that happens when the list crosses one on its way.
const ANSWERS_TOO_OLD_MAX: u32 = 50;

impl Watcher {
    /// Connects, lists and watches. All is known then.
    ///
    /// # Errors
    /// The member is of no use. Nothing was changed.
    pub(super) async fn open(
        url: &str,
        options: &EtcdOptions,
        keys: &mut Keys,
    ) -> Result<Self, Failure> {
        let member = Member::connect(url, options).await?;
        let listing = member.list().await?;
        let watch = member.watch(listing.at.revision + 1).await?;
        let now = Instant::now();
        keys.list(listing, now)?;
        Ok(Self {
            member,
            watch,
            began: now,
            heard: now,
            resync: options.resync,
            resync_at: now + jittered(options.resync),
            asked: None,
            answers_too_old: 0,
        })
    }

    /// How long it has been.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Listens until there is something to tell.
    ///
    /// # Errors
    /// The member is of no use any more.
    pub(super) async fn next(&mut self, keys: &mut Keys) -> Result<Update<Address>, Failure> {
        loop {
            if let Some(update) = keys.tell() {
                return Ok(update);
            }
            match self.happens().await {
                Happened::Told(changes) => {
                    self.heard = Instant::now();
                    self.take(changes?, keys)?;
                }
                Happened::Answered(answer) => {
                    self.heard = Instant::now();
                    self.answered(answer?, keys)?;
                }
                Happened::Due => self.ask(keys),
            }
        }
    }

    async fn happens(&mut self) -> Happened {
        let told = pin!(self.watch.next());
        let Some(asked) = &mut self.asked else {
            let due = self.resync_at.min(self.heard + SILENCE_MAX);
            return timeout_at(due, told).await.map_or(Happened::Due, Happened::Told);
        };
        let answer = match select(told, asked).await {
            Either::Left((changes, _)) => return Happened::Told(changes),
            Either::Right((answer, _)) => answer,
        };
        self.asked = None;
        Happened::Answered(answer)
    }

    /// Takes changes, and others that have come in the meantime.
    fn take(&mut self, changes: Vec<KeyChange>, keys: &mut Keys) -> Result<(), Failure> {
        let mut taken = changes.len();
        keys.apply(changes);
        while taken < CHANGES_MAX
            && let Some(changes) = self.watch.next().now_or_never()
        {
            let changes = changes?;
            taken += changes.len().max(1);
            keys.apply(changes);
        }
        Ok(())
    }

    fn ask(&mut self, keys: &Keys) {
        if Instant::now() >= self.resync_at {
            self.resync_at = Instant::now() + jittered(self.resync);
            self.ask_for(self.member.list_since(keys.uncompared()), Answer::Recent);
        } else {
            self.ask_for(self.member.ping(PATIENCE), |()| Answer::Alive);
        }
    }

    fn ask_for<T: 'static>(
        &mut self,
        call: impl Future<Output = Result<T, Failure>> + Send + 'static,
        answer: fn(T) -> Answer,
    ) {
        self.asked = Some(call.map(move |result| result.map(answer)).boxed());
    }

    fn answered(&mut self, answer: Answer, keys: &mut Keys) -> Result<(), Failure> {
        match answer {
            Answer::Alive => return Ok(()),
            Answer::Recent(recent) => match keys.compare(recent) {
                Compared::Same => {}
                Compared::Differs => {
                    self.ask_for(self.member.list(), Answer::All);
                    return Ok(());
                }
                Compared::TooOld => {
                    self.count_too_old()?;
                    self.ask_for(self.member.list_since(keys.uncompared()), Answer::Recent);
                    return Ok(());
                }
            },
            Answer::All(all) => {
                if keys.list(all, Instant::now()).is_err() {
                    self.count_too_old()?;
                    self.ask_for(self.member.list(), Answer::All);
                    return Ok(());
                }
            }
        }
        self.answers_too_old = 0;
        Ok(())
    }

    fn count_too_old(&mut self) -> Result<(), Failure> {
        self.answers_too_old += 1;
        if self.answers_too_old > ANSWERS_TOO_OLD_MAX { Err(Failure::Behind) } else { Ok(()) }
    }
}

/// Two thirds of it to four thirds: a thousand balancers don't ask in the same moment.
fn jittered(time: Duration) -> Duration {
    let third = time / 3;
    third * 2 + spread(third * 2, random())
}
