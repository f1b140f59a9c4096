use std::{io, net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, bind,
        connect, listen, recv, send, shutdown, socket_with,
        sockopt::{set_socket_reuseaddr, set_tcp_nodelay},
    },
};
use slab::Slab;

/// Bytes read at once, and how often in a turn: 1 MiB.
const BUFFER: usize = 64 << 10;
const READS_MAX: usize = 16;

const SOCKET_FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// What a socket is watched for, all its life.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// What events of the listener say, where those of other sockets have their `token`.
const LISTENER: u64 = u64::MAX;

/// About the least that a balancer on one thread asks of the kernel: what tinylb could come down to
/// with a reactor of its own instead of tokio's. It lacks what tinylb is for: time limits, retries,
/// replacements that close connections, bounds, events. Nor does it splice or pass a reset on, and it
/// ends when it runs out of descriptors.
pub fn run(at: SocketAddr, backends: &[SocketAddr]) -> io::Result<()> {
    let listener = open()?;
    set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &at)?;
    listen(&listener, 4096)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let interest = EventFlags::IN | EventFlags::ET;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), interest)?;
    let mut balancer = Balancer { epoll, pairs: Slab::new(), buffer: vec![0; BUFFER] };
    let mut turns = backends.iter().cycle();
    let mut events = Vec::with_capacity(512);
    loop {
        retry_on_intr(|| epoll::wait(&balancer.epoll, spare_capacity(&mut events), None))?;
        let mut has_clients = false;
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => has_clients = true,
                token => balancer.serve(token, event.flags)?,
            }
        }
        // Last, so that no event of a pair that has ended is left when its key is used again.
        while has_clients {
            match accept_with(&listener, SOCKET_FLAGS) {
                Ok(client) => balancer.admit(client, turns.next().expect("a backend"))?,
                Err(Errno::AGAIN) => has_clients = false,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Balancer {
    epoll: OwnedFd,
    pairs: Slab<Pair>,
    buffer: Vec<u8>,
}

/// A client and its backend: sides 0 and 1.
struct Pair {
    sockets: [OwnedFd; 2],
    /// By the side that the bytes come from.
    flows: [Flow; 2],
}

#[derive(Default)]
struct Flow {
    /// What the other side didn't take; nothing is read before it does. A dial looks like that too,
    /// with no bytes: the backend takes some when it is connected.
    leftover: Option<Box<[u8]>>,
    /// The end has arrived, behind what is there to be read.
    is_last: bool,
    has_ended: bool,
}

/// What a flow has come to.
enum Turn {
    /// An event comes when there is more to do.
    Waits,
    /// There may be more to do: others first.
    Yields,
    /// Both flows have ended.
    Ends,
}

impl Balancer {
    fn admit(&mut self, client: OwnedFd, backend: &SocketAddr) -> io::Result<()> {
        let socket = open()?;
        if connect(&socket, backend).is_err_and(|error| error != Errno::INPROGRESS) {
            return Ok(());
        }
        let to_backend = Flow { leftover: Some(Box::default()), ..Flow::default() };
        let pair = Pair { sockets: [client, socket], flows: [to_backend, Flow::default()] };
        let key = self.pairs.insert(pair);
        for (side, socket) in self.pairs[key].sockets.iter().enumerate() {
            epoll::add(&self.epoll, socket, token(key, side), INTEREST)?;
        }
        Ok(())
    }

    /// Does what an event of a socket makes possible.
    fn serve(&mut self, event: u64, flags: EventFlags) -> io::Result<()> {
        let (key, side) = (event as usize / 2, event as usize % 2);
        let Some(pair) = self.pairs.get_mut(key) else { return Ok(()) };
        let [own, other] = [&pair.flows[side], &pair.flows[1 - side]];
        let may_read = flags.contains(EventFlags::IN) && own.leftover.is_none() && !own.has_ended;
        let may_write = flags.contains(EventFlags::OUT) && other.leftover.is_some();
        pair.flows[side].is_last |= flags.contains(EventFlags::RDHUP);
        let mut has_ended = flags.contains(EventFlags::ERR);
        for (from, is_ready) in [(side, may_read), (1 - side, may_write)] {
            if has_ended || !is_ready {
                continue;
            }
            match pair.relay(from, &mut self.buffer) {
                Ok(Turn::Waits) => {}
                // An edge is reported once. This has the kernel report it again, after those of others.
                Ok(Turn::Yields) => {
                    epoll::modify(&self.epoll, &pair.sockets[from], token(key, from), INTEREST)?;
                }
                Ok(Turn::Ends) | Err(_) => has_ended = true,
            }
        }
        if has_ended {
            // Closed sockets leave epoll by themselves.
            self.pairs.remove(key);
        }
        Ok(())
    }
}

impl Pair {
    /// Moves bytes from one side to the other.
    fn relay(&mut self, from: usize, buffer: &mut [u8]) -> Result<Turn, Errno> {
        let (source, sink) = (&self.sockets[from], &self.sockets[1 - from]);
        let other_has_ended = self.flows[1 - from].has_ended;
        let flow = &mut self.flows[from];
        if let Some(bytes) = flow.leftover.take()
            && !bytes.is_empty()
        {
            flow.leftover = offer(sink, &bytes)?;
        }
        for _ in 0..READS_MAX {
            if flow.leftover.is_some() {
                return Ok(Turn::Waits);
            }
            let length = match recv(source, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(Turn::Waits),
                Err(error) => return Err(error),
            };
            if length == 0 {
                flow.has_ended = true;
                if other_has_ended {
                    return Ok(Turn::Ends);
                }
                shutdown(sink, Shutdown::Write)?;
                return Ok(Turn::Waits);
            }
            flow.leftover = offer(sink, &buffer[..length])?;
            // A short read has emptied the socket.
            if length < buffer.len() && !flow.is_last {
                return Ok(Turn::Waits);
            }
        }
        Ok(Turn::Yields)
    }
}

/// Sends, and returns what wasn't taken.
fn offer(sink: &OwnedFd, bytes: &[u8]) -> Result<Option<Box<[u8]>>, Errno> {
    let sent = match send(sink, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN) => 0,
        sent => sent?,
    };
    Ok((sent < bytes.len()).then(|| bytes[sent..].into()))
}

/// A socket with TCP_NODELAY; of a listener, those that it accepts have it too.
fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SOCKET_FLAGS, None)?;
    set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

fn token(key: usize, side: usize) -> EventData {
    EventData::new_u64(2 * key as u64 + side as u64)
}
