mod failure;
mod families;
mod name;
mod provider;
mod records;
mod server;
mod system;

use std::{mem, net::SocketAddr, sync::Arc, time::Duration};

use futures::{Stream, stream};
use hickory_resolver::proto::rr::Name;
use tinylb_core::{BadEntry, Update};
use tokio::time::{Instant, sleep};

pub use self::name::DnsName;
use self::{failure::Failure, families::Known, records::Answer, server::Server};
use crate::{
    Address,
    source::backoff::{Backoff, random},
};

/// A source of backends in DNS: the addresses of a name, or the targets of a service.
///
/// A backend's key is its address and port, `10.0.0.1:5432` or `[::1]:5432`: what comes in another
/// order is an equal set, and what comes twice is one backend.
///
/// The set is replaced on positive evidence only. A and AAAA records are queried separately, and at
/// least one of the answers must have an address. Anything else is a loss: no such name (NXDOMAIN),
/// no records at all (NODATA), an error such as SERVFAIL, no answer in time, an answer that is
/// truncated even over TCP or can't be read, or a network failure. The reason names the failure,
/// the name, and the server.
///
/// If one family has answered with addresses, the other may fail in any of these ways, including
/// NXDOMAIN (RFC 4074), or take a second longer. It then keeps the addresses of its last answer,
/// for [`DnsOptions::max_stale`] at most, and both are queried again soon. A family that answers
/// "no records" has no addresses.
///
/// Of a service only the targets of the lowest-numbered priority that is there count, and weights
/// don't. A target whose lookup fails keeps its last addresses in the same way, unless the answer
/// is that it has none. A target without addresses is a bad entry, and
/// [`SourceSettings::bad_entries`](tinylb_core::SourceSettings::bad_entries) decides about the
/// others. If no target has an address, the source is lost. A service whose only target is `.` is
/// explicitly not available (RFC 2782), which is the empty set.
///
/// What is asked are the servers that are given, or else those of `/etc/resolv.conf`; neither
/// `/etc/hosts` nor a search list nor a cache. The server that answered last is asked first. A
/// server that fails costs its share of the time that is left, or nothing if its machine refuses
/// the query. The next server is then asked for everything, so that a set never comes from two
/// servers that disagree. (If a server answers one part and reports an error for another, the next
/// ones are asked too. If none gives a complete answer, the first such answer counts.) "No such
/// name" and "no records" are answers: no other server is asked.
///
/// ```no_run
/// # use tinylb_core::Handle;
/// # use tinylb_tokio::Address;
/// # fn follow(handle: &Handle<Address>) -> Result<(), Box<dyn std::error::Error>> {
/// use tinylb_tokio::DnsSource;
///
/// handle.follow(DnsSource::new("_pg._tcp.example.org".parse()?).updates());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DnsSource {
    name: DnsName,
    options: DnsOptions,
    observe: Option<Arc<Observe>>,
}

/// Is called when a part of the lookups begins to fail, and when none fails any more.
type Observe = dyn Fn(Option<&str>) + Send + Sync;

/// How a [`DnsSource`] asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsOptions {
    /// The servers to ask, by UDP, and by TCP for what is too long for that. Scopes are not kept, so
    /// that none can have a link-local address. Without any: those of `/etc/resolv.conf`, which is
    /// read for each round of lookups. None.
    pub servers: Vec<SocketAddr>,
    /// The shortest time from an answer to the next round of lookups, for records that may be kept
    /// for less than that. 1 s.
    pub refresh_min: Duration,
    /// The longest time from an answer to the next round of lookups, for records that may be kept
    /// for longer; so a change is seen after this time at the latest. It decides if it is below
    /// `refresh_min`, and is 1 ms at least (what is shorter counts as that). 5 min.
    pub refresh_max: Duration,
    /// The address records to query, of hosts and of services' targets. Both.
    pub family: DnsFamily,
    /// How long the last addresses of a family, or of a service's target, stay while only its
    /// lookup fails. `None`: until it answers. None.
    pub max_stale: Option<Duration>,
    /// How long a round of lookups may take, all servers and targets together: more than 0, and
    /// 1 min at most (what is longer counts as that). 5 s.
    pub timeout: Duration,
}

/// The families whose addresses are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// A and AAAA records.
    #[default]
    Both,
    /// A records only.
    Ipv4,
    /// AAAA records only.
    Ipv6,
}

const REFRESH_LEAST: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            refresh_min: Duration::from_secs(1),
            refresh_max: Duration::from_secs(300),
            family: DnsFamily::Both,
            max_stale: None,
            timeout: Duration::from_secs(5),
        }
    }
}

impl DnsSource {
    /// The source of what this name has, with the default options.
    pub fn new(name: DnsName) -> Self {
        Self { name, options: DnsOptions::default(), observe: None }
    }

    /// Asks with these options.
    pub fn with_options(self, options: DnsOptions) -> Self {
        Self { options, ..self }
    }

