//! More clients than descriptors.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{
    Backend, Client, Cluster, ConfigFile, End, Hung, Line, Load, Socket, Tinylb, binary, get,
    service, until,
};

const CLIENTS: usize = 200;

/// `tinylb run` with 64 descriptors, soft and hard.
fn with_few_descriptors(file: &ConfigFile, more: &[&str]) -> Tinylb {
    with_descriptors(64, file, more)
}

fn with_descriptors(count: usize, file: &ConfigFile, more: &[&str]) -> Tinylb {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
    command.args(["-c", &limited]).arg(binary());
    command.args(["run", "--config"]).arg(file.path()).args(more);
    Tinylb::start(command)
}

/// `tinylb run` with fewer descriptors than it knows of: the limit is lowered while it runs.
fn run_short_of_descriptors(file: &ConfigFile, more: &[&str]) -> Tinylb {
    let tinylb = file.run_with(more);
    tinylb.address();
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    let id = Pid::from_raw(tinylb.id() as i32);
    prlimit(id, Resource::Nofile, few).unwrap();
    tinylb
}

/// Clients each of which tries until it is served, holds on for a while, and begins anew.
struct Crowd {
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn start(address: &str) -> Self {
        let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..CLIENTS)
            .map(|_| {
                let (over, served, address) =
                    (Arc::clone(&is_over), Arc::clone(&served), address.to_string());
                thread::spawn(move || {
                    while !over.load(SeqCst) {
                        let Ok(mut client) = Client::try_connect(&address) else {
                            thread::sleep(Duration::from_millis(20));
                            continue;
                        };
                        served.fetch_add(1, SeqCst);
                        while !over.load(SeqCst) && client.echo(1).is_ok() {
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                })
            })
            .collect();
        Self { is_over, served, threads }
    }

    fn finish(self) {
        self.is_over.store(true, SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// A line's time in seconds of the day: `2026-01-01T01:02:03.456789Z`.
fn time(line: &Line) -> f64 {
    let time = line.field("timestamp").split('T').nth(1).unwrap().trim_end_matches('Z');
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

/// At most a line a second, by the lines' own times.
fn check_pace(lines: &[Line]) {
    let day = 24.0 * 3600.0;
    let span = (time(&lines[lines.len() - 1]) - time(&lines[0])).rem_euclid(day);
    // The last time a line was held up, and the first one wasn't.
    assert!(lines.len() as f64 - 1.0 <= span + 0.5, "{} lines in {span} s: {lines:?}", lines.len());
}

/// Runs out of descriptors, and looks at the log and at what comes after.
fn run_out(more: &[&str], meanwhile: impl FnOnce(&Tinylb)) -> Vec<Line> {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "max_connections = 1000000"));
    let mut tinylb = run_short_of_descriptors(&file, more);
    let address = tinylb.address();
    let crowd = Crowd::start(&address);
    meanwhile(&tinylb);
    // Long enough to tell one a second from more.
    let lines = tinylb.lines(5, "Too many open files");
    assert!(tinylb.is_running());
    assert!(crowd.served.load(SeqCst) > 0);
    crowd.finish();

    // It recovers by itself.
    until("a client to be served", || {
        Client::try_connect(&address).is_ok_and(|mut client| client.is_served())
    });
    let mut clients = Client::several(&address, 10);
    assert!(clients.iter_mut().all(Client::is_served));
    drop(clients);
    tinylb.stop();
    lines
}

#[test]
fn running_out_of_descriptors_is_survived_and_logged_once_a_second() {
    let lines = run_out(&[], |_| {});
    for about in ["accept failed", "dial failed"] {
        let lines: Vec<_> = lines.iter().filter(|line| line.says(about)).cloned().collect();
        if !lines.is_empty() {
            check_pace(&lines);
        }
    }
    assert!(lines.iter().any(|line| line.says("accept failed")), "{lines:?}");
}

#[test]
fn running_out_of_descriptors_makes_no_more_than_a_line_a_second_altogether() {
    check_pace(&run_out(&[], |_| {}));
}

#[test]
fn an_admin_address_without_descriptors_logs_that_no_more_than_once_a_second() {
    let lines = run_out(&["--admin", "127.0.0.1:0"], |tinylb| {
        // Somebody wants to know what is the matter, and waits.
        let admin = tinylb.admin();
        thread::spawn(move || {
            for _ in 0..20 {
                let waiting: Vec<_> = (0..20).map(|_| Socket::connect(&admin)).collect();
                thread::sleep(Duration::from_millis(200));
                drop(waiting);
            }
        });
        tinylb.lines(5, "accept failed");
    });
    let admin: Vec<_> = lines.into_iter().filter(|line| line.says("admin accept failed")).collect();
    if !admin.is_empty() {
        check_pace(&admin);
    }
}

#[test]
fn a_change_of_the_file_that_came_without_descriptors_is_taken_when_there_are_some() {
    let (hung, b) = (Hung::tcp(), Backend::echo("b"));
    let text = |backend: &str| {
        format!(
            "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ x = {backend:?} }}\n\
             max_connections = 1000000\ndial_timeout = \"1h\"\ndial_time_max = \"1h\"\n"
        )
    };
    let file = ConfigFile::new(&text(&hung.address));
    let tinylb = run_short_of_descriptors(&file, &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    // Each session holds two descriptors, and keeps them; the odd one goes to an admin client.
    let clients: Vec<_> = (0..CLIENTS).flat_map(|_| Socket::connect(&address)).collect();
    tinylb.line("Too many open files");
    let odd = Socket::connect(&admin).unwrap();
    file.edit(&text(&b.address));
    tinylb.line("configuration rejected");

    // Clients that have gone need no dial.
    clients.into_iter().for_each(Socket::reset);
    drop(odd);
    until("the change", || Client::try_connect(&address).is_ok_and(|client| client.backend == "b"));
    tinylb.stop();
}

#[test]
fn by_default_there_are_never_more_connections_than_descriptors() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = with_few_descriptors(&file, &["--admin", "127.0.0.1:0"]);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let metrics = get(&admin, "/metrics").body;
    let max = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tinylb_connections_max{service=\"s\"} "))
        .unwrap();
    let max: usize = max.parse().unwrap();
    assert!((8..32).contains(&max), "{max}");

    let sockets: Vec<_> = (0..CLIENTS).map(|_| Socket::connect(&address).unwrap()).collect();
    // This many are served; the rest wait in the kernel, and the admin address goes on.
    until("the limit", || get(&admin, "/services").json()["s"]["live"] == max);
    until("the backend's share", || a.accepted() == max);
    // A setting that nobody gave isn't to blame.
    let line = tinylb.line("new clients wait");
    assert!(line.says("no descriptors are left"), "{line:?}");
    // Each that ends makes room for another, until all have been served, none was refused or cut.
    let ends = Client::each(sockets, |mut client| {
        assert!(client.is_served());
        assert!(get(&admin, "/services").json()["s"]["live"].as_u64().unwrap() as usize <= max);
        client.finish()
    });
    assert_eq!(ends, [End::Clean; CLIENTS]);
    assert_eq!(a.accepted(), CLIENTS);
    let log = tinylb.log();
    assert!(!log.iter().any(|line| line.says("failed")), "{log:?}");
    tinylb.stop();
}

#[test]
fn services_share_the_descriptors_there_are() {
    let a = Backend::echo("a");
    let text = ["s", "t", "u"].map(|name| service(name, "127.0.0.1:0", [&a], "")).concat();
    let file = ConfigFile::new(&text);
    let tinylb = with_few_descriptors(&file, &[]);
    let addresses = tinylb.addresses(3);
    let mut sockets = Vec::new();
    for _ in 0..30 {
        sockets.extend(addresses.iter().map(|address| Socket::connect(address).unwrap()));
    }
    assert_eq!(Client::each(sockets, Client::finish), [End::Clean; 90]);
    let log = tinylb.log();
    assert!(!log.iter().any(|line| line.says("failed")), "{log:?}");
    tinylb.stop();
}

#[test]
fn the_soft_limit_is_raised_to_what_is_allowed() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 64; exec \"$0\" \"$@\""]).arg(binary());
    command.args(["run", "--config"]).arg(file.path());
    let tinylb = Tinylb::start(command);
    let mut clients = Client::several(&tinylb.address(), 100);
    assert!(clients.iter_mut().all(Client::is_served));
}

