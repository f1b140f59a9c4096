use super::*;

/// A service that listens at these ports; its table has a number.
#[derive(Clone, Debug, PartialEq)]
struct Config {
    listen: Vec<u16>,
    table: u32,
    is_followed: bool,
    is_checked: bool,
}

impl Definition for Config {
    type Address = u16;

    fn listen(&self) -> &[u16] {
        &self.listen
    }

    fn takes_any_port(address: &u16) -> bool {
        *address == 0
    }

    fn is_followed(&self) -> bool {
        self.is_followed
    }

    fn has_backends_of(&self, other: &Self) -> bool {
        (self.table, self.is_followed) == (other.table, other.is_followed)
    }

    fn is_checked(&self) -> bool {
        self.is_checked
    }

    fn shutdown_timeout(&self) -> Duration {
        secs(30)
    }

    fn room(&self) -> Room {
        Room { probes: self.table as usize, ..Room::default() }
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn at(ports: &[u16]) -> Config {
    Config { listen: ports.to_vec(), table: 1, is_followed: false, is_checked: false }
}

fn key(port: u16) -> SocketKey<u16> {
    SocketKey { owner: None, address: port }
}

fn config<const N: usize>(services: [(&str, Config); N]) -> BTreeMap<String, Config> {
    services.map(|(name, config)| (name.to_string(), config)).into()
}

/// What happens once a configuration is applied at this second, one word for each action.
fn apply<const N: usize>(
    services: &mut Services<Config>,
    now: u64,
    given: [(&str, Config); N],
) -> Vec<String> {
    let plan = services.plan(config(given));
    let actions = services.commit(plan, secs(now), |_| Ends::default());
    actions.iter().map(word).collect()
}

fn word(action: &Action<Config>) -> String {
    match action {
        Action::Apply { id, name, planned } => match planned.step {
            Step::Start => format!("{name} starts as {}, {:?}", id.0, planned.feed),
            Step::Change(_) => format!("{name} changes, {:?}", planned.feed),
            Step::Return(_) => format!("{name} returns, {:?}", planned.feed),
            Step::Adjust(_) => format!("{name} adjusts, {:?}", planned.feed),
        },
        Action::Leave(id, why) => format!("{} leaves, {why:?}", id.0),
        Action::Disown(id) => format!("{} keeps nothing", id.0),
        Action::Close(key) => format!("{} closes", key.address),
    }
}

const ONE_SESSION: Rest = Rest { sessions: 1, listeners: 0 };

fn close(services: &mut Services<Config>, id: u64, now: u64) {
    assert_eq!(services.left(ServiceId(id), secs(now), Rest::default()), Departing::Close);
}

#[test]
fn what_is_named_serves_and_whatever_else_serves_leaves() {
    let mut services = Services::default();
    let plan = services.plan(config([("a", at(&[1])), ("b", at(&[2, 3]))]));
    assert_eq!(plan.open, [key(1), key(2), key(3)].into());
    let actions = services.commit(plan, secs(0), |_| Ends::default());
    assert_eq!(
        actions.iter().map(word).collect::<Vec<_>>(),
        ["a starts as 0, Given", "b starts as 1, Given"]
    );
    let plan = services.plan(config([("b", at(&[3, 4])), ("c", at(&[1, 2]))]));
    assert_eq!(plan.open, [key(4)].into(), "the others stay open, whoever has them");
    let actions = services.commit(plan, secs(0), |_| Ends::default());
    assert_eq!(
        actions.iter().map(word).collect::<Vec<_>>(),
        ["b changes, Stays", "c starts as 2, Given", "0 keeps nothing", "0 leaves, Removed"]
    );
    assert_eq!(
        apply(&mut services, 0, [("b", at(&[3]))]),
        [
            "b changes, Stays",
            "2 keeps nothing",
            "2 leaves, Removed",
            "0 keeps nothing",
            "1 closes",
            "2 closes",
            "4 closes"
        ]
    );
}

#[test]
fn a_plan_that_is_dropped_has_changed_nothing() {
    let mut services = Services::default();
    apply(&mut services, 0, [("a", at(&[1])), ("b", at(&[2]))]);
    drop(services.plan(config([("b", at(&[3])), ("c", at(&[1]))])));
    assert_eq!(
        apply(&mut services, 0, [("a", at(&[1])), ("b", at(&[2]))]),
        ["a changes, Stays", "b changes, Stays"]
    );
}

#[test]
#[should_panic(expected = "a plan is for the state that it was made from")]
fn a_plan_is_not_applied_once_something_else_has_happened() {
    let mut services = Services::default();
    let plan = services.plan(config([("a", at(&[1]))]));
    services.stop(secs(0), |_| Ends::default());
    services.commit(plan, secs(0), |_| Ends::default());
}

#[test]
fn each_service_has_a_socket_of_its_own_where_it_takes_any_port() {
    let mut services = Services::default();
    let plan = services.plan(config([("a", at(&[0])), ("b", at(&[0]))]));
    let owners: Vec<_> = plan.open.iter().map(|key| key.owner.as_deref()).collect();
    assert_eq!(owners, [Some("a"), Some("b")]);
    services.commit(plan, secs(0), |_| Ends::default());
    assert_eq!(services.plan(config([("c", at(&[0]))])).open.len(), 1);
}

#[test]
fn a_service_that_is_named_again_goes_on_until_it_is_being_closed() {
    let mut services = Services::default();
    apply(&mut services, 0, [("a", at(&[1]))]);
    apply(&mut services, 10, []);
    let a = ServiceId(0);
    assert_eq!(services.left(a, secs(15), ONE_SESSION), Departing::Wait(secs(25)));
    assert_eq!(services.reachable("a"), Some(a), "sets reach it while it leaves");
    assert_eq!(apply(&mut services, 20, [("a", at(&[1]))]), ["a returns, Given"]);
    assert_eq!(services.left(a, secs(60), Rest::default()), Departing::Not);

    apply(&mut services, 60, []);
    assert_eq!(services.left(a, secs(89), ONE_SESSION), Departing::Wait(secs(1)));
    assert_eq!(services.left(a, secs(90), ONE_SESSION), Departing::Close);
    assert_eq!(services.left(a, secs(91), ONE_SESSION), Departing::Not);
    assert_eq!(services.reachable("a"), None);
    assert_eq!(apply(&mut services, 91, [("a", at(&[1]))]), ["a starts as 1, Given"]);
    assert_eq!(services.reachable("a"), Some(ServiceId(1)));
    let gone = services.closed(a, Ends { cut: 1, ..Ends::default() }).unwrap();
    assert_eq!((gone.name.as_str(), gone.why, gone.ends.cut), ("a", Why::Removed, 1));
    assert_eq!(services.reachable("a"), Some(ServiceId(1)), "its successor has the name");
    assert_eq!(services.closed(a, Ends::default()), None);
}

#[test]
fn a_table_that_was_put_lives_until_the_files_table_changes_or_is_named_again() {
    let mut services = Services::default();
    apply(&mut services, 0, [("a", at(&[1]))]);
    let checked = Config { is_checked: true, ..at(&[1]) };
    let other = Config { table: 2, ..checked.clone() };
    let followed = Config { is_followed: true, ..other.clone() };
    let unchecked = Config { is_checked: false, ..followed.clone() };
    for (given, expected) in [
        (at(&[2]), "Stays"),
        (checked, "Kept"),
        (other.clone(), "Given"),
        (followed.clone(), "Followed"),
        (followed.clone(), "Stays"),
        (unchecked, "Followed"),
        (other.clone(), "Given"),
    ] {
        let actions = apply(&mut services, 0, [("a", given)]);
        assert_eq!(actions[0], format!("a changes, {expected}"));
    }
    apply(&mut services, 0, []);
    assert_eq!(apply(&mut services, 0, [("a", other)])[0], "a returns, Given");
    apply(&mut services, 0, [("a", followed.clone())]);
    apply(&mut services, 0, []);
    let back = apply(&mut services, 0, [("a", followed)]);
    assert_eq!(back[0], "a returns, Stays", "its source was followed all along");
}

#[test]
fn while_the_program_stops_sets_reach_what_lives_and_nothing_begins() {
    let mut services = Services::default();
    apply(&mut services, 0, [("a", at(&[1])), ("b", at(&[2])), ("c", at(&[3])), ("d", at(&[4]))]);
    apply(&mut services, 0, [("c", at(&[3])), ("d", at(&[4]))]);
    close(&mut services, 0, 5);
    let actions = services.stop(secs(10), |_| Ends::default()).unwrap();
    assert_eq!(
        actions.iter().map(word).collect::<Vec<_>>(),
        ["2 leaves, Stopping", "3 leaves, Stopping", "3 closes", "4 closes"]
    );
    assert!(services.stop(secs(10), |_| Ends::default()).is_none());
    let other = Config { table: 2, ..at(&[9]) };
    let named = ["a", "b", "c", "new"].map(|name| (name, other.clone()));
    let plan = services.plan(config(named.clone()));
    assert_eq!(plan.passed_over, ["a".to_string(), "new".to_string()].into());
    assert_eq!(plan.open, [].into());
    assert_eq!(
        apply(&mut services, 11, named),
        ["b adjusts, Given", "c adjusts, Given", "3 keeps nothing"]
    );
    // It had left before.
    assert_eq!(services.left(ServiceId(1), secs(30), ONE_SESSION), Departing::Close);
    assert_eq!(services.left(ServiceId(2), secs(30), ONE_SESSION), Departing::Wait(secs(10)));
}

#[test]
fn the_program_has_stopped_once_nothing_is_left_and_counts_what_ended_since() {
    let mut services = Services::default();
    assert_eq!(services.hurry(), []);
    apply(&mut services, 0, [("a", at(&[1])), ("b", at(&[2]))]);
    apply(&mut services, 0, [("b", at(&[2]))]);
    let finished = |finished| Ends { finished, ..Ends::default() };
    services.stop(secs(1), |id| finished(id.0 + 5));
    assert_eq!(services.left(ServiceId(0), secs(2), ONE_SESSION), Departing::Wait(secs(28)));
    assert_eq!(services.hurry(), [ServiceId(0), ServiceId(1)]);
    for id in [ServiceId(0), ServiceId(1)] {
        assert_eq!(services.left(id, secs(2), ONE_SESSION), Departing::Close);
        assert_eq!(services.stopped(), None);
        let gone = services.closed(id, finished(10)).unwrap();
        let before = if id.0 == 0 { 0 } else { 6 };
        assert_eq!((gone.why, gone.ends), (Why::Stopping, finished(10 - before)));
    }
    assert_eq!(services.stopped(), Some(finished(5 + 4)));
}

#[test]
fn what_leaves_or_is_about_to_keeps_its_room() {
    let mut services = Services::default();
    let table = |table| Config { table, ..at(&[]) };
    apply(&mut services, 0, [("a", table(1)), ("b", table(2)), ("c", table(3))]);
    apply(&mut services, 0, [("b", table(2)), ("c", table(3))]);
    close(&mut services, 0, 0);
    apply(&mut services, 0, [("a", table(4)), ("b", table(2)), ("c", table(3))]);
    let rooms = services.leaving_rooms(&config([("a", table(5)), ("c", table(6))]));
    let probes: Vec<_> = rooms.iter().map(|room| room.probes).collect();
    assert_eq!(probes, [1, 2], "the first a is still being closed");
}
