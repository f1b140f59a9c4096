//! What the parts of a run are given to do, until they do it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    task::{Context, Poll, Waker},
};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use super::orders::{ClientOrder, Order, Visit};
use crate::{
    oracle::PLACES,
    scenario::{DialError, Place, Reply},
};

/// Orders for the balancer, visits and orders for the clients, failures for the adapter.
pub(super) struct Cues {
    orders: Channel<Order>,
    visits: Channel<Visit>,
    accept_failures: VecDeque<io::Error>,
    acceptor: Option<Waker>,
    /// Dials of these places are to panic.
    panics: BTreeSet<Place>,
    /// How many dials of these places are to fail, and how.
    failing: BTreeMap<Place, (u32, DialError)>,
    /// What checks of these places find, and after how many milliseconds.
    replies: BTreeMap<Place, (Reply, u32)>,
    boots: [u32; PLACES],
    /// By attempt.
    clients: Vec<Client>,
}

/// Both ends, until the second is taken.
type Channel<T> = (UnboundedSender<T>, Option<UnboundedReceiver<T>>);

struct Client {
    order: ClientOrder,
    waker: Option<Waker>,
}

impl Cues {
    pub(super) fn new() -> Self {
        Self {
            orders: channel(),
            visits: channel(),
            accept_failures: VecDeque::new(),
            acceptor: None,
            panics: BTreeSet::new(),
            failing: BTreeMap::new(),
            replies: BTreeMap::new(),
            boots: [0; PLACES],
            clients: Vec::new(),
        }
    }

    // The balancer.

    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.0.unbounded_send(order);
    }

    /// The balancer's orders, for the first that asks.
    pub(super) fn take_orders(&mut self) -> Option<UnboundedReceiver<Order>> {
        self.orders.1.take()
    }

    /// Lets accepts fail. The acceptor has to be woken.
    pub(super) fn fail_accepts(
        &mut self,
        errors: impl Iterator<Item = io::Error>,
    ) -> Option<Waker> {
        self.accept_failures.extend(errors);
        self.acceptor.take()
    }

    /// Ready when the next accept is to fail.
    pub(super) fn poll_accept_failure(&mut self, cx: &Context<'_>) -> Poll<io::Error> {
        match self.accept_failures.pop_front() {
            Some(error) => Poll::Ready(error),
            None => {
                self.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn panic_next_dial(&mut self, place: Place) {
        self.panics.insert(place);
    }

    /// Whether the next dial of this place is to panic.
    pub(super) fn will_panic(&self, place: Place) -> bool {
        self.panics.contains(&place)
    }

    /// Whether this dial is to panic; the next one is not.
    pub(super) fn takes_panic(&mut self, place: Place) -> bool {
        self.panics.remove(&place)
    }

    /// The next dials and probes of this place are to fail.
    pub(super) fn fail_dials(&mut self, place: Place, count: u32, error: DialError) {
        self.failing.insert(place, (count, error));
    }

    /// How this dial or probe is to fail, if it is.
    pub(super) fn takes_dial_failure(&mut self, place: Place) -> Option<DialError> {
        let (left, error) = self.failing.get_mut(&place).filter(|(left, _)| *left > 0)?;
        *left -= 1;
        Some(*error)
    }

    /// No dial is to panic or to fail.
    pub(super) fn let_dials_be(&mut self) {
        self.panics.clear();
        self.failing.clear();
    }

    /// Checks of this place that begin from now on find this, after this many milliseconds.
    pub(super) fn let_checks_find(&mut self, place: Place, reply: Reply, after: u32) {
        self.replies.insert(place, (reply, after));
    }

    /// What a check of this place that begins now finds, and after how many milliseconds.
    pub(super) fn reply(&self, place: Place) -> (Reply, u32) {
        self.replies.get(&place).copied().unwrap_or((Reply::Pass, 0))
    }

    /// Every check passes at once.
    pub(super) fn let_checks_pass(&mut self) {
        self.replies.clear();
    }

    // The backends.

    /// A backend starts. Returns how often it has.
    pub(super) fn boots(&mut self, place: Place) -> u32 {
        let boots = &mut self.boots[usize::from(place.0)];
        *boots += 1;
        *boots
    }

    // The clients.

    pub(super) fn visit(&self, visit: Visit) {
        let _ = self.visits.0.unbounded_send(visit);
    }

    /// The clients' visits, for the first that asks.
    pub(super) fn take_visits(&mut self) -> Option<UnboundedReceiver<Visit>> {
        self.visits.1.take()
    }

    /// The next attempt of a client begins, with this order.
    pub(super) fn client_dials(&mut self, order: ClientOrder) {
        self.clients.push(Client { order, waker: None });
    }

    /// Gives a client this order. Its task then has to be woken.
    pub(super) fn order_client(&mut self, attempt: u32, order: ClientOrder) -> Option<Waker> {
        let client = &mut self.clients[attempt as usize];
        client.order = client.order.max(order);
        client.waker.take()
    }

    /// The client's order. Its task is woken when that changes.
    pub(super) fn poll_order(&mut self, attempt: u32, cx: &Context<'_>) -> ClientOrder {
        let client = &mut self.clients[attempt as usize];
        if !client.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            client.waker = Some(cx.waker().clone());
        }
        client.order
    }

    /// Ready when a client that is still connecting is to leave.
    pub(super) fn poll_leaves(&mut self, attempt: u32, cx: &Context<'_>) -> Poll<()> {
        match self.poll_order(attempt, cx) {
            ClientOrder::GoOn => Poll::Pending,
            ClientOrder::Close | ClientOrder::Abort => Poll::Ready(()),
        }
    }
}

fn channel<T>() -> Channel<T> {
    let (sender, receiver) = unbounded();
    (sender, Some(receiver))
}
