//! What ejection leaves alone: idle backends, removed ones, sessions, and errors of our own.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tinylb_core::{EndReason, Settings};
use tinylb_tests::outage::{one_by_one, visit};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::sleep,
};

use crate::{
    harness::{What, World, run, served, share},
    program::harness::DEADLINE,
};

#[test]
fn healthy_backends_get_no_connection_but_those_of_clients() {
    let test = "quiet::healthy_backends_get_no_connection_but_those_of_clients";
    run(
        test,
        3,
        |_| {},
        async |world| {
            served(&one_by_one(world.address, 30).await);
            sleep(Duration::from_secs(3)).await;
            assert_eq!([0, 1, 2].map(|backend| world.syns(backend)), [10; 3]);
        },
    );
}

#[test]
fn a_backend_removed_while_its_probe_hangs_is_let_go_at_once_and_for_good() {
    let test = "quiet::a_backend_removed_while_its_probe_hangs_is_let_go_at_once_and_for_good";
    let no_timeout = |settings: &mut Settings| settings.dial_timeout = Duration::from_secs(3600);
    run(test, 3, no_timeout, async |world| {
        world.hang(1);
        served(&one_by_one(world.address, 6).await);
        world.eventually("a probe", || world.handle.snapshot().probes == 1).await;
        // A client's SYN, and the probe's.
        world.eventually("its SYN", || world.syns(1) >= 2).await;
        // The probe has an hour.
        world.remove(1).await;
        assert_eq!(world.handle.snapshot().probes, 0);
        let syns = world.syns(1);
        // A socket that were still open would repeat its SYN within a second, and once more.
        sleep(Duration::from_secs(4)).await;
        assert_eq!(world.syns(1), syns);
    });
}

/// Leaves sessions with backends one of which then hangs, and has clients come until a number of
/// probes have failed. Returns the sessions of the one that hangs, and the others.
async fn silence(world: &World, probes: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let mut sessions = Vec::new();
    for _ in 0..400 {
        sessions.push(visit(world.address).await.unwrap());
    }
    world.hang(1);
    let began = Instant::now();
    while world.count_of(1, What::Probed(false)) < probes {
        assert!(began.elapsed() < DEADLINE, "the probes never failed");
        served(&one_by_one(world.address, 2).await);
        sleep(Duration::from_millis(50)).await;
    }
    let (silent, others): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|(_, number)| *number == 1);
    let streams = |sessions: Vec<_>| sessions.into_iter().map(|(stream, _)| stream).collect();
    (streams(silent), streams(others))
}

fn quick_probes(settings: &mut Settings) {
    settings.dial_timeout = Duration::from_millis(500);
    settings.probe_interval_max = Duration::from_millis(500);
}

#[test]
fn sessions_of_a_silent_backend_stay() {
    let test = "quiet::sessions_of_a_silent_backend_stay";
    run(test, 2, quick_probes, async |world| {
        let (silent, others) = silence(world, 6).await;
        assert_eq!((silent.len(), others.len()), (200, 200));
        let ends = world.log().iter().filter(|e| matches!(e.what, What::Ended(_))).count();
        let visits = world.count(What::Connected) - 400;
        assert!(ends <= visits, "only clients have ended sessions: {ends} of {visits}");
        assert_eq!(world.count(What::Ended(EndReason::BackendSilent)), 0);
    });
}

#[test]
fn sessions_of_a_silent_backend_are_reset_where_that_is_wanted() {
    let test = "quiet::sessions_of_a_silent_backend_are_reset_where_that_is_wanted";
    let cut_silent = |settings: &mut Settings| {
        quick_probes(settings);
        settings.cut_silent = Some(Duration::from_secs(2));
    };
    run(test, 2, cut_silent, async |world| {
        let (silent, others) = silence(world, 2).await;
        for mut stream in silent {
            served(&one_by_one(world.address, 1).await);
            let end = stream.read(&mut [0]).await;
            let reset = std::io::ErrorKind::ConnectionReset;
            assert!(end.as_ref().is_err_and(|error| error.kind() == reset), "{end:?}");
        }
        assert_eq!(world.count_of(1, What::Ended(EndReason::BackendSilent)), 200);
        assert_eq!(world.count(What::Ended(EndReason::BackendSilent)), 200);
        drop(others);
    });
}

#[test]
fn a_dial_without_a_descriptor_ejects_nobody() {
    let test = "quiet::a_dial_without_a_descriptor_ejects_nobody";
    run(
        test,
        2,
        |_| {},
        async |world| {
            let client = TcpSocket::new_v4().unwrap();
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..limit }).unwrap();
            let mut filler = Vec::new();
            while let Ok(file) = fs::File::open("/dev/null") {
                filler.push(file);
            }
            // One is left, for the connection that the server accepts.
            filler.pop();
            let _client = client.connect(world.address).await.unwrap();
            world.eventually("failures", || world.count(What::Failed) >= 2).await;
            drop(filler);
            check_nobody_ejected(world).await;
        },
    );
}

#[test]
fn a_dial_without_a_port_ejects_nobody() {
    let test = "quiet::a_dial_without_a_port_ejects_nobody";
    run(
        test,
        2,
        |_| {},
        async |world| {
            // One connection to each backend has it.
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
            let visit_from = async |port| {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
                let mut stream = socket.connect(world.address).await.unwrap();
                stream.read_u8().await.map(|number| (stream, number))
            };
            let first = visit_from(40001).await.unwrap();
            let second = visit_from(40002).await.unwrap();
            assert_eq!((first.1, second.1), (0, 1));
            assert!(visit_from(40003).await.is_err());
            assert!(world.count(What::Failed) >= 2);
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999").unwrap();
            check_nobody_ejected(world).await;
        },
    );
}

/// Nobody has been ejected, and the rotation goes on.
async fn check_nobody_ejected(world: &World) {
    assert_eq!(world.ejections(0) + world.ejections(1), 0);
    let served = served(&one_by_one(world.address, 4).await);
    assert_eq!([0, 1].map(|number| share(&served, number)), [2; 2]);
}
