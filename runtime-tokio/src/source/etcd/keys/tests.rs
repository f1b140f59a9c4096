use super::*;

const PREFIX: &str = "/lb/";

fn put(key: &str, value: &str, revision: i64) -> Put {
    Put { key: format!("{PREFIX}{key}").into(), value: value.into(), revision, lease: 0 }
}

fn set(key: &str, value: &str, revision: i64) -> KeyChange {
    KeyChange::Put(put(key, value, revision))
}

fn delete(key: &str, revision: i64) -> KeyChange {
    KeyChange::Delete { key: format!("{PREFIX}{key}").into(), revision }
}

fn listing<const N: usize>(revision: i64, puts: [Put; N]) -> Listing {
    Listing { at: Position { cluster: 1, revision }, count: N, puts: puts.into() }
}

/// Those that were set lately, of so many.
fn recent<const N: usize>(revision: i64, count: usize, puts: [Put; N]) -> Listing {
    Listing { count, ..listing(revision, puts) }
}

fn list<const N: usize>(keys: &mut Keys, revision: i64, puts: [Put; N]) {
    keys.list(listing(revision, puts), Instant::now()).unwrap();
}

/// The revision that is known.
fn known(keys: &Keys) -> i64 {
    keys.known.unwrap().revision
}

/// What there is to tell: `a=address`, `!key: reason`, or "nothing".
fn told(keys: &mut Keys) -> String {
    let (set, bad) = match keys.tell() {
        Some(Update::Set(set)) => (set, Vec::new()),
        Some(Update::Partial(set, bad)) => (set, bad.to_vec()),
        Some(Update::Lost(reason)) => return format!("lost: {reason}"),
        Some(Update::Narrowed(_)) => unreachable!("nothing is checked here"),
        None => return "nothing".into(),
    };
    let good = set.iter().map(|(key, target)| format!("{key}={target}"));
    good.chain(bad.iter().map(|bad| format!("!{bad}"))).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_change_reaches_the_set() {
    let mut keys = Keys::new(PREFIX);
    assert_eq!(told(&mut keys), "nothing");
    list(&mut keys, 5, [put("a", "h:1", 3), put("b", "h:2", 5)]);
    assert_eq!(known(&keys), 5);
    assert_eq!(told(&mut keys), "a=h:1 b=h:2");
    keys.apply(vec![delete("a", 6), set("c", " h:3\n", 6), set("b", "h:4", 6)]);
    assert_eq!(told(&mut keys), "b=h:4 c=h:3");
    assert_eq!(told(&mut keys), "nothing");
    assert_eq!(known(&keys), 6);
    keys.apply(vec![delete("b", 7), delete("c", 7)]);
    assert_eq!(told(&mut keys), "");
}

#[test]
fn what_changes_nothing_is_not_told() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 5, [put("a", "h:1", 3)]);
    assert_eq!(told(&mut keys), "a=h:1");
    keys.apply(vec![set("a", "h:1", 6), delete("z", 7)]);
    list(&mut keys, 8, [put("a", r#"{"address": "h:1", "zone": "x"}"#, 8)]);
    assert_eq!(told(&mut keys), "nothing");
    // But after a loss it is.
    keys.lost();
    assert_eq!(told(&mut keys), "a=h:1");
}

const NOTHING: &str = "lost: no key begins with /lb/, and none was deleted: register a backend there \
    (if there should be none, put a key and delete it)";

#[test]
fn a_prefix_without_keys_is_no_empty_set() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 5, []);
    assert_eq!(told(&mut keys), NOTHING);
    list(&mut keys, 6, []);
    assert_eq!(told(&mut keys), "nothing", "which was told");
    keys.lost();
    assert_eq!(told(&mut keys), NOTHING);
    keys.apply(vec![set("a", "h:1", 7)]);
    assert_eq!(told(&mut keys), "a=h:1");
}

