use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use rustix::io::Errno;
use tokio::time::{Instant, Sleep, sleep};

use crate::{TcpTarget, fault::NameError};

/// One address of a backend's name failed, or didn't answer before another one did. For a minute,
/// dials of that name try its other addresses first.
#[derive(Debug)]
#[non_exhaustive]
pub struct AddressFailure<'a> {
    /// The backend.
    pub target: &'a TcpTarget,
    /// The address, with the backend's port.
    pub address: SocketAddr,
    /// The failure.
    pub error: &'a io::Error,
    /// Whether the address answered when it was last tried, or was never tried. (If more than 1024
    /// fail at a time, this is false for some new failures.)
    pub is_news: bool,
}

/// Races the addresses of a name, and remembers which of them failed lately.
#[derive(Clone, Default)]
pub(crate) struct Races {
    failed: Arc<Mutex<BTreeMap<(TcpTarget, SocketAddr), Instant>>>,
    observe: Option<Arc<Observe>>,
}

type Observe = dyn Fn(AddressFailure<'_>) + Send + Sync;

/// Time from one attempt to the next, unless that one fails sooner: the least that RFC 8305, section 5,
/// recommends. It leaves time for another address or two before a balancer loses patience with the name
/// ([`Settings::dial_patience`](tinylb_core::Settings::dial_patience), 250 ms).
const DELAY: Duration = Duration::from_millis(100);

/// How long an address that failed comes last.
const MEMORY: Duration = Duration::from_secs(60);

/// The most addresses that are remembered, of all names together.
const REMEMBERED_MAX: usize = 1024;

/// The most addresses whose failures one error lists.
const NAMED_MAX: usize = 4;

impl Races {
    /// Reports each address that fails.
    pub(crate) fn observe(&mut self, observe: impl Fn(AddressFailure<'_>) + Send + Sync + 'static) {
        self.observe = Some(Arc::new(observe));
    }

    /// Connects to the first address of a name that answers (RFC 8305). An attempt begins every 100
    /// ms, or as soon as the one before has failed, and earlier attempts go on. Families alternate;
    /// addresses that failed lately come last. Attempts that have lost are dropped.
    ///
    /// # Errors
    /// None has answered `within` that time, or there is none.
    ///
    /// # Cancellation
    /// Attempts in progress are dropped, and no other begins.
    pub(crate) async fn run<'a, C>(
        &self,
        target: &TcpTarget,
        addresses: &[SocketAddr],
        within: Duration,
        connect: impl Fn(SocketAddr) -> BoxFuture<'a, io::Result<C>> + Send,
    ) -> io::Result<C> {
        let waiting = self.order(target, interleave(addresses));
        let is_alone = waiting.len() == 1;
        let mut race = Race::new(waiting, within);
        let mut failures = Vec::new();
        loop {
            match poll_fn(|cx| race.poll(cx, &connect)).await {
                Step::Won(address, conn) => {
                    self.forget(target, address);
                    for late in race.late() {
                        let text =
                            format!("no answer after {DELAY:?}, but {} answered", address.ip());
                        let error = io::Error::new(io::ErrorKind::TimedOut, text);
                        self.remember(target, late, &error);
                    }
                    return Ok(conn);
                }
                Step::Failed(address, error) => {
                    if !is_alone {
                        self.remember(target, address, &error);
                    }
                    failures.push((address, error));
                }
                Step::Over => return Err(summary(failures)),
            }
        }
    }

    /// The addresses in the order of attempts: those that failed lately come last. Once a failure
    /// is old enough, one dial tries that address again, and no other does until the result is
    /// known.
    fn order(&self, target: &TcpTarget, addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_empty() || addresses.len() == 1 {
            return addresses.into();
        }
        let now = Instant::now();
        let (last, first): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|&address| {
            let Some(until) = failed.get_mut(&(target.clone(), address)) else { return false };
            let is_over = *until <= now;
            if is_over {
                *until = now + MEMORY;
            }
            !is_over
        });
        first.into_iter().chain(last).collect()
    }

    /// Notes that an address has failed.
    fn remember(&self, target: &TcpTarget, address: SocketAddr, error: &io::Error) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failed.insert((target.clone(), address), Instant::now() + MEMORY);
        // An address that has just been forgotten may fail again at once, which is no news then.
        let is_crowded = failed.len() > REMEMBERED_MAX;
        if is_crowded && let Some(oldest) = failed.iter().min_by_key(|(_, until)| **until) {
            let oldest = oldest.0.clone();
            failed.remove(&oldest);
        }
        drop(failed);
        if let Some(observe) = &self.observe {
            let is_news = before.is_none() && !is_crowded;
            observe(AddressFailure { target, address, error, is_news });
        }
    }

    /// Notes that an address has answered.
    fn forget(&self, target: &TcpTarget, address: SocketAddr) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if !failed.is_empty() {
            failed.remove(&(target.clone(), address));
        }
    }
}

