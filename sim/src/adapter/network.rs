use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use turmoil::{LinksIter, Sim};

use super::{Packet, packets::Sending, wire::Wire};
use crate::Seeded;

/// What the hosts of one simulation share: the state of the links, and what turmoil doesn't carry
/// from one end of a connection to the other. Clones are the same network.
///
/// Links are cut, held and made whole through it, between steps of the simulation, so that it knows
/// of it; turmoil's own functions for that are not to be used beside it. Latency is turmoil's
/// alone.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

/// How a [`Network`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// What all that looks random comes from, turmoil's latencies excepted.
    pub seed: u64,
    /// Bytes that one direction of a connection holds while nobody reads them; at least 1.
    pub window: usize,
    /// Bytes of the longest read or write, at least 1; each is cut to a length drawn from 1 to
    /// this.
    pub chunk_max: usize,
    /// How often a task that is polled is put back first, behind the others, so that the order in
    /// which tasks run varies with the seed: 0 to 100 percent.
    pub yield_percent: u8,
}

impl NetworkOptions {
    /// What [`turmoil::Builder::tcp_capacity`] is to be set to, at least: turmoil counts segments,
    /// and each may hold one byte. With less, the end of a connection can get lost. It is also the
    /// most connections that a host may have on their way to one listener in one tick: turmoil
    /// panics at more.
    pub fn tcp_capacity(&self) -> usize {
        // Beside the bytes, the marks of the end and turmoil's FIN.
        (self.window + 4).max(4096)
    }
}

impl Default for NetworkOptions {
    /// Seed 0, a window of 64 KiB, chunks of up to 16 KiB, and no task put back.
    fn default() -> Self {
        Self { seed: 0, window: 64 << 10, chunk_max: 16 << 10, yield_percent: 0 }
    }
}

/// Lets the next accept of a listener fail.
pub(crate) type FailAccept = Arc<dyn Fn(io::Error) + Send + Sync>;

struct Shared {
    options: NetworkOptions,
    table: Mutex<Table>,
    /// Streams of random numbers that were handed out.
    streams: AtomicU64,
    open_ends: AtomicUsize,
    live_tasks: AtomicUsize,
    /// What is being handed to turmoil.
    sending: Mutex<Option<Sending>>,
}

#[derive(Default)]
struct Table {
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    listeners: BTreeMap<SocketAddr, FailAccept>,
    /// Connections that were accepted and that the dialer has not picked up yet, by the addresses
    /// of the dialer and of the acceptor.
    accepted: BTreeMap<(SocketAddr, SocketAddr), Arc<Wire>>,
    /// Streams that lost a segment, the lower address first.
    lossy: BTreeSet<(SocketAddr, SocketAddr)>,
    panics: Vec<String>,
}

/// What is between two hosts, known since its first fault. The lower address comes first.
#[derive(Default)]
struct Link {
    is_cut_up: bool,
    is_cut_down: bool,
    /// How often it was cut.
    cuts: u64,
    /// Wakes the dials that wait until it is whole.
    waiting: Vec<Waker>,
}

