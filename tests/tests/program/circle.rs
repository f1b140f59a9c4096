//! Services that lead to each other, in one program and in two.

use crate::harness::{
    Backend, Client, ConfigFile, End, Socket, Tinylb, free_address, get, put, service, until,
};

const ADMIN: [&str; 3] = ["--admin", "127.0.0.1:0", "--admin-write"];

/// A service that leads to addresses, each its own key.
fn leading(name: &str, listen: &str, targets: &[&str]) -> String {
    let backends: Vec<_> =
        targets.iter().map(|target| format!("{target:?} = {target:?}")).collect();
    format!(
        "[services.{name}]\nlisten = {listen:?}\nstart = 0\nbackends = {{ {} }}\n",
        backends.join(", ")
    )
}

fn accepted(tinylb: &Tinylb, service: &str) -> u64 {
    get(&tinylb.admin(), "/services").json()[service]["accepted"].as_u64().unwrap()
}

#[test]
fn a_service_may_lead_to_another_one() {
    let a = Backend::echo("a");
    let (x, y) = (free_address(), free_address());
    let file = ConfigFile::new(&(leading("x", &x, &[&y]) + &service("y", &y, [&a], "")));
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let mut client = Client::connect(&x);
    assert!(client.is_served());
    assert_eq!(client.finish(), End::Clean);
    assert!(!tinylb.log().iter().any(|line| line.says("leads back")));
    tinylb.stop();
}

#[test]
fn services_that_lead_to_each_other_are_refused_in_a_file_and_in_a_put() {
    let a = Backend::echo("a");
    let (x, y) = (free_address(), free_address());
    let good = leading("x", &x, &[&y]) + &service("y", &y, [&a], "");
    let file = ConfigFile::new(&good);
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let circle = leading("x", &x, &[&y]) + &leading("y", &y, &[&x]);
    file.edit(&circle);
    assert!(tinylb.line("configuration rejected").says("leads back to `y`"));
    let answer = put(&tinylb.admin(), "y", &format!("{{\"k\": {x:?}}}"));
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("k leads to the service x, which leads back to y"), "{answer:?}");
    assert!(Client::connect(&x).is_served());

    // The other way round in one step is no circle.
    file.edit(&(service("x", &x, [&a], "") + &leading("y", &y, &[&x])));
    tinylb.line("configuration reloaded");
    assert!(Client::connect(&y).is_served());
    assert_eq!(put(&tinylb.admin(), "x", &format!("{{\"k\": {y:?}}}")).status, 400);
    tinylb.stop();
}

#[test]
fn a_circle_that_sources_make_is_not_gone_round() {
    let a = Backend::echo("a");
    let (x, y) = (free_address(), free_address());
    let followed = format!(
        "[services.y]\nlisten = {y:?}\nstart = 0\nsource = {{ file = \"backends.toml\" }}\n"
    );
    let file = ConfigFile::new(&(leading("x", &x, &[&y]) + &followed));
    let write = |targets: &[&str]| {
        let lines = targets.iter().map(|target| format!("{target:?} = {target:?}\n"));
        std::fs::write(file.in_dir("new"), lines.collect::<String>()).unwrap();
        std::fs::rename(file.in_dir("new"), file.in_dir("backends.toml")).unwrap();
    };
    write(&[&a.address, &x]);
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    assert_eq!(tinylb.line("leads back").field("service"), "y");
    // Both turns of y's rotation, by either way in: each client has one session in each service.
    for (at, sessions) in [(&x, 2), (&x, 2), (&y, 1), (&y, 1)] {
        let before = accepted(&tinylb, "x") + accepted(&tinylb, "y");
        let mut client = Client::connect(at);
        assert!(client.is_served());
        assert_eq!(accepted(&tinylb, "x") + accepted(&tinylb, "y") - before, sessions);
    }
    tinylb.line("dial failed: it leads back to the balancer");

    // Once x leads elsewhere, y may lead to it.
    let direct = service("x", &x, [&a], "");
    file.edit(&(direct + &followed));
    tinylb.line("configuration reloaded");
    let before = accepted(&tinylb, "x");
    let mut clients = Client::several(&y, 2);
    assert!(clients.iter_mut().all(Client::is_served));
    assert_eq!(accepted(&tinylb, "x") - before, 1);
    drop(clients);
    tinylb.stop();
}

/// Two programs that lead to each other, and how many sessions each has at most.
struct Two {
    programs: [Tinylb; 2],
    _files: [ConfigFile; 2],
    front: String,
}

const SESSIONS_MAX: u64 = 20;

impl Two {
    fn start() -> Self {
        let [front, behind] = [(); 2].map(|()| free_address());
        let file = |listen: &str, target: &str| {
            let settings = format!(
                "max_connections = {SESSIONS_MAX}\nhalf_close_timeout = \"off\"\n\
                 shutdown_timeout = \"0s\"\n"
            );
            ConfigFile::new(&(leading("s", listen, &[target]) + &settings))
        };
        let files = [file(&front, &behind), file(&behind, &front)];
        let programs = files.each_ref().map(|file| file.run_with(&ADMIN));
        programs.iter().for_each(|program| drop(program.address()));
        Self { programs, _files: files, front }
    }

    fn live(&self) -> u64 {
        let live =
            |program: &Tinylb| get(&program.admin(), "/services").json()["s"]["live"].as_u64();
        self.programs.iter().map(|program| live(program).unwrap()).sum()
    }

    /// One client, for which they do what they may.
    fn client(&self) -> Socket {
        let client = Socket::connect(&self.front).unwrap();
        until("all the sessions that there may be", || self.live() == 2 * SESSIONS_MAX);
        client
    }

    fn stop(self) {
        let Self { programs, _files, .. } = self;
        programs.into_iter().for_each(Tinylb::stop);
    }
}

#[test]
fn two_programs_that_lead_to_each_other_let_go_of_a_client_that_resets() {
    let two = Two::start();
    two.client().reset();
    until("the end of all sessions", || two.live() == 0);
    two.stop();
}

#[test]
fn two_programs_that_lead_to_each_other_let_go_of_a_client_that_is_gone() {
    let two = Two::start();
    // Closed without a reset: it looks like the end of a stream, whose answer may be waited for. The
    // system forgets such a connection after a while, and answers the next probe with a reset.
    drop(two.client());
    let began = std::time::Instant::now();
    while two.live() > 0 {
        assert!(began.elapsed().as_secs() < 300, "{} sessions are left", two.live());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    two.stop();
}
