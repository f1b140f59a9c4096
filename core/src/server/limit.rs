use std::{sync::Arc, task::Poll, time::Duration};

use super::{
    member::{Membership, Nudge, SharedBudget},
    shared::Shared,
    state::{Lifecycle, State},
};
use crate::{Event, Limit, Target};

/// A limit counts as left once no accept loop has had to wait for this long. At a limit, room comes
/// and goes with each connection, which isn't worth reporting.
const LEFT_AFTER: Duration = Duration::from_secs(10);

/// Where an accept loop waits while there is no room.
pub(super) struct Parking<T: Target> {
    shared: Arc<Shared<T>>,
    state: Parked,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parked {
    No,
    /// It has found no room; it is nudged when there is some.
    Yes,
    /// There is room again. It may be reserved for this server, until a loop has taken it or all
    /// loops have found no client.
    Looking,
}

impl<T: Target> Parking<T> {
    pub(super) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared, state: Parked::No }
    }

    /// Whether another connection may be accepted. If not, the loop waits for room: it is nudged
    /// once there is some.
    pub(super) fn find_room(&mut self) -> bool {
        let room = self.shared.step(State::room);
        self.poll(room).is_ready()
    }

    /// Waits for room if there is none.
    pub(super) fn poll<R>(&mut self, room: Result<R, Limit>) -> Poll<R> {
        match room {
            Ok(room) => {
                if self.state == Parked::Yes {
                    self.state = Parked::Looking;
                    self.shared.unpark();
                }
                Poll::Ready(room)
            }
            Err(limit) => {
                let was_parked = self.state == Parked::Yes;
                self.state = Parked::Yes;
                self.shared.park(limit, was_parked);
                Poll::Pending
            }
        }
    }

    /// Notes that there is room but no client for it.
    pub(super) fn found_nobody(&mut self) {
        if self.state == Parked::Looking {
            self.state = Parked::No;
            self.shared.step(State::need_room_no_more);
        }
    }
}

impl<T: Target> Drop for Parking<T> {
    fn drop(&mut self) {
        if self.state == Parked::Yes {
            self.shared.step(|state| state.parked -= 1);
        }
        if self.state != Parked::No {
            self.shared.step(State::need_room_no_more);
        }
    }
}

impl<T: Target> State<T> {
    /// Nudges the accept loops that wait for room once there is some.
    pub(super) fn settle_parked(&mut self) {
        if !self.is_parked || self.lifecycle != Lifecycle::Running {
            return;
        }
        match self.room() {
            Ok(()) => {
                self.is_parked = false;
                let listeners = self.tasks.iter().filter(|(_, task)| task.is_listener);
                self.wakes.nudges.extend(listeners.map(|(_, task)| Arc::clone(&task.stop)));
            }
            Err(Limit::Shared(_)) => {
                self.wakes.servers.extend(self.member.as_ref().and_then(Membership::wait));
            }
            Err(Limit::Own(_)) => {}
        }
    }

    /// Releases the room to other servers, unless another accept loop may have a client for it.
    fn need_room_no_more(&mut self) {
        if self.parked == 0 {
            self.wakes.servers.extend(self.member.as_ref().and_then(Membership::stop_waiting));
        }
    }

    /// The time until a limit counts as left. `None`: it does now.
    fn limit_lasts(&mut self, now: Duration) -> Option<Duration> {
        let (_, last) = self.limit_reached?;
        let quiet = now.saturating_sub(last);
        let is_in_the_way = self.parked > 0 && self.room().is_err();
        if self.lifecycle == Lifecycle::Running && is_in_the_way {
            return Some(LEFT_AFTER);
        }
        if self.lifecycle == Lifecycle::Running && quiet < LEFT_AFTER {
            return Some(LEFT_AFTER - quiet);
        }
        self.limit_reached = None;
        self.outbox.event(|| Event::LimitLeft);
        None
    }
}

impl<T: Target> Shared<T> {
    /// Joins a budget, or changes the guaranteed minimum there.
    pub(super) fn share(self: &Arc<Self>, budget: &SharedBudget, minimum: usize) {
        let server = Arc::downgrade(self);
        let _before = self.step(|state| {
            let minimum = if state.lifecycle == Lifecycle::Running { minimum } else { 0 };
            match &state.member {
                Some(member) if member.is_in(budget) => {
                    state.wakes.servers.extend(member.set_minimum(minimum));
                    None
                }
                _ => state.member.replace(budget.join(minimum, state.balancer.live(), server)),
            }
        });
    }

    /// Notes that an accept loop has found no room. The loops are nudged when there is some.
    fn park(self: &Arc<Self>, limit: Limit, was_parked: bool) {
        let now = self.runtime.now();
        let is_news = self.step(|state| {
            state.is_parked = true;
            state.parked += usize::from(!was_parked);
            let is_news = state.limit_reached.is_none();
            if is_news {
                state.outbox.event(|| Event::LimitReached(limit));
                state.limit_reached = Some((limit, now));
            } else if let Some((_, last)) = &mut state.limit_reached {
                *last = now;
            }
            is_news
        });
        if is_news {
            self.await_end_of_limit();
        }
    }

    /// Notes that an accept loop has waited for room and has found some.
    fn unpark(&self) {
        let now = self.runtime.now();
        self.step(|state| {
            state.parked -= 1;
            if let Some((_, last)) = &mut state.limit_reached {
                *last = now;
            }
        });
    }

    fn await_end_of_limit(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let mut left = Some(LEFT_AFTER);
            while let Some(time) = left {
                shared.runtime.sleep(time).await;
                let now = shared.runtime.now();
                left = shared.step(|state| state.limit_lasts(now));
            }
        });
    }
}

impl<T: Target> Nudge for Shared<T> {
    fn nudge(&self) {
        // Each step checks what room there is.
        self.step(|_| {});
    }
}