#[test]
fn keys_that_are_deleted_leave_an_empty_set() {
    // One by one, in one transaction, put and deleted at once, and while nobody watched.
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 5, [put("a", "h:1", 3), put("b", "h:2", 3)]);
    keys.apply(vec![delete("a", 6)]);
    assert_eq!(told(&mut keys), "b=h:2");
    keys.apply(vec![delete("b", 7)]);
    assert_eq!(told(&mut keys), "");
    list(&mut keys, 9, []);
    assert_eq!(told(&mut keys), "nothing", "it is still so");
    keys.apply(vec![set("a", "h:1", 10), set("b", "h:2", 10)]);
    keys.apply(vec![delete("a", 11), delete("b", 11)]);
    assert_eq!(told(&mut keys), "");
    keys.apply(vec![set("a", "h:1", 12)]);
    list(&mut keys, 15, []);
    assert_eq!(told(&mut keys), "");
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 5, []);
    keys.apply(vec![set("a", "h:1", 6), delete("a", 7)]);
    assert_eq!(told(&mut keys), "", "which is how there can be none on purpose");
}

#[test]
fn a_cluster_that_begins_anew_or_is_restored_without_keys_empties_nothing() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 50, [put("a", "h:1", 3)]);
    assert_eq!(told(&mut keys), "a=h:1");
    let at = Position { cluster: 2, revision: 60 };
    keys.list(Listing { at, count: 0, puts: Vec::new() }, Instant::now()).unwrap();
    assert_eq!(told(&mut keys), NOTHING, "another cluster");

    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 50, [put("a", "h:1", 3)]);
    assert_eq!(told(&mut keys), "a=h:1");
    let began = Instant::now();
    for lists in 1..OLDER_LISTS {
        assert!(keys.list(listing(9, []), began).is_err(), "{lists}");
    }
    keys.list(listing(9, []), began + OLDER_TIME).unwrap();
    assert_eq!(told(&mut keys), NOTHING, "a backup");
    keys.apply(vec![set("a", "h:1", 10)]);
    assert_eq!(told(&mut keys), "a=h:1");
}

#[test]
fn what_is_known_already_does_not_bring_a_deleted_backend_back() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 9, [put("b", "h:2", 7)]);
    // The watch of a member that lags, or of one that comes late after a comparison.
    keys.apply(vec![set("a", "h:1", 6), delete("b", 5), set("b", "h:9", 9)]);
    assert_eq!(told(&mut keys), "b=h:2");
    assert_eq!(known(&keys), 9);
}

#[test]
fn a_batch_that_leaves_revisions_out_is_taken_whole() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 5, []);
    keys.apply(vec![set("a", "h:1", 6)]);
    keys.apply(vec![set("b", "h:2", 7), set("c", "h:3", 9)]);
    assert_eq!(told(&mut keys), "a=h:1 b=h:2 c=h:3");
}