#[test]
fn at_max_connections_clients_wait_for_room() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "max_connections = 3"));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let mut clients = Client::several(&tinylb.address(), 3);
    let waiting = Socket::connect(&tinylb.address()).unwrap();
    // It is not accepted, however long the others talk.
    for client in &mut clients {
        assert!(client.is_served());
        assert_eq!(get(&tinylb.admin(), "/services").json()["s"]["accepted"], 3);
    }
    assert_eq!(clients.remove(0).finish(), End::Clean);
    assert!(Client::greeted(waiting).unwrap().is_served());
    assert!(clients.iter_mut().all(Client::is_served));
}

/// The value of a metric.
fn metric(admin: &str, name: &str) -> usize {
    let metrics = get(admin, "/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

#[test]
fn a_busy_service_gets_the_connections_that_nine_others_do_not_need() {
    let a = Backend::echo("a");
    let names: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    let text: String = names.iter().map(|name| service(name, "127.0.0.1:0", [&a], "")).collect();
    let file = ConfigFile::new(&format!("workers = 2\n{text}"));
    let tinylb = with_descriptors(1024, &file, &["--admin", "127.0.0.1:0"]);
    let (addresses, admin) = (tinylb.addresses(10), tinylb.admin());
    let max = metric(&admin, "tinylb_descriptor_connections_max");
    assert!((400..512).contains(&max), "{max}");

    // More than there is room for. Those that find none wait in the kernel.
    let crowd: Vec<_> = (0..max + 10).map(|_| Socket::connect(&addresses[0]).unwrap()).collect();
    let nearly_all = max * 9 / 10;
    until("nearly all", || metric(&admin, "tinylb_descriptor_connections_live") >= nearly_all);
    until("the limit", || metric(&admin, "tinylb_connections_limit_reached{service=\"s0\"}") == 1);
    assert_eq!(metric(&admin, "tinylb_connections_limit_reached{service=\"s1\"}"), 0);
    let line = tinylb.line("no descriptors are left");
    assert_eq!((line.field("level"), line.field("service")), ("WARN", "s0"));
    assert!(line.says("ulimit -n") && line.says("LimitNOFILE"), "{line:?}");

    // Each of the others serves its clients all the same.
    for address in &addresses[1..] {
        assert_eq!(Client::connect(address).finish(), End::Clean);
    }
    // The limit is reported once, as long as it lasts.
    assert_eq!(tinylb.log().iter().filter(|line| line.says("no descriptors are left")).count(), 1);
    let ends = Client::each(crowd, |mut client| {
        assert!(client.is_served());
        client.finish()
    });
    assert!(ends.iter().all(|end| *end == End::Clean));
    tinylb.line("no longer have to wait");
    assert_eq!(metric(&admin, "tinylb_connections_limit_reached{service=\"s0\"}"), 0);
    let log = tinylb.log();
    assert!(!log.iter().any(|line| line.says("failed")), "{log:?}");
    tinylb.stop();
}

#[test]
fn a_start_with_few_descriptors_and_several_services_leaves_one_for_the_admin_address() {
    let a = Backend::echo("a");
    let text = ["s", "t", "u"].map(|name| service(name, "127.0.0.1:0", [&a], "")).concat();
    let file = ConfigFile::new(&text);
    let tinylb = with_descriptors(32, &file, &["--admin", "127.0.0.1:0"]);
    let mut client = Client::connect(&tinylb.addresses(3)[0]);
    assert!(client.is_served());
    assert_eq!(get(&tinylb.admin(), "/healthz").status, 200);
    assert!(client.is_served());
    tinylb.stop_and_finish([client]);
}

#[test]
fn a_start_with_few_descriptors_says_how_many_connections_there_is_room_for() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&format!("workers = 1\n{}", service("s", "127.0.0.1:0", [&a], "")));
    let tinylb = with_descriptors(32, &file, &[]);
    assert_eq!(Client::connect(&tinylb.address()).finish(), End::Clean);
    let line = tinylb.line("the descriptor limit leaves room");
    assert_eq!((line.field("level"), &line.json["descriptors"]), ("WARN", &32.into()));
    assert!(line.says("connections at a time (1)") && line.says("ulimit -n"), "{line:?}");
    // With enough, there is nothing to say.
    let tinylb = file.run();
    assert_eq!(Client::connect(&tinylb.address()).finish(), End::Clean);
    assert!(!tinylb.log().iter().any(|line| line.says("descriptors")), "{:?}", tinylb.log());
}

