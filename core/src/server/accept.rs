use std::{panic::AssertUnwindSafe, sync::Arc, task::Poll, time::Duration};

use futures::{FutureExt, future::poll_fn};

use super::{
    Link,
    session::Session,
    signal::{Signal, until_told},
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
}

impl<L: Listener, D: Dialer, R: Relay<L::Conn, D::Conn>> AcceptLoop<L, D, R> {
    /// Accepts until told to stop.
    pub(super) async fn run(self) -> Result<(), ListenerError> {
        let accepting = AssertUnwindSafe(self.accept_all()).catch_unwind().await;
        accepting.unwrap_or(Err(ListenerError::Panicked))
    }

    async fn accept_all(mut self) -> Result<(), ListenerError> {
        let mut pause = PAUSE_MIN;
        loop {
            let shared = &self.link.shared;
            let room = poll_fn(|_| if shared.has_room() { Poll::Ready(()) } else { Poll::Pending });
            if until_told(&self.stop, room).await.is_none() {
                return Ok(());
            }
            match until_told(&self.stop, self.listener.accept()).await {
                None => return Ok(()),
                Some(Ok(client)) => {
                    pause = PAUSE_MIN;
                    self.begin(client);
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
                            if until_told(&self.stop, over).await.is_none() {
                                return Ok(());
                            }
                            pause = (pause * 2).min(PAUSE_MAX);
                        }
                        AcceptFailure::Fatal => {
                            let told = std::io::Error::new(error.kind(), error.to_string());
                            shared.accept_failed(self.id, told, None);
                            return Err(ListenerError::Dead(error));
                        }
                    }
                }
            }
        }
    }

    /// Begins a client's session. A client that comes in the moment of shutdown is dropped.
    fn begin(&self, mut client: L::Conn) {
        let signal = Arc::new(Signal::default());
        let admitted = self.link.shared.admit(self.id, &client, &signal);
        let Some((id, admission)) = admitted else { return client.abort() };
        let session = Session::new(id, signal, client, Arc::clone(&self.link));
        match admission {
            Admission::Refused(refusal) => session.refuse(refusal),
            admission => self.link.runtime.spawn(Box::pin(session.run(admission))),
        }
    }
}
