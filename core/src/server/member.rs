use std::sync::{Arc, Weak};

use crate::{
    Budget, MemberId,
    sync::{Mutex, MutexGuard},
};

/// A [`Budget`] of connections that several servers share, see
/// [`Handle::share`](crate::Handle::share). Cheap to clone; clones are the same budget.
#[derive(Clone)]
pub struct SharedBudget {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    budget: Budget,
    /// The servers, indexed by the number of the member.
    servers: Vec<Weak<dyn Nudge>>,
}

/// A server that may go on accepting.
pub(super) trait Nudge: Send + Sync {
    /// Makes it check whether there is room. Never called under a lock.
    fn nudge(&self);
}

/// The server to nudge once no lock is held.
pub(super) type Next = Option<Arc<dyn Nudge>>;

impl SharedBudget {
    /// A budget of this many connections.
    pub fn new(total: usize) -> Self {
        let inner = Inner { budget: Budget::new(total), servers: Vec::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Changes how many connections all servers may have together. A smaller total cuts no
    /// connection; nothing is accepted until enough have ended.
    pub fn set_total(&self, total: usize) {
        let (_, next) = self.step(|budget| budget.set_total(total));
        next.into_iter().for_each(|server| server.nudge());
    }

    /// How many connections all servers may have together.
    pub fn total(&self) -> usize {
        self.lock().budget.total()
    }

    /// How many connections all servers have.
    pub fn in_use(&self) -> usize {
        self.lock().budget.in_use()
    }

    /// Adds a server that has this many connections.
    pub(super) fn join(&self, minimum: usize, live: usize, server: Weak<dyn Nudge>) -> Membership {
        let mut inner = self.lock();
        let id = inner.budget.join(minimum, live);
        match inner.servers.get_mut(id.0) {
            Some(place) => *place = server,
            None => inner.servers.push(server),
        }
        Membership { budget: self.clone(), id }
    }

    fn step<R>(&self, step: impl FnOnce(&mut Budget) -> R) -> (R, Next) {
        let mut inner = self.lock();
        let result = step(&mut inner.budget);
        let next = inner.budget.next().and_then(|id| inner.servers[id.0].upgrade());
        (result, next)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// A server's membership in a budget. Don't drop it under a lock. A step returns the other server
/// that it makes room for, if any.
pub(super) struct Membership {
    budget: SharedBudget,
    id: MemberId,
}

impl Membership {
    pub(super) fn is_in(&self, budget: &SharedBudget) -> bool {
        Arc::ptr_eq(&self.budget.inner, &budget.inner)
    }

    pub(super) fn total(&self) -> usize {
        self.budget.total()
    }

    pub(super) fn set_minimum(&self, minimum: usize) -> Next {
        self.budget.step(|budget| budget.set_minimum(self.id, minimum)).1
    }

    pub(super) fn may_admit(&self) -> bool {
        self.budget.lock().budget.may_admit(self.id)
    }

    /// Counts another connection, if there is room. Returns whether there was.
    pub(super) fn admit(&self) -> (bool, Next) {
        self.budget.step(|budget| budget.admit(self.id))
    }

    pub(super) fn finish(&self) -> Next {
        self.budget.step(|budget| budget.finish(self.id)).1
    }

    /// Notes that accept loops wait for room.
    pub(super) fn wait(&self) -> Next {
        let (is_news, next) = self.budget.step(|budget| budget.wait(self.id));
        next.filter(|_| is_news)
    }

    /// Notes that no accept loop waits for room.
    pub(super) fn stop_waiting(&self) -> Next {
        self.budget.step(|budget| budget.stop_waiting(self.id)).1
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let (_, next) = self.budget.step(|budget| budget.leave(self.id));
        next.into_iter().for_each(|server| server.nudge());
    }
}