#[test]
fn checks_have_descriptors_of_their_own_and_keep_no_more_connections_than_that() {
    let cluster = Cluster::new(&[Some(200), Some(200), Some(200)]);
    let all = [1, 2, 3];
    let file = ConfigFile::new(&cluster.config(&all, ""));
    let tinylb = with_few_descriptors(&file, &["--admin", "127.0.0.1:0", "--workers", "1"]);
    let room = || {
        let metrics = get(&tinylb.admin(), "/metrics").body;
        let line = "\ntinylb_descriptor_connections_max ";
        let (_, rest) = metrics.split_once(line).unwrap();
        rest.lines().next().unwrap().parse::<usize>().unwrap()
    };
    tinylb.line("backends replaced");
    let before = room();
    file.replace(&cluster.config(&all, &cluster.check("/", "")));
    tinylb.line("configuration reloaded");
    // A sixteenth of 64: one check at a time, and two connections that are kept.
    assert_eq!(room(), before - 2);
    until("many checks", || all.iter().all(|node| cluster.rest(*node).requests() >= 10));
    // Of three backends, one is asked on a new connection each time.
    let counts = all.map(|node| (cluster.rest(node).requests(), cluster.rest(node).connections()));
    let are_new = counts.iter().filter(|(requests, connections)| connections >= requests).count();
    let are_kept = counts.iter().filter(|(requests, connections)| connections * 2 < *requests);
    assert_eq!((are_new, are_kept.count()), (1, 2), "{counts:?}");
    tinylb.stop();
}

