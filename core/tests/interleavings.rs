//! The server on shuttle: its locked state under many interleavings of admit, replace, finish and
//! drop. A failure prints the schedule that replays it.
//!
//!     RUSTFLAGS="--cfg shuttle" cargo test -p tinylb-core --test interleavings
#![cfg(shuttle)]

mod fakes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::{StreamExt, stream};
use shuttle::thread;
use tinylb_core::{
    BackendSet, CopyRelay, Handle, Removal, Report, Server, Settings, SharedBudget, Snapshot,
    Update,
};

use crate::fakes::{DEAD, HANGING, Net, SOON, wait};

/// By the random scheduler, and as many by the one that looks for rare orders of few switches.
const ITERATIONS: usize = 10_000;

/// Explores a scenario, and fails if it never comes to what it is there for.
fn explore(for_the_sake_of: &[&str], scenario: impl Fn() -> Net + Send + Sync + 'static) {
    let met: Arc<Mutex<BTreeMap<&str, usize>>> = Arc::default();
    let scenario = {
        let met = Arc::clone(&met);
        Arc::new(move || {
            let net = scenario();
            let mut met = met.lock().unwrap_or_else(|poison| poison.into_inner());
            net.met().into_iter().for_each(|what| *met.entry(what).or_default() += 1);
        })
    };
    let again = Arc::clone(&scenario);
    shuttle::check_random(move || scenario(), ITERATIONS);
    shuttle::check_pct(move || again(), ITERATIONS, 3);
    let met = met.lock().unwrap_or_else(|poison| poison.into_inner());
    let count = |what: &&str| met.get(what).copied().unwrap_or(0);
    let rare: Vec<_> = for_the_sake_of.iter().filter(|what| count(what) < 100).collect();
    assert!(rare.is_empty(), "hardly ever: {rare:?}, of {met:?}");
}

fn set(backends: &[(&str, u8)]) -> BackendSet<u8> {
    BackendSet::new(backends.iter().copied()).expect("the keys are valid")
}

/// A server that listens, and what it runs on.
fn serve(removal: Removal) -> (Server<Net>, Net) {
    let mut settings = Settings::default();
    settings.removal = removal;
    serve_with(settings)
}

fn serve_with(settings: Settings) -> (Server<Net>, Net) {
    let net = Net::default();
    let observer = {
        let net = net.clone();
        move |number, event: &_| net.observe(number, event)
    };
    let server = Server::with_observer(net.clone(), net.clone(), settings, observer)
        .expect("the settings are valid");
    drop(server.listen(net.clone(), CopyRelay::new(16), net.clone()));
    (server, net)
}

fn check_law(net: &Net, snapshot: &Snapshot<u8>) {
    let Snapshot { accepted, live, ended, .. } = snapshot;
    if *accepted != *live as u64 + ended.sum() {
        net.broken(format!("accepted {accepted}, live {live}, ended {ended:?}"));
    }
    let loads: usize = snapshot.loads.iter().map(|load| load.dialling + load.connected).sum();
    if loads + snapshot.waiting > *live {
        net.broken(format!("{loads} in the pool, {} wait, {live} live", snapshot.waiting));
    }
}

/// Shuts down, waits for every task, and checks what must hold then.
fn end(server: &Server<Net>, net: &Net) {
    let handle = server.handle();
    wait(handle.shutdown(std::time::Duration::ZERO));
    let snapshot = handle.snapshot();
    check_law(net, &snapshot);
    assert_eq!(snapshot.live, 0, "shut down, and sessions live");
    net.join();
    assert_eq!(snapshot.accepted, net.sessions() as u64);
    net.assert_kept();
}

/// Replacements of several threads, and what each may leave open.
#[derive(Clone)]
struct Replacer {
    handle: Handle<u8>,
    net: Net,
    begun: Arc<Mutex<Vec<Begun>>>,
}

/// A replacement's number, once that is known, and its targets.
type Begun = (Option<u64>, Vec<u8>);

impl Replacer {
    fn new(server: &Server<Net>, net: &Net) -> Self {
        Self { handle: server.handle(), net: net.clone(), begun: Arc::default() }
    }