    /// Sets a function that is called with a reason when a part of the lookups begins to fail (a
    /// family, or a service's target), although the set goes on with what other lookups say and
    /// what is known of that part; and with `None` when all of them are answered again. Each of
    /// these is reported once, however many lookups it lasts for. The function must not block.
    #[must_use]
    pub fn on_partial_failure(
        mut self,
        observe: impl Fn(Option<&str>) + Send + Sync + 'static,
    ) -> Self {
        self.observe = Some(Arc::new(observe));
        self
    }

    /// The sets and losses, an update for each round of lookups, without end.
    ///
    /// A round follows an answer after the least TTL of all the records that led to it, aliases
    /// included, but within `refresh_min` and `refresh_max`; and a loss after 100 ms to 10 s, longer
    /// and longer, and spread at random, as does an answer a part of which failed, unless its TTL is
    /// shorter. A set may equal the one before.
    ///
    /// It runs on the tokio runtime that polls it, whose I/O and time must be enabled. Nothing
    /// happens unless it is polled; dropped, it asks no more.
    pub fn updates(self) -> impl Stream<Item = Update<Address>> + Send + 'static {
        stream::unfold(Rounds::new(self), |mut rounds| async move {
            sleep(rounds.pause.saturating_sub(rounds.ended.elapsed())).await;
            let update = rounds.next().await;
            Some((update, rounds))
        })
    }
}

/// What goes from one round of lookups to the next.
struct Rounds {
    name: DnsName,
    options: DnsOptions,
    observe: Option<Arc<Observe>>,
    /// Whether a part failed in the last answer.
    is_partial: bool,
    backoff: Backoff,
    /// The last addresses of each name and family.
    known: Known,
    /// The server that answered last.
    answered: Option<SocketAddr>,
    /// When the last round ended, and how long the next one is to wait from then on.
    ended: Instant,
    pause: Duration,
}

impl Rounds {
    fn new(source: DnsSource) -> Self {
        let DnsSource { name, options, observe } = source;
        let backoff = Backoff::new();
        Self {
            name,
            options,
            observe,
            is_partial: false,
            backoff,
            known: Known::default(),
            answered: None,
            ended: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    async fn next(&mut self) -> Update<Address> {
        let answer = self.answer().await;
        self.ended = Instant::now();
        match answer {
            Ok((answer, server)) => {
                self.pause = refresh(&self.options, answer.ttl);
                self.note_partial(answer.failure.as_ref().map(|failure| failure.from(server)));
                if answer.failure.is_none() && answer.bad.is_empty() {
                    self.backoff.reset();
                    return Update::Set(answer.set());
                }
                self.pause = self.pause.min(self.backoff.pause(random()));
                let entry = |(name, failure): &(Name, Failure)| BadEntry {
                    key: name.to_ascii().trim_end_matches('.').into(),
                    reason: failure.from(server).into(),
                };
                Update::Partial(answer.set(), answer.bad.iter().map(entry).collect())
            }
            Err(reason) => {
                self.pause = self.backoff.pause(random());
                Update::Lost(format!("{}: {reason}", self.name.name()).into())
            }
        }
    }

    /// Reports that a part of the lookups fails, or fails no more, if that is news.
    fn note_partial(&mut self, failure: Option<String>) {
        if mem::replace(&mut self.is_partial, failure.is_some()) != failure.is_some()
            && let Some(observe) = &self.observe
        {
            observe(failure.as_deref());
        }
    }

    /// The answer of the first server that answers, and which server that is; or why none did.
    async fn answer(&mut self) -> Result<(Answer, SocketAddr), String> {
        let began = Instant::now();
        let within = self.options.timeout.min(TIMEOUT_MAX);
        let mut servers = match &*self.options.servers {
            [] => system::servers(within).await?,
            given => given.to_vec(),
        };
        if let Some(place) = servers.iter().position(|&server| Some(server) == self.answered) {
            servers.rotate_left(place);
        }
        let (mut partial, mut failures) = (None, Vec::new());
        for (place, &address) in servers.iter().enumerate() {
            let left = within.saturating_sub(began.elapsed());
            let share = left / (servers.len() - place) as u32;
            let result = match Server::new(address, share, &self.options, &self.known) {
                Ok(server) => server.resolve(&self.name).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(answer) if answer.may_be_bettered() => {
                    partial = partial.or(Some((answer, address)));
                }
                Ok(answer) => {
                    partial = Some((answer, address));
                    break;
                }
                Err(failure) if failure.is_answer() && partial.is_none() => {
                    self.answered = Some(address);
                    return Err(failure.to_string());
                }
                Err(failure) => failures.push(failure.from(address)),
            }
        }
        let (mut answer, address) = partial.ok_or_else(|| failures.join("; "))?;
        self.answered = Some(address);
        self.known = mem::take(&mut answer.known);
        Ok((answer, address))
    }
}

/// How long an answer stands whose records may be kept for this many seconds.
fn refresh(options: &DnsOptions, ttl: u32) -> Duration {
    // Records may say 0 (RFC 1035, section 3.2.1), and the options too.
    let longest = options.refresh_max.max(REFRESH_LEAST);
    Duration::from_secs(ttl.into()).max(options.refresh_min).clamp(REFRESH_LEAST, longest)
}

#[cfg(test)]
mod tests;
