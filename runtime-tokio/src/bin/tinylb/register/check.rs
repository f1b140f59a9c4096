use std::{io, time::Duration};

use futures::{Stream, stream};
use tinylb_tokio::Address;
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout},
};

/// Whether a backend accepts connections.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Accepts,
    /// It doesn't, with the reason.
    Refuses(String),
}

/// Time between two connections.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a connection may take, and how long a backend may be without one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first verdict, and each that differs from the one before.
///
/// If nothing listens, the verdict changes at once. Anything else that prevents a connection may be
/// this machine's own trouble, or a backlog that is full for a moment, so it counts once it has
/// lasted for [`PATIENCE`]: taking a backend out cuts its connections.
pub(super) fn verdicts(address: Address) -> impl Stream<Item = Verdict> + Send {
    let check = Check { address, accepted: None, last: None };
    stream::unfold(check, |mut check| async move {
        let verdict = check.next().await;
        Some((verdict, check))
    })
}

struct Check {
    address: Address,
    /// When it last accepted a connection.
    accepted: Option<Instant>,
    last: Option<Verdict>,
}

impl Check {
    async fn next(&mut self) -> Verdict {
        loop {
            let is_first = self.last.is_none();
            if !is_first {
                sleep(PAUSE).await;
            }
            let Some(verdict) = self.ask().await else { continue };
            let differs = match (&self.last, &verdict) {
                (Some(Verdict::Refuses(_)), Verdict::Refuses(_)) => false,
                (last, now) => last.as_ref() != Some(now),
            };
            if differs {
                self.last = Some(verdict.clone());
                return verdict;
            }
        }
    }

    /// `None`: it isn't certain yet.
    async fn ask(&mut self) -> Option<Verdict> {
        let began = Instant::now();
        let (reason, is_refused) = match timeout(PATIENCE, connect(&self.address)).await {
            Ok(Ok(())) => {
                self.accepted = Some(began);
                return Some(Verdict::Accepts);
            }
            Ok(Err(error)) => (error.to_string(), is_refused(&error)),
            Err(_) => (format!("no answer within {:?}", PATIENCE), false),
        };
        let lasts = self.accepted.is_none_or(|at| at.elapsed() >= PATIENCE);
        (is_refused || lasts).then_some(Verdict::Refuses(reason))
    }
}

async fn connect(address: &Address) -> io::Result<()> {
    match address {
        Address::Tcp(target) => TcpStream::connect(target.to_string()).await.map(drop),
        Address::Unix(target) => UnixStream::connect(target.path()).await.map(drop),
    }
}

/// Whether an error means that nothing listens.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}