    /// Replaces, waits, and checks that no target is in use that neither this set has nor any
    /// that may be newer.
    fn replace(&self, set: BackendSet<u8>) -> Arc<Report> {
        let begun = || self.begun.lock().unwrap_or_else(|poison| poison.into_inner());
        let place = begun().len();
        begun().push((None, set.targets().to_vec()));
        let replacement = self.handle.replace(set).expect("the set is valid");
        let number = replacement.report().generation.number();
        begun()[place].0 = Some(number);
        let report = wait(replacement);
        let in_use = self.net.in_use();
        let may_be_newer = |known: &Option<u64>| known.is_none_or(|known| known >= number);
        let begun = begun();
        let mut allowed = begun.iter().filter(|(known, _)| may_be_newer(known));
        let is_allowed = |target: &u8| allowed.clone().any(|(_, set)| set.contains(target));
        for target in in_use.iter().filter(|target| !is_allowed(target)) {
            self.net.broken(format!("replacement {number} is applied, and {target} is in use"));
        }
        assert!(allowed.next().is_some());
        report
    }
}

fn after_a_removal_nothing_reaches_the_target(removal: Removal) -> Net {
    let (server, net) = serve(removal);
    let handle = server.handle();
    drop(handle.replace(set(&[("a", 1), ("b", 2), ("c", DEAD), ("e", HANGING)])));
    // Some are connected when the target goes, and some may be dialling.
    let clients: Vec<_> = (0..5).map(|_| net.connect()).collect();
    net.await_connected(2);

    let remover = {
        let (handle, net) = (handle.clone(), net.clone());
        thread::spawn(move || {
            let replacement = handle.replace(set(&[("b", 2), ("d", 4)])).expect("a valid set");
            let reported = replacement.report().clone();
            let report = wait(replacement);
            match removal {
                Removal::Abort => net.forbid(1),
                Removal::Drain(_) => net.forbid_dials(1),
            }
            net.forbid(DEAD);
            net.forbid(HANGING);
            assert_eq!(*report, reported);
            assert_eq!(report.removed, ["a".into(), "c".into(), "e".into()]);
        })
    };
    let client = {
        let (net, first) = (net.clone(), clients[0].clone());
        thread::spawn(move || {
            first.send();
            net.connect().send();
            first.hang_up();
        })
    };
    for _ in 0..3 {
        check_law(&net, &handle.snapshot());
        thread::yield_now();
    }
    remover.join().expect("the remover ends");
    client.join().expect("the client ends");
    clients.iter().for_each(fakes::Client::send);
    end(&server, &net);
    net
}

#[test]
fn a_removal_that_is_applied_leaves_no_connection_behind() {
    let sake = ["cut", "revoked", "backend_removed", "finished"];
    explore(&sake, || after_a_removal_nothing_reaches_the_target(Removal::Abort));
}

#[test]
fn a_removal_that_drains_lets_no_dial_through() {
    let sake = ["draining", "revoked", "drain_expired", "finished"];
    explore(&sake, || after_a_removal_nothing_reaches_the_target(Removal::Drain(SOON)));
}

#[test]
fn a_removal_that_is_applied_leaves_no_probe_behind() {
    explore(&["ejected", "a probe in flight", "finished"], || {
        let mut settings = Settings::default();
        settings.dial_patience = Some(SOON);
        let (server, net) = serve_with(settings);
        let handle = server.handle();
        drop(handle.replace(set(&[("a", DEAD), ("b", HANGING), ("c", 2)])));
        let clients = [net.connect(), net.connect()];
        let hang_up = {
            let client = clients[0].clone();
            thread::spawn(move || client.hang_up())
        };
        net.await_connected(1);
        if handle.snapshot().probes > 0 {
            net.meet("a probe in flight");
        }
        drop(wait(handle.replace(set(&[("c", 2)])).expect("the set is valid")));
        // A dial that failed before may still be news to the observer.
        net.forbid_dials(DEAD);
        net.forbid_dials(HANGING);
        if net.open().contains(&HANGING) {
            net.broken("applied, and a dial or a probe of what was removed is left".into());
        }
        net.await_connected(2);
        hang_up.join().expect("the client ends");
        end(&server, &net);
        net
    });
}

