//! What all that takes part in a run shares.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::channel::mpsc::UnboundedReceiver;
use tinylb_core::Handle;

use super::{
    judge::Judge,
    orders::{Order, Visit},
};
use crate::{Law, PacketFate, PacketKind, Scenario, scenario::Place, trace::Host};

/// What a dial panics with when a scenario wants it to.
pub(super) const PANIC_AS_ORDERED: &str = "a dial panics as ordered";

/// What all that takes part in a run shares. Clones are the same run.
#[derive(Clone)]
pub struct World {
    scenario: Arc<Scenario>,
    judge: Arc<Mutex<Judge>>,
    handle: Arc<Mutex<Option<Handle<Place>>>>,
}

impl World {
    pub(super) fn new(judge: Judge) -> Self {
        let scenario = Arc::clone(judge.scenario());
        Self { scenario, judge: Arc::new(Mutex::new(judge)), handle: Arc::default() }
    }

    /// What is run.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Never held while something is done.
    pub(super) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on happens at this time since the beginning.
    pub fn set_time(&self, at: Duration) {
        self.judge().set_time(at.as_micros() as u64);
    }

    /// A segment was seen on its way between two hosts, at these ports.
    pub fn packet(&self, from: (Host, u16), to: (Host, u16), kind: PacketKind, fate: PacketFate) {
        self.judge().packet(from, to, kind, fate);
    }

    /// A stream between these two has lost a segment, so nothing is expected of it any more.
    pub fn lost(&self, a: SocketAddr, b: SocketAddr) {
        self.judge().lost(a, b);
    }

    /// Something that is none of the scenario's doing was wrong.
    pub fn fail(&self, law: Law, text: String) {
        self.judge().fail(law, text);
    }

    /// A task panicked with this text.
    pub fn panicked(&self, text: &str) {
        if text != PANIC_AS_ORDERED {
            self.fail(Law::Panic, format!("a task panicked: {text}"));
        }
    }

    /// Whether a law was broken.
    pub fn has_failed(&self) -> bool {
        self.judge().has_failed()
    }

    pub(super) fn set_handle(&self, handle: Handle<Place>) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    /// The balancer's handle, once there is one.
    pub(super) fn handle(&self) -> Option<Handle<Place>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn take_handle(&self) -> Option<Handle<Place>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The balancer's orders, for the first that asks.
    pub(super) fn take_orders(&self) -> Option<UnboundedReceiver<Order>> {
        self.judge().cues().take_orders()
    }

    /// The clients' visits, for the first that asks.
    pub(super) fn take_visits(&self) -> Option<UnboundedReceiver<Visit>> {
        self.judge().cues().take_visits()
    }

    pub(super) fn poll_accept_failure(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.judge().cues().poll_accept_failure(cx)
    }
}