#[test]
fn an_entry_that_is_no_backend_is_told_with_its_key() {
    let mut keys = Keys::new(PREFIX);
    for (value, cause) in [
        ("127.0.0.1", "no port"),
        ("", "no port"),
        ("no\naddress", "`no address` has no port"),
        ("{", "no JSON"),
        ("{}", r#"write {"address": "HOST:PORT"}"#),
        (r#"{"address": 1}"#, r#"write {"address": "HOST:PORT"}"#),
        (r#"{"address": "h"}"#, "no port"),
        (&"x".repeat(1 << 20), "1048576 bytes"),
    ] {
        list(&mut keys, 5, [put("a", "h:1", 3), put("bad", value, 4)]);
        keys.lost();
        let told = told(&mut keys);
        assert!(told.starts_with("a=h:1 !bad: "), "{told}");
        assert!(told.contains(cause) && !told.contains('\n'), "{cause}: {told}");
    }
    let binary = Put { key: b"/lb/\xff".into(), value: b"h:1".into(), revision: 5, lease: 0 };
    let value = Put { key: b"/lb/v".into(), value: b"\xff".into(), revision: 5, lease: 0 };
    list(&mut keys, 5, [put("", "h:1", 5), binary, value]);
    let told = told(&mut keys);
    assert!(told.starts_with("!/lb/: it has no name"), "{told}");
    assert!(told.contains("!v: its value isn't UTF-8"), "{told}");
    assert!(told.contains("!\u{fffd}: the key isn't UTF-8"), "{told}");
}

#[test]
fn an_entry_that_is_put_right_makes_the_set_whole() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 5, [put("a", "h", 3)]);
    assert!(told(&mut keys).starts_with("!a: "));
    keys.apply(vec![set("a", r#" {"address": "unix:/run/a"} "#, 6)]);
    assert_eq!(told(&mut keys), "a=unix:/run/a");
}

#[test]
fn an_older_list_is_refused_until_it_insists() {
    let mut keys = Keys::new(PREFIX);
    let start = Instant::now();
    let seconds = |seconds| start + Duration::from_secs(seconds);
    list(&mut keys, 9, [put("a", "h:1", 9)]);
    told(&mut keys);
    let old = || listing(5, [put("z", "h:9", 5)]);
    let error = keys.list(old(), seconds(0)).unwrap_err().to_string();
    assert!(error.contains("revision 5 is older than 9"), "{error}");
    assert!(keys.list(old(), seconds(9)).is_err());
    // A member that knows more speaks against it.
    keys.list(listing(9, [put("a", "h:1", 9)]), seconds(9)).unwrap();
    assert!(keys.list(old(), seconds(11)).is_err());
    // Nor is it insisting to come back after a long time.
    assert!(keys.list(old(), seconds(1000)).is_err());
    assert_eq!(told(&mut keys), "nothing");
    keys.list(old(), seconds(1001)).unwrap();
    assert_eq!(told(&mut keys), "z=h:9");
    assert_eq!(known(&keys), 5);
    keys.apply(vec![set("y", "h:8", 6)]);
    assert_eq!(told(&mut keys), "y=h:8 z=h:9");
}

#[test]
fn another_cluster_begins_anew() {
    let mut keys = Keys::new(PREFIX);
    list(&mut keys, 9, [put("a", "h:1", 9)]);
    told(&mut keys);
    let at = Position { cluster: 2, revision: 3 };
    keys.list(Listing { at, ..listing(0, [put("b", "h:2", 3)]) }, Instant::now()).unwrap();
    assert_eq!(told(&mut keys), "b=h:2");
    assert_eq!(known(&keys), 3);
}

#[test]
fn a_comparison_finds_what_a_watch_has_not_told() {
    let start = || {
        let mut keys = Keys::new(PREFIX);
        list(&mut keys, 5, [put("a", "h:1", 3), put("b", "h:2", 5)]);
        keys.apply(vec![set("c", "h:3", 7)]);
        told(&mut keys);
        assert_eq!(keys.uncompared(), 6);
        keys
    };
    let c = || put("c", "h:3", 7);

    // Nothing was missed.
    let mut keys = start();
    assert_eq!(keys.compare(recent(8, 3, [c()])), Compared::Same);
    assert_eq!((told(&mut keys), keys.uncompared()), ("nothing".into(), 9));
    // A deletion was: of a, and of c.
    assert_eq!(start().compare(recent(8, 2, [c()])), Compared::Differs);
    assert_eq!(start().compare(recent(8, 2, [])), Compared::Differs);
    // A deletion and a new key.
    assert_eq!(start().compare(recent(9, 3, [c(), put("d", "h:4", 9)])), Compared::Differs);
    // A new key, which is before or after what the watch has told.
    for revision in [6, 8] {
        let mut keys = start();
        let d = put("d", "h:4", revision);
        assert_eq!(keys.compare(recent(8, 4, [c(), d])), Compared::Same);
        assert_eq!(told(&mut keys), "a=h:1 b=h:2 c=h:3 d=h:4");
        assert_eq!(known(&keys), 8);
    }
    // A change of a value.
    let mut keys = start();
    assert_eq!(keys.compare(recent(8, 3, [put("b", "h:9", 6), c()])), Compared::Same);
    assert_eq!(told(&mut keys), "a=h:1 b=h:9 c=h:3");
    // It is from before what the watch has told.
    assert_eq!(start().compare(recent(6, 2, [])), Compared::TooOld);
    // Another cluster answers.
    let mut other = recent(8, 3, [c()]);
    other.at.cluster = 2;
    assert_eq!(start().compare(other), Compared::Differs);
}