#[test]
fn the_last_session_to_let_go_wakes_the_replacement() {
    explore(&["cut"], || {
        let (server, net) = serve(Removal::Abort);
        let handle = server.handle();
        drop(handle.replace(set(&[("a", 1)])));
        net.connect();
        net.await_connected(1);
        drop(wait(handle.replace(set(&[])).expect("the set is valid")));
        net.forbid(1);
        end(&server, &net);
        net
    });
}

#[test]
fn concurrent_replacements_take_effect_in_one_order_and_each_is_applied() {
    explore(&["cut", "revoked", "no_backends", "backend_removed"], || {
        let (server, net) = serve(Removal::Abort);
        let replacer = Replacer::new(&server, &net);
        replacer.replace(set(&[("a", 1), ("b", 2)]));
        (0..3).for_each(|_| drop(net.connect()));
        net.await_connected(1);
        let sets = [set(&[("b", 2), ("c", 3)]), set(&[("a", 1)]), set(&[])];
        let threads: Vec<_> = sets
            .clone()
            .into_iter()
            .map(|set| {
                let replacer = replacer.clone();
                thread::spawn(move || replacer.replace(set))
            })
            .collect();
        net.connect();
        let reports = threads.into_iter().map(|thread| thread.join().expect("it is applied"));
        let mut done: Vec<_> = reports.zip(&sets).collect();
        done.sort_by_key(|(report, _)| report.generation);

        // Each report states the difference from the set before, in the order of the numbers.
        let mut before = set(&[("a", 1), ("b", 2)]);
        for (place, (report, next)) in done.iter().enumerate() {
            let came = next.iter().filter(|(key, _)| before.get(key.as_str()).is_none());
            let left = before.iter().filter(|(key, _)| next.get(key.as_str()).is_none());
            assert_eq!(report.generation.number(), place as u64 + 2);
            assert!(report.added.iter().eq(came.map(|(key, _)| key)), "{report:?}");
            assert!(report.removed.iter().eq(left.map(|(key, _)| key)), "{report:?}");
            before = (*next).clone();
        }
        assert_eq!(server.handle().snapshot().set, Some(before.clone()), "the last one wins");
        for target in [1, 2, 3].into_iter().filter(|target| !before.targets().contains(target)) {
            net.forbid(target);
        }
        net.connect().send();
        thread::yield_now();
        end(&server, &net);
        net
    });
}

#[test]
fn a_source_that_is_stopped_brings_no_removed_backend_back() {
    explore(&["taken", "too late"], || {
        let (server, net) = serve(Removal::Abort);
        let handle = server.handle();
        let replacer = Replacer::new(&server, &net);
        let updates = [Update::Set(set(&[("a", 1), ("b", 2)]))];
        let following = handle.follow(stream::iter(updates).chain(stream::pending()));
        net.connect();
        following.stop();
        let was_taken = handle.snapshot().set.is_some();
        net.meet(if was_taken { "taken" } else { "too late" });
        replacer.replace(set(&[("a", 1)]));
        net.forbid(2);
        // The next one is lost from the start.
        let lost = stream::iter([Update::Lost("no answer".into())]);
        let next = handle.follow(lost.chain(stream::pending()));
        net.connect().send();
        while handle.snapshot().source_lost.is_none() {
            thread::yield_now();
        }
        (0..10).for_each(|_| thread::yield_now());
        assert_eq!(handle.snapshot().set, Some(set(&[("a", 1)])));
        assert!(handle.snapshot().source_lost.is_some(), "the one before has wiped it out");
        next.stop();
        end(&server, &net);
        net
    });
}

#[test]
fn clients_that_wait_for_the_first_set_are_served_or_refused() {
    explore(&["revoked", "finished", "shutdown"], || {
        let (server, net) = serve(Removal::Abort);
        let replacer = Replacer::new(&server, &net);
        let clients = [net.connect(), net.connect()];
        clients.iter().for_each(fakes::Client::hang_up);
        let other = {
            let replacer = replacer.clone();
            thread::spawn(move || replacer.replace(set(&[("b", 2)])))
        };
        replacer.replace(set(&[("a", 1), ("b", 2)]));
        net.connect();
        other.join().expect("it is applied");
        net.await_connected(3);
        check_law(&net, &server.handle().snapshot());
        end(&server, &net);
        net
    });
}