#[test]
fn a_check_that_finds_no_descriptor_removes_nobody_and_is_logged_with_its_remedy() {
    let cluster = Cluster::new(&[Some(200), Some(200)]);
    // One check without an answer would do, and none keeps a connection.
    let check = "check = { tcp = true, interval = \"100ms\", fall_unanswered = 1, \
                 when_none = \"empty\" }";
    let file = ConfigFile::new(&cluster.config(&[1, 2], check));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let in_force = || get(&admin, "/services").json()["s"]["backends"].clone();
    until("both to pass", || in_force().as_object().is_some_and(|set| set.len() == 2));
    let load = Load::start(&address, 4);

    // Not one more, until the soft limit is raised again.
    let id = Pid::from_raw(tinylb.id() as i32);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(3), maximum };
    let before = prlimit(id, Resource::Nofile, limit).unwrap();
    let line = tinylb.line("can't be checked");
    assert_eq!((line.field("level"), line.field("service")), ("WARN", "s"));
    let text = line.message();
    assert!(text.starts_with("n1 (") || text.starts_with("n2 ("), "{text}");
    let expected =
        "its verdict stays as it is: too many open files: raise the limit on descriptors";
    assert!(text.contains(expected), "{text}");
    for _ in 0..10 {
        load.go_on(|_| true);
        thread::sleep(Duration::from_millis(100));
    }
    prlimit(id, Resource::Nofile, before).unwrap();
    assert_eq!(in_force().as_object().unwrap().len(), 2);
    let log = tinylb.log();
    assert_eq!(log.iter().filter(|line| line.says("can't be checked")).count(), 1, "{log:?}");
    assert!(!log.iter().any(|line| line.says("no longer passes")), "{log:?}");
    load.go_on(|_| true);
    assert_eq!(load.finish(), [End::Clean; 4]);
}
