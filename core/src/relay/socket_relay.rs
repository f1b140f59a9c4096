use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;

use super::{
    Direction, Progress, Relay, RelayError, Socket, SocketConn, SocketStream,
    flow::{Flow, FlowState},
    pipes::Pipes,
};

/// The relay for connections that are sockets. It reads into one buffer for each thread and writes
/// straight from it, so a session holds memory only for what a slow reader has left: at most
/// [`Sizes::read`](super::Sizes::read) bytes each way (64 KiB).
///
/// Where the system can, a direction that is *hot* is moved by splice(2), through a pipe that it
/// holds while it moves something; see [`Splice`].
pub struct SocketRelay<S: Socket> {
    splice: Splice,
    pipes: Arc<Pipes<S::Pipe>>,
}

/// When bytes go through a pipe within the system, rather than through memory. Elsewhere than on
/// Linux, and where no pipe is to be had, they never do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Splice {
    /// Never.
    Never,
    /// While a direction is hot: from four full reads in a row that its reader took at once, until
    /// it has little to move.
    #[default]
    Hot,
    /// From the first byte on, wherever the reader is a TCP socket that has sent no urgent data.
    /// For tests.
    Always,
}

impl<S: Socket> SocketRelay<S> {
    /// A relay that splices when `splice` says, with at most `pipes_max` pipes, of two descriptors
    /// and 1 MiB each: fewer bytes if the system grants less. Its clones share them. Half of them
    /// may wait for slow readers.
    pub fn new(splice: Splice, pipes_max: usize) -> Self {
        Self { splice, pipes: Arc::new(Pipes::new(pipes_max)) }
    }

    /// How many pipes sessions hold at this moment. What a system is asked for more than that is
    /// spare: such pipes are empty.
    pub fn pipes_lent(&self) -> usize {
        self.pipes.lent()
    }
}

impl<S: Socket> Clone for SocketRelay<S> {
    fn clone(&self) -> Self {
        Self { splice: self.splice, pipes: Arc::clone(&self.pipes) }
    }
}

impl<S: Socket> Default for SocketRelay<S> {
    /// For hot directions, with at most 32 pipes.
    fn default() -> Self {
        Self::new(Splice::default(), 32)
    }
}

impl<C, B, S> Relay<C, B> for SocketRelay<S>
where
    C: SocketConn<Socket = S>,
    B: SocketConn<Socket = S>,
    S: Socket<Pipe: Send> + Send + 'static,
{
    // What `async_trait` makes of an `async fn` would hold the arguments twice.
    fn relay<'s: 'f, 'c: 'f, 'b: 'f, 'p: 'f, 'f>(
        &'s self,
        client: &'c mut C,
        backend: &'b mut B,
        progress: &'p Progress,
    ) -> BoxFuture<'f, Result<(), RelayError>>
    where
        Self: 'f,
    {
        Box::pin(Transfer::new(self, client.stream(), backend.stream(), progress))
    }
}

struct Transfer<'a, S: Socket> {
    relay: &'a SocketRelay<S>,
    progress: &'a Progress,
    client: &'a mut SocketStream<S>,
    backend: &'a mut SocketStream<S>,
    to_backend: FlowState<S::Pipe>,
    to_client: FlowState<S::Pipe>,
    /// The failure of the side that has failed.
    error: Option<io::Error>,
}

impl<'a, S: Socket> Transfer<'a, S> {
    fn new(
        relay: &'a SocketRelay<S>,
        client: &'a mut SocketStream<S>,
        backend: &'a mut SocketStream<S>,
        progress: &'a Progress,
    ) -> Self {
        let (to_backend, to_client) = (FlowState::new(relay.splice), FlowState::new(relay.splice));
        Self { relay, progress, client, backend, to_backend, to_client, error: None }
    }

    fn flow(&mut self, direction: Direction) -> Flow<'_, S> {
        let Self { relay, progress, client, backend, to_backend, to_client, .. } = self;
        let (reader, writer, state) = match direction {
            Direction::ToBackend => (client, backend, to_backend),
            Direction::ToClient => (backend, client, to_client),
        };
        let SocketRelay { splice, pipes } = relay;
        Flow { splice: *splice, pipes, progress, direction, reader, writer, state }
    }

    /// Ready when both ends have been passed on.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let up = self.flow(Direction::ToBackend).poll(cx)?;
        let down = self.flow(Direction::ToClient).poll(cx)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// It refers to nothing within itself.
impl<S: Socket> Unpin for Transfer<'_, S> {}

impl<S: Socket> Future for Transfer<'_, S> {
    type Output = Result<(), RelayError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.error.is_none() {
            match ready!(self.poll_move(cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(RelayError { side, error }) => {
                    self.progress.fail(side);
                    self.error = Some(error);
                }
            }
        }
        let Some(side) = self.progress.failed() else { return Poll::Pending };
        ready!(self.flow(Direction::of(side)).poll_deliver(cx));
        self.error
            .take()
            .map_or(Poll::Pending, |error| Poll::Ready(Err(RelayError { side, error })))
    }
}

impl<S: Socket> Drop for Transfer<'_, S> {
    fn drop(&mut self) {
        for state in [&self.to_backend, &self.to_client] {
            if state.holds_pipe() {
                self.relay.pipes.lost();
            }
        }
    }
}