#[test]
fn the_limit_holds_for_listeners_that_accept_at_once() {
    explore(&["finished", "shutdown"], || {
        let mut settings = Settings::default();
        settings.max_connections = 1;
        let (server, net) = serve_with(settings);
        drop(server.listen(net.clone(), CopyRelay::new(16), net.clone()));
        drop(server.handle().replace(set(&[("a", 1)])));
        let clients = [net.connect(), net.connect(), net.connect()];
        clients[..2].iter().for_each(fakes::Client::hang_up);
        // Whoever is served first, the other two are served after it, or wait for it.
        let last = {
            let client = clients[2].clone();
            thread::spawn(move || client.hang_up())
        };
        net.await_connected(2);
        last.join().expect("the client ends");
        end(&server, &net);
        assert_eq!(net.live_most(), 1);
        net
    });
}

#[test]
fn a_budget_holds_for_the_servers_that_share_it_and_each_client_is_served() {
    explore(&["finished"], || {
        let budget = SharedBudget::new(2);
        let [(one, net), (other, far)] = [0, 1].map(|minimum| {
            let (server, net) = serve(Removal::Abort);
            server.handle().share(&budget, minimum);
            drop(server.handle().replace(set(&[("a", 1)])));
            (server, net)
        });
        let leave = |clients: [fakes::Client; 2]| {
            thread::spawn(move || clients.iter().for_each(fakes::Client::hang_up))
        };
        let threads = [&net, &far].map(|net| leave([net.connect(), net.connect()]));
        assert!(budget.in_use() <= 2);
        net.await_connected(2);
        assert!(budget.in_use() <= 2);
        far.await_connected(2);
        threads.into_iter().for_each(|thread| thread.join().expect("the clients end"));
        end(&one, &net);
        end(&other, &far);
        assert_eq!((net.live_most(), budget.in_use()), (1, 0), "one room is the other's");
        net
    });
}

#[test]
fn a_shutdown_ends_while_clients_come_and_sets_change() {
    explore(&["draining", "finished", "shutdown"], || {
        let (server, net) = serve(Removal::Drain(SOON));
        let replacer = Replacer::new(&server, &net);
        drop(server.handle().replace(set(&[("a", 1), ("b", 2)])));
        let client = net.connect();
        client.send();
        net.connect();
        net.await_connected(1);
        let clients = {
            let net = net.clone();
            thread::spawn(move || {
                client.hang_up();
                net.connect().hang_up();
            })
        };
        let other = {
            let handle = server.handle();
            thread::spawn(move || drop(handle.replace(set(&[("b", 2)]))))
        };
        wait(replacer.handle.shutdown(SOON));
        check_law(&net, &replacer.handle.snapshot());
        assert_eq!(net.open(), [], "shut down, and connections are open");
        clients.join().expect("the clients end");
        other.join().expect("it is replaced");
        end(&server, &net);
        net
    });
}

/// The server goes while a target is removed; `replace` is how, and what is checked then.
fn drop_amid_a_removal(replace: fn(Replacer, BackendSet<u8>)) -> Net {
    let (server, net) = serve(Removal::Abort);
    let replacer = Replacer::new(&server, &net);
    drop(server.handle().replace(set(&[("a", 1), ("b", 2)])));
    let clients = [net.connect(), net.connect(), net.connect()];
    net.await_connected(2);
    let other = thread::spawn(move || replace(replacer, set(&[("b", 2)])));
    let hang_up = {
        let client = clients[0].clone();
        thread::spawn(move || client.hang_up())
    };
    let handle = server.handle();
    drop(server);
    other.join().expect("it is applied");
    hang_up.join().expect("the client ends");
    net.join();
    check_law(&net, &handle.snapshot());
    assert_eq!(handle.snapshot().live, 0, "dropped, and sessions live");
    net.assert_kept();
    net
}

#[test]
fn a_dropped_server_leaves_nothing_open_and_hangs_no_replacement() {
    explore(&["cut", "shutdown", "finished"], || {
        drop_amid_a_removal(|replacer, set| {
            drop(wait(replacer.handle.replace(set).expect("the set is valid")));
        })
    });
}

#[test]
fn a_removal_that_is_applied_to_a_dropped_server_leaves_no_connection_behind() {
    explore(&["cut", "shutdown", "finished"], || {
        drop_amid_a_removal(|replacer, set| drop(replacer.replace(set)))
    });
}
