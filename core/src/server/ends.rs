use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Conn, Direction, Progress};

/// Both connections of a session. The drop aborts them, unless they are complete: then it finishes
/// them.
pub struct Ends<C: Conn, B: Conn> {
    /// The client's connection.
    pub client: C,
    /// The backend's, once there is one.
    pub backend: Option<B>,
    is_complete: bool,
}

impl<C: Conn, B: Conn> Ends<C, B> {
    /// A client that has no backend yet.
    pub fn new(client: C) -> Self {
        Self { client, backend: None, is_complete: false }
    }

    /// Notes that both directions have ended.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Subtracts from the count the written bytes that an abort is about to discard.
    pub fn take_back(&self, progress: &Progress) {
        let take_back = |direction, unacknowledged: &dyn Fn() -> usize| {
            if progress.bytes(direction) > 0 {
                guard(|| progress.take_back(direction, unacknowledged()));
            }
        };
        take_back(Direction::ToClient, &|| self.client.unacknowledged());
        let backend = || self.backend.as_ref().map_or(0, Conn::unacknowledged);
        take_back(Direction::ToBackend, &backend);
    }
}

impl<C: Conn, B: Conn> Drop for Ends<C, B> {
    fn drop(&mut self) {
        let Self { client, backend, is_complete } = self;
        if *is_complete {
            guard(|| client.finish());
            guard(|| backend.as_mut().map_or((), Conn::finish));
        } else {
            abort(Some(client));
            abort(backend.as_mut());
        }
    }
}

pub(super) fn abort(conn: Option<&mut impl Conn>) {
    if let Some(conn) = conn {
        guard(|| conn.abort());
    }
}

/// An adapter's panic must not keep the other end open.
fn guard(step: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(step));
}