impl Network {
    /// A network that is whole. Window and chunks are at least 1.
    pub fn new(options: NetworkOptions) -> Self {
        let window = options.window.max(1);
        let chunk_max = options.chunk_max.max(1);
        let shared = Shared {
            options: NetworkOptions { window, chunk_max, ..options },
            table: Mutex::default(),
            streams: AtomicU64::new(0),
            open_ends: AtomicUsize::new(0),
            live_tasks: AtomicUsize::new(0),
            sending: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// How the network behaves.
    pub fn options(&self) -> &NetworkOptions {
        &self.shared.options
    }

    // Faults.

    /// Cuts a link: what is on it is lost, and so is what is sent until [`Self::release`]. Returns
    /// what was lost at once, which a watcher of the network doesn't see. Dials hang.
    ///
    /// # Panics
    /// When the simulation has no such link.
    pub fn partition(&self, sim: &Sim<'_>, a: IpAddr, b: IpAddr) -> Vec<Packet> {
        let lost = under_way(sim, a, b, |_| true);
        sim.partition(a, b);
        self.cut(a, b, [true, true], &lost);
        lost
    }

    /// As [`Self::partition`], for one direction of a link. Dials hang either way, as TCP needs
    /// both directions to connect. Don't combine it with [`Self::hold`] on the same link.
    ///
    /// # Panics
    /// When the simulation has no such link.
    pub fn partition_oneway(&self, sim: &Sim<'_>, from: IpAddr, to: IpAddr) -> Vec<Packet> {
        let lost = under_way(sim, from, to, |packet| packet.from.ip() == from);
        sim.partition_oneway(from, to);
        self.cut(from, to, [from < to, to < from], &lost);
        lost
    }

    /// Holds what is on a link and what is sent from now on, until [`Self::release`]; nothing is
    /// lost. A link that was cut holds instead. Dials hang.
    ///
    /// # Panics
    /// When the simulation has no such link.
    pub fn hold(&self, sim: &Sim<'_>, a: IpAddr, b: IpAddr) {
        sim.hold(a, b);
        // A dial that waits goes on, so that its SYN is held.
        self.mend(a, b);
    }

    /// Makes a link whole, however it was broken: what was held is delivered in the next step, what
    /// was lost stays so, and dials go on.
    ///
    /// # Panics
    /// When the simulation has no such link.
    pub fn release(&self, sim: &Sim<'_>, a: IpAddr, b: IpAddr) {
        sim.release(a, b);
        self.mend(a, b);
    }

    /// Lets the next accept of the listener at this address fail, before it takes a connection;
    /// each call is another failure. `false`: nobody listens there.
    pub fn fail_accept(&self, address: SocketAddr, error: io::Error) -> bool {
        let fail = self.table().listeners.get(&address).cloned();
        fail.inspect(|fail| fail(error)).is_some()
    }

    // What can be seen.

    /// Whether a stream, in either direction, has lost a segment: nothing arrives after the gap,
    /// and its end doesn't either. Known from [`Self::partition`], and from [`Self::watch`] for
    /// what is sent while the link is cut. A new connection between the same ports is not lossy.
    pub fn is_lossy(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.table().lossy.contains(&ordered(local, remote))
    }

    /// Ends of connections that someone holds; a connection has two.
    pub fn open_ends(&self) -> usize {
        self.shared.open_ends.load(Ordering::Relaxed)
    }

    /// Tasks of all [`TurmoilRuntime`](crate::TurmoilRuntime)s that have not ended and whose host
    /// has not crashed.
    pub fn live_tasks(&self) -> usize {
        self.shared.live_tasks.load(Ordering::Relaxed)
    }

    /// What tasks have panicked with since the last call, in that order. turmoil swallows it.
    pub fn take_panics(&self) -> Vec<String> {
        std::mem::take(&mut self.table().panics)
    }

    // For the adapter.

    pub(crate) fn random(&self) -> Seeded {
        let stream = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        Seeded::for_purpose(self.shared.options.seed, stream)
    }

    pub(crate) fn add_end(&self) {
        self.shared.open_ends.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_end(&self) {
        self.shared.open_ends.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn add_task(&self) {
        self.shared.live_tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_task(&self) {
        self.shared.live_tasks.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn add_panic(&self, message: String) {
        self.table().panics.push(message);
    }

    pub(crate) fn add_lossy(&self, from: SocketAddr, to: SocketAddr) {
        self.table().lossy.insert(ordered(from, to));
    }

    /// Hands bytes to turmoil. While it does, all events are of this segment, and nobody that
    /// watches needs to read from their text which it is: that costs more than sending it.
    pub(crate) fn send<R>(&self, sending: Sending, send: impl FnOnce() -> R) -> R {
        self.set_sending(Some(sending));
        let result = send();
        self.set_sending(None);
        result
    }

    fn set_sending(&self, sending: Option<Sending>) {
        *self.shared.sending.lock().unwrap_or_else(PoisonError::into_inner) = sending;
    }

    /// What [`Self::send`] is at.
    pub(crate) fn sending(&self) -> Option<Sending> {
        *self.shared.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the two ends of a connection share; a new one, whoever had these ports before.
    pub(crate) fn accepted(&self, dialer: SocketAddr, acceptor: SocketAddr) -> Arc<Wire> {
        let wire = Arc::<Wire>::default();
        let mut table = self.table();
        table.accepted.insert((dialer, acceptor), Arc::clone(&wire));
        table.lossy.remove(&ordered(dialer, acceptor));
        wire
    }

    /// The dialer's half of [`Self::accepted`].
    pub(crate) fn dialled(&self, dialer: SocketAddr, acceptor: SocketAddr) -> Option<Arc<Wire>> {
        self.table().accepted.remove(&(dialer, acceptor))
    }

    pub(crate) fn add_listener(&self, address: SocketAddr, fail: &FailAccept) {
        self.table().listeners.insert(address, Arc::clone(fail));
    }

    pub(crate) fn remove_listener(&self, address: SocketAddr, fail: &FailAccept) {
        let mut table = self.table();
        if table.listeners.get(&address).is_some_and(|there| Arc::ptr_eq(there, fail)) {
            table.listeners.remove(&address);
        }
    }

    /// How often the link has been cut.
    pub(crate) fn cuts(&self, a: IpAddr, b: IpAddr) -> u64 {
        self.table().links.get(&ordered(a, b)).map_or(0, |link| link.cuts)
    }

    /// Ready while neither direction of the link is cut.
    pub(crate) fn poll_whole(&self, a: IpAddr, b: IpAddr, cx: &mut Context<'_>) -> Poll<()> {
        match self.table().links.get_mut(&ordered(a, b)) {
            Some(link) if link.is_cut_up || link.is_cut_down => {
                if !link.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    link.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn cut(&self, a: IpAddr, b: IpAddr, [up, down]: [bool; 2], lost: &[Packet]) {
        let mut table = self.table();
        let link = table.links.entry(ordered(a, b)).or_default();
        link.is_cut_up |= up;
        link.is_cut_down |= down;
        link.cuts += 1;
        for packet in lost {
            if packet.kind.is_of_a_stream() {
                table.lossy.insert(ordered(packet.from, packet.to));
            }
        }
    }

    fn mend(&self, a: IpAddr, b: IpAddr) {
        let mut table = self.table();
        let link = table.links.entry(ordered(a, b)).or_default();
        link.is_cut_up = false;
        link.is_cut_down = false;
        let waiting = std::mem::take(&mut link.waiting);
        drop(table);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Never held while anything of turmoil's is called, or a waker.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ordered<T: Ord>(a: T, b: T) -> (T, T) {
    if a < b { (a, b) } else { (b, a) }
}

/// What turmoil would lose of a link without a word.
fn under_way(
    sim: &Sim<'_>,
    a: IpAddr,
    b: IpAddr,
    is_lost: impl Fn(&Packet) -> bool,
) -> Vec<Packet> {
    let mut lost = Vec::new();
    sim.links(|links: LinksIter<'_>| {
        for link in links.filter(|link| ordered(a, b) == link.pair()) {
            lost.extend(link.filter_map(|sent| Packet::lost(&sent)).filter(&is_lost));
        }
    });
    lost
}
