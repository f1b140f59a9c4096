//! Peers that are dead, and peers that are only slow.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
};
use socket2::SockRef;

use crate::harness::{
    BACKENDS, BALANCER, Backend, Client, ConfigFile, DEADLINE, End, Host, Network, Socket, Tinylb,
    service, until,
};

/// The `peer_timeout` of the program where peers die.
const LIMIT: Duration = Duration::from_secs(8);

/// How a connection stands when its peer dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Idle,
    /// Something is sent to the peer afterwards.
    Unanswered,
    /// The peer has stopped reading for a while, and more data waits.
    ShutWindow,
    /// The peer has ended its stream, and something is sent to it afterwards.
    HalfClosed,
}

/// A session through the program, from both outer ends.
struct Session {
    client: TcpStream,
    backend: TcpStream,
}

/// The program on its host, in front of a backend that the test itself is.
struct Setting {
    network: Network,
    tinylb: Tinylb,
    backend: TcpListener,
    _file: ConfigFile,
}

impl Setting {
    fn start(splice: &str) -> Option<Self> {
        let network = Network::start()?;
        let listen = || TcpListener::bind((BACKENDS, 0)).unwrap();
        let backend = network.backends.run(listen);
        let file = ConfigFile::new(&format!(
            "[services.web]\nlisten = \"{BALANCER}:0\"\nbackends = {{ a = \"{}\" }}\n\
             peer_timeout = \"{}s\"\n",
            backend.local_addr().unwrap(),
            LIMIT.as_secs()
        ));
        let mut command = file.command();
        command.args(["--splice", splice]);
        let tinylb = Tinylb::start(network.balancer.command(&command));
        tinylb.address();
        Some(Self { network, tinylb, backend, _file: file })
    }

    fn connect(&self) -> Session {
        let address = self.tinylb.address();
        let client = self.network.clients.run(|| TcpStream::connect(address).unwrap());
        let (backend, _) = self.backend.accept().unwrap();
        for socket in [&client, &backend] {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.set_write_timeout(Some(DEADLINE)).unwrap();
        }
        let mut session = Session { client, backend };
        session.ping();
        session
    }
}

impl Session {
    fn ping(&mut self) {
        let Self { client, backend } = &*self;
        for (mut from, mut to) in [(client, backend), (backend, client)] {
            from.write_all(b"!").unwrap();
            to.read_exact(&mut [0]).unwrap();
        }
    }
}

/// Writes until nothing has been taken for a while.
fn fill(socket: &mut TcpStream) {
    socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let chunk = vec![0; 64 << 10];
    while socket.write(&chunk).is_ok() {}
}

/// Waits until a connection has failed; says why, and when.
fn failure(socket: &TcpStream) -> (Option<i32>, Instant) {
    let timeout = Timespec::try_from(DEADLINE).unwrap();
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, Some(&timeout)).unwrap();
    let seen = Instant::now();
    let error = SockRef::from(socket).take_error().unwrap();
    (error.as_ref().and_then(io::Error::raw_os_error), seen)
}

/// Pulls the cable of one host, with connections in each state, and checks how their other ends
/// fail.
fn dies(
    splice: &str,
    dead_host: fn(&Network) -> &Host,
    ends: fn(&mut Session) -> (&mut TcpStream, &mut TcpStream),
) {
    let Some(setting) = Setting::start(splice) else { return };
    let states = [State::ShutWindow, State::HalfClosed, State::Idle, State::Unanswered];
    let mut sessions: Vec<_> = states.iter().map(|state| (*state, setting.connect())).collect();
    for (state, session) in &mut sessions {
        let (dead, live) = ends(session);
        match state {
            State::ShutWindow => fill(live),
            State::HalfClosed => {
                dead.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(live.read(&mut [0]).unwrap(), 0);
            }
            State::Idle | State::Unanswered => {}
        }
    }
    for (state, session) in &mut sessions {
        if let State::Idle | State::Unanswered = state {
            session.ping();
        }
    }
    let died = Instant::now();
    dead_host(&setting.network).set_link("down");
    for (state, session) in &mut sessions {
        if let State::Unanswered | State::HalfClosed = state {
            ends(session).1.write_all(b"?").unwrap();
        }
    }
    let failures: Vec<_> = thread::scope(|scope| {
        let watch = |(state, session): &mut (State, Session)| {
            let (state, live) = (*state, ends(session).1.as_fd().try_clone_to_owned().unwrap());
            (state, scope.spawn(move || failure(&live.into())))
        };
        let watched: Vec<_> = sessions.iter_mut().map(watch).collect();
        watched.into_iter().map(|(state, failure)| (state, failure.join().unwrap())).collect()
    });
    for (state, (error, failed)) in failures {
        let after = failed.duration_since(died);
        // A stream that had ended before it was reset (Linux: `tcp_reset`).
        let reset = if state == State::HalfClosed { Errno::PIPE } else { Errno::CONNRESET };
        assert_eq!(error, Some(reset.raw_os_error()), "{state:?} after {after:?}");
        assert!(after > LIMIT / 2 && after < LIMIT * 2, "{state:?} failed after {after:?}");
    }
}

fn client_and_backend(session: &mut Session) -> (&mut TcpStream, &mut TcpStream) {
    (&mut session.client, &mut session.backend)
}

fn backend_and_client(session: &mut Session) -> (&mut TcpStream, &mut TcpStream) {
    (&mut session.backend, &mut session.client)
}

