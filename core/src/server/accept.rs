use std::{io, panic::AssertUnwindSafe, sync::Arc, task::Poll, time::Duration};

use futures::{FutureExt, future::poll_fn};

use super::{
    Link,
    limit::Parking,
    session::Session,
    signal::{Signal, until_raised},
};
use crate::{AcceptFailure, Admission, Conn, Dialer, Listener, ListenerError, ListenerId, Relay};

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One listener's accept loop. It waits for connections, for room, and for errors to pass; never
/// for a session.
pub(super) struct AcceptLoop<L, D: Dialer, R> {
    pub(super) id: ListenerId,
    pub(super) listener: L,
    pub(super) link: Arc<Link<D, R>>,
    pub(super) stop: Arc<Signal>,
    pub(super) parking: Parking<D::Target>,
}

impl<L: Listener, D: Dialer, R: Relay<L::Conn, D::Conn>> AcceptLoop<L, D, R> {
    /// Accepts until the stop handle has a word.
    pub(super) async fn run(self) -> Result<(), ListenerError> {
        let accepting = AssertUnwindSafe(self.accept_all()).catch_unwind().await;
        accepting.unwrap_or(Err(ListenerError::Panicked))
    }

    async fn accept_all(mut self) -> Result<(), ListenerError> {
        let stop = Arc::clone(&self.stop);
        let mut pause = PAUSE_MIN;
        loop {
            match until_raised(&stop, self.accept()).await {
                None => return Ok(()),
                Some(Ok(client)) => {
                    pause = PAUSE_MIN;
                    self.begin(client).await;
                }
                Some(Err(error)) => {
                    let shared = &self.link.shared;
                    match self.listener.classify(&error) {
                        AcceptFailure::Skip => {
                            shared.accept_failed(self.id, error, Some(Duration::ZERO));
                        }
                        AcceptFailure::BackOff => {
                            shared.accept_failed(self.id, error, Some(pause));
                            let over = self.link.runtime.sleep(pause);
                            if until_raised(&stop, over).await.is_none() {
                                return Ok(());
                            }
                            pause = (pause * 2).min(PAUSE_MAX);
                        }
                        AcceptFailure::Fatal => {
                            let reported = io::Error::new(error.kind(), error.to_string());
                            shared.accept_failed(self.id, reported, None);
                            return Err(ListenerError::Dead(error));
                        }
                    }
                }
            }
        }
    }

    /// The next connection. While there is no room, the listener isn't asked.
    async fn accept(&mut self) -> io::Result<L::Conn> {
        let mut accepting = self.listener.accept();
        poll_fn(|cx| {
            if !self.parking.find_room() {
                return Poll::Pending;
            }
            let accepted = accepting.poll_unpin(cx);
            if !matches!(accepted, Poll::Ready(Ok(_))) {
                self.parking.found_nobody();
            }
            accepted
        })
        .await
    }

    /// Begins a client's session, once there is room: another listener may just have taken the
    /// last. A client that comes in the moment of shutdown is dropped.
    async fn begin(&mut self, mut client: L::Conn) {
        let signal = Arc::new(Signal::default());
        let admitted = poll_fn(|cx| {
            // Nudged when there is room. A server that shuts down admits nobody, at once.
            self.stop.register(cx);
            let admitted = self.link.shared.admit(self.id, &mut client, &signal);
            self.parking.poll(admitted)
        });
        let Some((id, admission)) = admitted.await else { return client.abort() };
        let session = Session::new(id, signal, client, Arc::clone(&self.link));
        match admission {
            Admission::Refused(refusal) => session.refuse(refusal),
            admission => self.link.runtime.spawn(Box::pin(session.run(&admission))),
        }
    }
}