/// Attempts to connect, one after the other and side by side.
struct Race<'a, C> {
    waiting: VecDeque<SocketAddr>,
    running: Vec<Attempt<'a, C>>,
    /// When the next one begins: at once if one has failed.
    pause: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
}

struct Attempt<'a, C> {
    address: SocketAddr,
    began: Instant,
    connect: BoxFuture<'a, io::Result<C>>,
}

enum Step<C> {
    Won(SocketAddr, C),
    Failed(SocketAddr, io::Error),
    Over,
}

impl<'a, C> Race<'a, C> {
    fn new(waiting: VecDeque<SocketAddr>, within: Duration) -> Self {
        let pause = Box::pin(sleep(Duration::ZERO));
        Self { waiting, running: Vec::new(), pause, deadline: Box::pin(sleep(within)) }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connect: impl Fn(SocketAddr) -> BoxFuture<'a, io::Result<C>>,
    ) -> Poll<Step<C>> {
        loop {
            for place in 0..self.running.len() {
                let Poll::Ready(result) = self.running[place].connect.poll_unpin(cx) else {
                    continue;
                };
                let address = self.running.remove(place).address;
                return Poll::Ready(match result {
                    Ok(conn) => Step::Won(address, conn),
                    Err(error) => {
                        self.pause.as_mut().reset(Instant::now());
                        Step::Failed(address, error)
                    }
                });
            }
            if self.deadline.poll_unpin(cx).is_ready() && !self.running.is_empty() {
                let address = self.running.remove(0).address;
                self.waiting.clear();
                return Poll::Ready(Step::Failed(address, Errno::TIMEDOUT.into()));
            }
            if self.waiting.is_empty() && self.running.is_empty() {
                return Poll::Ready(Step::Over);
            }
            if self.waiting.is_empty()
                || !self.running.is_empty() && self.pause.poll_unpin(cx).is_pending()
            {
                return Poll::Pending;
            }
            let Some(address) = self.waiting.pop_front() else { continue };
            let began = Instant::now();
            self.pause.as_mut().reset(began + DELAY);
            self.running.push(Attempt { address, began, connect: connect(address) });
        }
    }

    /// Running attempts that had their 100 ms before another began.
    fn late(&self) -> impl Iterator<Item = SocketAddr> {
        let late = self.running.iter().filter(|attempt| attempt.began.elapsed() >= DELAY);
        late.map(|attempt| attempt.address)
    }
}

/// The addresses, each once, with alternating families, starting with that of the first (RFC 8305,
/// section 4).
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut families = [VecDeque::new(), VecDeque::new()];
    let is_first = |address: &SocketAddr| address.is_ipv6() == addresses[0].is_ipv6();
    for address in addresses {
        let family = &mut families[usize::from(!is_first(address))];
        if !family.contains(address) {
            family.push_back(*address);
        }
    }
    let [mut one, mut other] = families;
    let mut all = Vec::with_capacity(addresses.len());
    while !one.is_empty() || !other.is_empty() {
        all.extend(one.pop_front());
        all.extend(other.pop_front());
    }
    all
}