#[test]
fn a_client_whose_machine_dies_is_found_in_time_however_its_connection_stands() {
    dies("never", |network| &network.clients, client_and_backend);
}

#[test]
fn a_backend_whose_machine_dies_is_found_in_time_however_its_connection_stands() {
    dies("never", |network| &network.backends, backend_and_client);
}

#[test]
fn a_client_whose_machine_dies_is_found_in_time_while_bytes_go_through_the_kernel() {
    dies("always", |network| &network.clients, client_and_backend);
}

#[test]
fn a_backend_whose_machine_dies_is_found_in_time_while_bytes_go_through_the_kernel() {
    dies("always", |network| &network.backends, backend_and_client);
}

#[test]
fn connections_survive_an_outage_that_is_shorter_than_the_limit() {
    let Some(setting) = Setting::start("hot") else { return };
    let mut sessions: Vec<_> = (0..2).map(|_| setting.connect()).collect();
    for host in [&setting.network.clients, &setting.network.backends] {
        host.set_link("down");
    }
    // One has something on its way in either direction, and one is idle.
    let Session { client, backend } = &mut sessions[0];
    client.write_all(b"!").unwrap();
    backend.write_all(b"!").unwrap();
    thread::sleep(LIMIT / 3);
    for host in [&setting.network.clients, &setting.network.backends] {
        host.set_link("up");
    }
    client.read_exact(&mut [0]).unwrap();
    backend.read_exact(&mut [0]).unwrap();
    // And what was seen of it meanwhile ends none of them later.
    let until = Instant::now() + LIMIT * 2;
    while Instant::now() < until {
        sessions.iter_mut().for_each(Session::ping);
        thread::sleep(LIMIT / 4);
    }
    drop(sessions);
    setting.tinylb.stop();
}

/// More than all buffers on the way can hold.
const LONG: usize = 32 << 20;

#[test]
fn a_reader_that_pauses_for_many_times_the_limit_gets_all_of_it_in_either_direction() {
    let pause = Duration::from_secs(25);
    // Both ends write all they have, and read only then.
    let both = move |socket: &mut Socket| {
        let mut writer = socket.another();
        let writing = thread::spawn(move || {
            writer.limit_time(2 * DEADLINE);
            let written = writer.write_all(&vec![7; LONG]);
            writer.shutdown_write();
            written
        });
        thread::sleep(pause);
        let mut read = Vec::new();
        socket.read_to_end(&mut read)?;
        assert_eq!(read.len(), LONG);
        writing.join().unwrap()
    };
    let backend = Backend::with("a", both);
    let file = ConfigFile::new(&service("web", "127.0.0.1:0", [&backend], "peer_timeout = \"5s\""));
    let tinylb = file.run();
    let mut client = Client::connect(&tinylb.address());
    both(&mut client.socket).unwrap();
    until("the backend's end", || backend.ends() == [End::Clean]);
    tinylb.stop();
}

#[test]
fn no_connection_is_cut_for_the_time_that_the_program_was_stopped() {
    let backend = Backend::echo("a");
    let file = ConfigFile::new(&service("web", "127.0.0.1:0", [&backend], "peer_timeout = \"5s\""));
    let tinylb = file.run();
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&tinylb.address())).collect();
    // Long enough for them to be looked after.
    thread::sleep(Duration::from_secs(4));
    tinylb.signal(Signal::STOP);
    for client in &mut clients[..2] {
        client.socket.write_all(&[7; 4096]).unwrap();
    }
    thread::sleep(Duration::from_secs(12));
    tinylb.signal(Signal::CONT);
    for client in &mut clients[..2] {
        client.socket.read_exact(&mut [0; 4096]).unwrap();
    }
    thread::sleep(Duration::from_secs(6));
    for client in &mut clients {
        client.socket.write_all(b"?").unwrap();
        client.socket.read_exact(&mut [0]).unwrap();
    }
    drop(clients);
    tinylb.stop();
}

#[test]
fn a_crowd_of_idle_connections_whose_probes_could_meet_loses_none() {
    // On two processors, a queue of the system drops what exceeds 2,000 packets at a time
    // (net.core.netdev_max_backlog); three probes of 8,000 connections would leave 2,000 unanswered.
    const SESSIONS: usize = 4_000;
    let descriptors = getrlimit(Resource::Nofile).maximum;
    if descriptors.is_some_and(|count| count < 3 * SESSIONS as u64) {
        let _ = writeln!(io::stderr(), "SKIPPED: the limit of descriptors is below 12,000");
        return;
    }
    let limit = Rlimit { current: descriptors, maximum: descriptors };
    setrlimit(Resource::Nofile, limit).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    let file = ConfigFile::new(&format!(
        "[services.web]\nlisten = \"127.0.0.1:0\"\nbackends = {{ a = \"{backend}\" }}\n\
         peer_timeout = \"36s\"\n",
    ));
    let tinylb = file.run();
    let address = tinylb.address();
    let mut sessions: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let client = TcpStream::connect(&address).unwrap();
            Session { client, backend: listener.accept().unwrap().0 }
        })
        .collect();
    // So all are heard last at nearly the same moment.
    sessions.iter_mut().for_each(Session::ping);
    thread::sleep(Duration::from_secs(42));
    for session in &mut sessions {
        session.ping();
    }
    drop(sessions);
    tinylb.stop();
}
