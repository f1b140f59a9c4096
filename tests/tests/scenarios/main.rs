//! Scenarios on each level there is: the decisions alone, the driver on a simulated network, and
//! the driver on sockets. The same laws hold on all of them.
//!
//! `TINYLB_SIM_SEED` is the first seed, `TINYLB_SIM_CASES` how many there are. On sockets a seed
//! gives the same scenario, and not the same run.

mod sockets;

use std::{env, fs, path::Path, sync::Mutex, thread};

use tinylb_sim::{
    AnyScenario, Counts, Outcome, Profile, Scenario, Sometimes, decisions, driver, scenario::Config,
};

/// For sockets, where time is real: less than a second of it.
const SHORT: Profile = Profile {
    name: "short",
    steps: (4, 14),
    config: || Config { clients: 10, duration: 700, pause: 60, ..Config::default() },
    ..Profile::FAST
};

/// Scenarios that run at once. They mostly wait.
const THREADS: usize = 8;

/// What many scenarios on sockets have seen.
const REACHED: &[Sometimes] = &[
    Sometimes::RevokedDial,
    Sometimes::CutSession,
    Sometimes::SharedTargetKept,
    Sometimes::RetryAfterRevoked,
    Sometimes::EmptySetHit,
    Sometimes::WaitingAdmitted,
    Sometimes::Finished,
    Sometimes::HalfClosed,
    Sometimes::ClientSawCut,
    Sometimes::CrashEnded,
    Sometimes::DrainInterrupted,
    Sometimes::DrainExpired,
    Sometimes::LimitReached,
    Sometimes::DialFailed,
    Sometimes::TurnPassed,
    Sometimes::WaitingFull,
    Sometimes::KeptDial,
    Sometimes::DialRefused,
    Sometimes::AcceptFailed,
    Sometimes::RuleFired,
];

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

/// Scenarios by seed, each with what it takes to have it again.
fn seeds(count: u64) -> impl Iterator<Item = (String, Scenario)> + Send {
    let first = setting("TINYLB_SIM_SEED", 0);
    (first..first + setting("TINYLB_SIM_CASES", count))
        .map(|seed| (format!("TINYLB_SIM_SEED={seed}"), Scenario::from_seed(&SHORT, seed)))
}

/// Scenarios of a balancer that once were worth keeping.
fn saved() -> impl Iterator<Item = (String, Scenario)> + Send {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/corpus");
    let files = fs::read_dir(directory).expect("the corpus");
    let paths = files.map(|file| file.expect("a file's name").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.filter_map(|path| {
        let text = fs::read_to_string(&path).expect("a file to read");
        match text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            AnyScenario::Balancer(scenario) => Some((path.display().to_string(), scenario)),
            AnyScenario::Relay(_) => None,
        }
    })
}

type Level = fn(&Scenario, bool) -> Outcome;

/// Runs each scenario on each of these levels, and returns what happened.
fn run_all(
    levels: &[(&str, Level)],
    scenarios: impl Iterator<Item = (String, Scenario)> + Send,
) -> Counts {
    let counts = Mutex::new(Counts::default());
    let scenarios = Mutex::new(scenarios);
    let next = || scenarios.lock().ok()?.next();
    let run = || {
        while let Some((name, scenario)) = next() {
            for (level, run) in levels {
                let outcome = run(&scenario, false);
                if let Some(first) = outcome.violations.first() {
                    panic!("{name}, on {level}: {first}\n{scenario}");
                }
                counts.lock().expect("nobody panics with it").merge(&outcome.counts);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(run);
        }
    });
    counts.into_inner().expect("nobody panics with it")
}

const SOCKETS: (&str, Level) = ("sockets", sockets::run);
const LEVELS: &[(&str, Level)] =
    &[("the decisions", decisions::run), ("a simulated network", driver::run), SOCKETS];

#[test]
fn the_balancer_that_ships_breaks_no_law_on_sockets() {
    let counts = run_all(&[SOCKETS], seeds(160));
    if setting("TINYLB_SIM_CASES", 160) >= 160 {
        let never: Vec<_> = counts.never(REACHED).map(Sometimes::name).collect();
        assert!(never.is_empty(), "these never happened: {never:?}");
    }
}

#[test]
fn the_relay_for_sockets_breaks_no_law_in_any_mode() {
    const MODES: &[(&str, Level)] = &[
        ("sockets, never spliced", sockets::run_unspliced),
        ("sockets, spliced if hot", sockets::run_spliced_if_hot),
        ("sockets, spliced", sockets::run_spliced),
    ];
    run_all(MODES, seeds(64));
    run_all(MODES, saved());
}

#[test]
fn one_scenario_breaks_no_law_on_any_level() {
    run_all(LEVELS, seeds(24));
}

#[test]
fn saved_scenarios_break_no_law_on_any_level() {
    run_all(LEVELS, saved());
}