/// All failures in one line.
fn summary(failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let Some((_, last)) = failures.last() else {
        return io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    };
    let named = failures.iter().take(NAMED_MAX).map(|(address, error)| {
        let error = match error.kind() {
            io::ErrorKind::TimedOut => "timed out".into(),
            _ => error.to_string(),
        };
        format!("{}: {error}", address.ip())
    });
    let mut text = named.collect::<Vec<_>>().join("; ");
    if failures.len() > NAMED_MAX {
        text += &format!("; and {} more", failures.len() - NAMED_MAX);
    }
    io::Error::new(last.kind(), NameError::new(text, &failures))
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use futures::poll;

    use super::*;

    const LONG: Duration = Duration::from_secs(12);

    /// What an address does when it is dialled.
    #[derive(Clone, Copy)]
    enum Behaviour {
        Answers(u64),
        Refuses(u64),
        Hangs,
    }
    use Behaviour::{Answers, Hangs, Refuses};

    /// A network of hosts, and what is seen of a name that has all of them.
    struct Net {
        races: Races,
        target: TcpTarget,
        addresses: Vec<SocketAddr>,
        behaviours: Mutex<Vec<Behaviour>>,
        began: Instant,
        tries: Mutex<Vec<(usize, u64)>>,
        open: AtomicUsize,
    }

    /// An attempt that is under way.
    struct Open<'a>(&'a AtomicUsize);

    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    impl Net {
        fn new(behaviours: &[Behaviour]) -> Self {
            let addresses = (1..=behaviours.len()).map(|last| format!("192.0.2.{last}:80"));
            Self {
                races: Races::default(),
                target: "db.test:80".parse().unwrap(),
                addresses: addresses.map(|address| address.parse().unwrap()).collect(),
                behaviours: Mutex::new(behaviours.to_vec()),
                began: Instant::now(),
                tries: Mutex::default(),
                open: AtomicUsize::new(0),
            }
        }

        /// Which address answers, counted from 0, or the error.
        async fn dial(&self, within: Duration) -> Result<usize, String> {
            let connect = |address| {
                let place = self.addresses.iter().position(|other| *other == address).unwrap();
                let behaviour = self.behaviours.lock().unwrap()[place];
                let at = self.began.elapsed().as_millis() as u64;
                self.tries.lock().unwrap().push((place, at));
                self.open.fetch_add(1, SeqCst);
                let open = Open(&self.open);
                let ms = Duration::from_millis;
                async move {
                    let _open = open;
                    match behaviour {
                        Answers(after) => sleep(ms(after)).await,
                        Refuses(after) => {
                            sleep(ms(after)).await;
                            return Err(io::ErrorKind::ConnectionRefused.into());
                        }
                        Hangs => pending().await,
                    }
                    Ok(place)
                }
                .boxed()
            };
            let dial = self.races.run(&self.target, &self.addresses, within, connect).await;
            dial.map_err(|error| error.to_string())
        }

        /// Which addresses were tried since the last time, and when.
        fn tries(&self) -> Vec<(usize, u64)> {
            std::mem::take(&mut self.tries.lock().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_of_a_name_costs_a_tenth_of_a_second_and_then_nothing() {
        let net = Net::new(&[Hangs, Answers(3), Answers(3)]);
        assert_eq!(net.dial(LONG).await, Ok(1));
        assert_eq!(net.tries(), [(0, 0), (1, 100)]);
        assert_eq!(net.open.load(SeqCst), 0, "an attempt that has lost is dropped");
        for _ in 0..100 {
            assert_eq!(net.dial(LONG).await, Ok(1));
        }
        assert!(net.tries().iter().all(|(place, _)| *place == 1));
    }

    #[test]
    fn a_name_with_a_dead_address_answers_before_a_balancer_loses_patience() {
        let patience = tinylb_core::Settings::default().dial_patience.unwrap();
        assert!(DELAY * 2 <= patience);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_failed_is_tried_again_after_a_minute_by_one_dial() {
        let net = Net::new(&[Refuses(0), Answers(0)]);
        assert_eq!(net.dial(LONG).await, Ok(1));
        assert_eq!(net.tries().len(), 2);
        sleep(MEMORY - Duration::from_millis(1)).await;
        assert_eq!(net.dial(LONG).await, Ok(1));
        assert_eq!(net.tries().len(), 1);
        net.behaviours.lock().unwrap()[0] = Answers(100);
        sleep(Duration::from_millis(1)).await;
        let mut first = Box::pin(net.dial(LONG));
        assert!(poll!(&mut first).is_pending());
        assert_eq!(net.dial(LONG).await, Ok(1), "the others don't wait for how it goes");
        assert_eq!(first.await, Ok(0));
        assert_eq!(net.dial(LONG).await, Ok(0), "it works again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_is_tried_however_many_hang_or_refuse_before_it() {
        let net = Net::new(&[Hangs, Refuses(10), Refuses(400), Answers(7)]);
        assert_eq!(net.dial(LONG).await, Ok(3));
        assert_eq!(net.tries(), [(0, 0), (1, 100), (2, 110), (3, 210)]);
        // A refusal doesn't have the next one wait for its turn.
        let net = Net::new(&[Refuses(10), Answers(0)]);
        assert_eq!(net.dial(LONG).await, Ok(1));
        assert_eq!(net.tries(), [(0, 0), (1, 10)]);
        // One that is slow wins if the others are slower.
        let net = Net::new(&[Answers(700), Answers(650)]);
        assert_eq!(net.dial(LONG).await, Ok(0));
        assert_eq!(net.open.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_addresses_all_fail_says_how_each_did() {
        let net = Net::new(&[Hangs, Refuses(0)]);
        let error = net.dial(Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(error, "192.0.2.2: connection refused; 192.0.2.1: timed out");
        assert_eq!(net.began.elapsed(), Duration::from_secs(3));
        let net = Net::new(&[Refuses(0); 6]);
        let error = net.dial(LONG).await.unwrap_err();
        assert!(error.ends_with("; 192.0.2.4: connection refused; and 2 more"), "{error}");
        assert!(Net::new(&[]).dial(LONG).await.unwrap_err().contains("no address"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_that_is_given_up_tries_no_further_address() {
        let net = Net::new(&[Hangs, Hangs, Answers(0)]);
        let given_up = tokio::time::timeout(Duration::from_millis(150), net.dial(LONG)).await;
        assert!(given_up.is_err());
        assert_eq!(net.open.load(SeqCst), 0);
        sleep(LONG).await;
        assert_eq!(net.tries(), [(0, 0), (1, 100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_reported_and_is_news_once() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let mut net = Net::new(&[Hangs, Answers(0)]);
        net.races.observe({
            let reports = Arc::clone(&reports);
            move |failure: AddressFailure<'_>| {
                let AddressFailure { address, error, is_news, .. } = failure;
                reports.lock().unwrap().push(format!("{address} {error} {is_news}"));
            }
        });
        let reported = || std::mem::take(&mut *reports.lock().unwrap());
        net.dial(LONG).await.unwrap();
        let report = "192.0.2.1:80 no answer after 100ms, but 192.0.2.2 answered";
        assert_eq!(reported(), [format!("{report} true")]);
        net.dial(LONG).await.unwrap();
        assert!(reported().is_empty());
        sleep(MEMORY).await;
        net.dial(LONG).await.unwrap();
        assert_eq!(reported(), [format!("{report} false")]);
        // The one address of a name has no other to be preferred.
        let mut alone = Net::new(&[Refuses(0)]);
        alone.races.observe(|_| panic!("there is no other"));
        assert_eq!(alone.dial(LONG).await.unwrap_err(), "192.0.2.1: connection refused");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let races = Races::default();
        for n in 0..2 * REMEMBERED_MAX {
            let target: TcpTarget = format!("h{n}.test:80").parse().unwrap();
            let addresses = ["192.0.2.1:80", "192.0.2.2:80"].map(|text| text.parse().unwrap());
            let refuse = |_| -> BoxFuture<'_, io::Result<()>> {
                Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
            };
            races.run(&target, &addresses, LONG, refuse).await.unwrap_err();
        }
        assert_eq!(races.failed.lock().unwrap().len(), REMEMBERED_MAX);
    }

    #[test]
    fn families_take_turns_and_an_address_has_one() {
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.1", "::1", "10.0.0.3", "::2"];
        let addresses = addresses.map(|ip| SocketAddr::new(ip.parse().unwrap(), 80));
        let ips: Vec<String> =
            interleave(&addresses).iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(ips, ["10.0.0.1", "::1", "10.0.0.2", "::2", "10.0.0.3"]);
        assert!(interleave(&[]).is_empty());
    }
}
