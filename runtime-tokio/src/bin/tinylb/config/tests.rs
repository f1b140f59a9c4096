use std::{fs, path::Path};

use tinylb_core::{BackendSet, BadEntries, EmptySet, Floor, Removal, SourceSettings};
use tinylb_tokio::{DnsFamily, DnsOptions};

use super::*;

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    parse_bytes(text.as_bytes())
}

/// Everything that can be written.
const FULL: &str = r#"# A comment.
workers = 3
[services.web]
listen = ["127.0.0.1:8080", "[::1]:8080", "unix:/run/web.sock"]
backends = { a = "127.0.0.1:9001", b = "db.example.org:9002", c = "unix:/run/c.sock" }
dial_timeout = "1s"
dial_patience = "off"
dial_attempts_max = 2
dial_time_max = "4s"
ejection = false
probe_interval_min = "50ms"
probe_interval_max = "200ms"
probes_max = 4
cut_silent = "10s"
empty = "wait"
waiting_max = 0
waiting_timeout = "500ms"
half_close_timeout = "off"
idle_timeout = "1h 30m"
max_connections = 1_000
removal = { drain = "30s" }
backends_max = 3
start = 7
seed = 8
peer_timeout = "off"
dial_from = ["10.0.0.5", "2001:db8::5"]
shutdown_timeout = "0s"

[services."db-1_x.y"]
listen = "0.0.0.0:0"

[services."db-1_x.y".backends]
"a b" = "[2001:db8::1]:5432" # é
"#;

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn service(listen: &[&str], backends: &[(&'static str, &str)]) -> ServiceConfig {
    let backends = backends.iter().map(|(key, target)| (*key, address(target)));
    let backends = Backends::Given(BackendSet::new(backends).unwrap());
    ServiceConfig::new(listen.iter().map(|text| address(text)).collect(), backends)
}

/// `LINE:COLUMN: message` of each problem; none if the text is good.
fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .iter()
            .map(|problem| problem.one_line(Path::new("F")).strip_prefix("F:").unwrap().to_string())
            .collect(),
    }
}

/// `LINE:COLUMN` of each problem.
fn places(text: &str) -> Vec<String> {
    problems(text).iter().map(|p| p.split(": ").next().unwrap().to_string()).collect()
}

/// Line 3 of a service that is otherwise good.
fn with(line: &str) -> String {
    format!("[services.web]\nlisten = \"127.0.0.1:8080\"\n{line}\nbackends = {{}}\n")
}

/// Writes a file of its own for a test, and removes it in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path =
            std::env::temp_dir().join(format!("tinylb-config-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn every_key_of_the_file_reaches_its_setting() {
    let ms = Duration::from_millis;
    let targets =
        [("a", "127.0.0.1:9001"), ("b", "db.example.org:9002"), ("c", "unix:/run/c.sock")];
    let mut web = service(&["127.0.0.1:8080", "[::1]:8080", "unix:/run/web.sock"], &targets);
    web.settings.dial_timeout = ms(1_000);
    web.settings.dial_patience = None;
    web.settings.dial_attempts_max = 2;
    web.settings.dial_time_max = ms(4_000);
    web.settings.ejection = false;
    web.settings.probe_interval_min = ms(50);
    web.settings.probe_interval_max = ms(200);
    web.settings.probes_max = 4;
    web.settings.cut_silent = Some(ms(10_000));
    web.settings.empty = EmptySet::Wait;
    web.settings.waiting_max = 0;
    web.settings.waiting_timeout = ms(500);
    web.settings.half_close_timeout = None;
    web.settings.idle_timeout = Some(ms(5_400_000));
    web.settings.max_connections = 1000;
    web.settings.removal = Removal::Drain(ms(30_000));
    web.settings.backends_max = 3;
    web.settings.start = 7;
    web.settings.seed = 8;
    web.max_connections = Some(1000);
    web.start = Some(7);
    web.seed = Some(8);
    web.peer_timeout = None;
    web.dial_from = ["10.0.0.5", "2001:db8::5"].map(|ip| ip.parse().unwrap()).into();
    web.shutdown_timeout = Duration::ZERO;
    let db = service(&["0.0.0.0:0"], &[("a b", "[2001:db8::1]:5432")]);
    let services = BTreeMap::from([("web".into(), web), ("db-1_x.y".into(), db)]);
    assert_eq!(parse(FULL).unwrap(), Config { services, workers: Some(3) });
}

#[test]
fn what_the_file_leaves_out_keeps_its_default() {
    let config = parse(&with("")).unwrap();
    let expected = service(&["127.0.0.1:8080"], &[]);
    assert_eq!(config.services["web"], expected);
    assert_eq!(expected.settings, Settings::default());
    assert_eq!((expected.max_connections, expected.start, expected.seed), (None, None, None));
    assert_eq!(expected.peer_timeout, Some(Duration::from_secs(60)));
    assert_eq!(expected.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(expected.check_ranges(), Ok(()));
    // The nearest values that are still in range.
    for line in [
        "peer_timeout = \"5s\"",
        "peer_timeout = \"24h\"",
        "shutdown_timeout = \"24h\"",
        "removal = \"abort\"",
        "dial_timeout = \"1ms\"",
        "dial_timeout = \"1h\"",
        "waiting_max = 1_000_000",
        "half_close_timeout = \"5m\"",
        "delivery_timeout = \"1h\"",
        "idle_timeout = \"off\"",
        "start = 0xff",
        "dial_patience = \"10ms\"",
        "dial_patience = \"off\"",
        "ejection = true",
        "probe_interval_min = \"10ms\"",
        "probe_interval_max = \"1h\"",
        // The pauses are compared with each other, whichever of them is read first.
        "probe_interval_min = \"50ms\"\nprobe_interval_max = \"100ms\"",
        "probe_interval_max = \"50s\"\nprobe_interval_min = \"20s\"",
        "probes_max = 1024",
        "cut_silent = \"24h\"",
        "empty = \"reset\"",
    ] {
        assert_eq!(problems(&with(line)), [""; 0], "{line}");
    }
}

#[test]
fn an_empty_file_is_never_an_empty_set() {
    let expected = ["1:1: the file is empty: write [services.NAME] with `listen` and `backends`"];
    for text in
        ["", "\n", " \t\r\n", "# [services.web]", "\n  # a\n#b\n\n", "\u{feff}", "\u{feff}# a"]
    {
        assert_eq!(problems(text), expected, "{text:?}");
    }
    let none = "there is no service: write [services.NAME] with `listen` and `backends`";
    assert_eq!(problems("[services]"), [format!("1:2: {none}")]);
    assert_eq!(problems("\nservices = {}"), [format!("2:1: {none}")]);
    assert_eq!(problems(&with("")), [""; 0], "the nearest file that is good");
}

#[test]
fn a_bad_setting_is_told_with_its_place_and_remedy() {
    let time = "write a number with its unit in quotes, such as \"3s\", \"500ms\" or \"5m\"";
    let removal = "write \"abort\" or { drain = \"30s\" }";
    for (line, expected) in [
        // Of another type.
        ("dial_timeout = 3", format!("16: `dial_timeout` is an integer: {time}")),
        ("  dial_timeout=true", format!("16: `dial_timeout` is a boolean: {time}")),
        (
            "waiting_max = \"3\"",
            "15: `waiting_max` must be a whole number without quotes; this is a string".into(),
        ),
        ("start = 1.5", "9: `start` must be a whole number without quotes; this is a float".into()),
        ("removal = 5", format!("11: `removal` is an integer: {removal}")),
        // Not a length of time.
        ("dial_timeout = \"3\"", format!("16: `dial_timeout` is \"3\", without a unit: {time}")),
        (
            "dial_timeout = \"3x\"",
            format!("16: `dial_timeout` is \"3x\", which is not a length of time: {time}"),
        ),
        (
            "dial_timeout = \"\"",
            format!("16: `dial_timeout` is \"\", which is not a length of time: {time}"),
        ),
        (
            "dial_timeout = \"5M\"",
            format!(
                "16: `dial_timeout` is \"5M\", and `M` is not a unit (did you mean \"5m\"?): {time}"
            ),
        ),
        (
            "dial_timeout = \"2 hours\"",
            format!(
                "16: `dial_timeout` is \"2 hours\", and `hours` is not a unit (did you mean \"2h\"?): {time}"
            ),
        ),
        (
            "dial_timeout = \"99999999999999999999d\"",
            format!(
                "16: `dial_timeout` is \"99999999999999999999d\", which is not a length of time: {time}"
            ),
        ),
        (
            "dial_timeout = \"off\"",
            format!("16: `dial_timeout` is \"off\", which is not a length of time: {time}"),
        ),
        (
            "idle_timeout = \"of\"",
            format!("16: `idle_timeout` is \"of\", which is not a length of time: {time}, or \"off\""),
        ),
        (
            "dial_timeout = \"é\\n\"",
            format!("16: `dial_timeout` is \"é\\n\", which is not a length of time: {time}"),
        ),
        // Not a whole number that fits.
        (
            "waiting_max = -1",
            format!("15: `waiting_max` is -1; it must be a whole number from 0 to {}", usize::MAX),
        ),
        (
            "start = 99999999999999999999",
            format!(
                "9: `start` is 99999999999999999999; it must be a whole number from 0 to {}",
                usize::MAX
            ),
        ),
        // Out of range.
        ("dial_timeout = \"2h\"", "16: dial_timeout is 7200s; it must be 1ms to 1h".into()),
        (
            "dial_patience = \"9ms\"",
            "17: dial_patience is 9ms; it must be 10ms to 1h, or off".into(),
        ),
        (
            "ejection = \"off\"",
            "12: `ejection` must be true or false; this is a string".into(),
        ),
        (
            "probe_interval_min = \"9ms\"",
            "22: probe_interval_min is 9ms; it must be 10ms to 1h".into(),
        ),
        (
            "probe_interval_max = \"2h\"",
            "22: probe_interval_max is 7200s; it must be 10ms to 1h".into(),
        ),
        (
            "probe_interval_max = \"1ms\"",
            "22: probe_interval_max is 1ms; it must be 10ms to 1h".into(),
        ),
        (
            "probe_interval_min = \"6s\"",
            "22: `probe_interval_min` (6s) is above `probe_interval_max` (5s): raise the one or \
             lower the other"
                .into(),
        ),
        (
            "probe_interval_max = \"100ms\"",
            "22: `probe_interval_min` (250ms) is above `probe_interval_max` (100ms): raise the one \
             or lower the other"
                .into(),
        ),
        ("probes_max = 1025", "14: probes_max is 1025; it must be 1 to 1024".into()),
        ("probes_max = 0", "14: probes_max is 0; it must be 1 to 1024".into()),
        ("cut_silent = \"999ms\"", "14: cut_silent is 999ms; it must be 1s to 24h, or off".into()),
        ("cut_silent = 5", format!("14: `cut_silent` is an integer: {time}, or \"off\"")),
        ("empty = \"wiat\"", "9: `empty` is \"wiat\": write \"reset\" or \"wait\"".into()),
        ("empty = true", "9: `empty` must be a string; this is a boolean".into()),
        (
            "seed = \"x\"",
            "8: `seed` must be a whole number without quotes; this is a string".into(),
        ),
        ("dial_attempts_max = 17", "21: dial_attempts_max is 17; it must be 1 to 16".into()),
        ("dial_time_max = \"0s\"", "17: dial_time_max is 0ns; it must be 1ms to 1h".into()),
        ("waiting_max = 1000001", "15: waiting_max is 1000001; it must be 0 to 1000000".into()),
        ("waiting_timeout = \"0ms\"", "19: waiting_timeout is 0ns; it must be 1ms to 1h".into()),
        (
            "half_close_timeout = \"8d\"",
            "22: half_close_timeout is 691200s; it must be 1ms to 7d, or off".into(),
        ),
        (
            "idle_timeout = \"8d\"",
            "16: idle_timeout is 691200s; it must be 1ms to 7d, or off".into(),
        ),
        ("max_connections = 0", "19: max_connections is 0; it must be 1 or more".into()),
        (
            "removal = { drain = \"25h\" }",
            "21: removal is 90000s; it must be abort, or drain for 1ms to 24h".into(),
        ),
        ("backends_max = 0", "16: backends_max is 0; it must be 1 to 10000000".into()),
        (
            "peer_timeout = \"4999ms\"",
            "16: peer_timeout is 4.999s; it must be 5s to 24h, or off".into(),
        ),
        (
            "shutdown_timeout = \"24h 1s\"",
            "20: shutdown_timeout is 86401s; it must be 0s to 24h".into(),
        ),
        ("dial_from = []", "13: `dial_from` is empty: give at least one".into()),
        ("dial_from = 5", "13: `dial_from` must be a string; this is an integer".into()),
        (
            "dial_from = \"db.example\"",
            "13: `dial_from` has \"db.example\": write an IP address of this machine, such as \
             \"10.0.0.5\""
                .into(),
        ),
        (
            "dial_from = [\"10.0.0.5\", \"224.0.0.1\"]",
            "13: `dial_from` has \"224.0.0.1\", which is not the address of a machine: give one of this machine"
                .into(),
        ),
        // Of a form of its own.
        ("removal = \"drain\"", format!("11: `removal` is \"drain\": {removal}")),
        ("removal = {}", format!("11: `removal` has no `drain`: {removal}")),
        ("removal = { dran = \"1s\" }", "13: unknown key `dran`: did you mean `drain`?".into()),
        (
            "removal = { drain = \"1s\", x = 1 }",
            "27: unknown key `x` in `removal`: expected `drain`".into(),
        ),
        ("removal = { drain = 5 }", format!("21: `drain` is an integer: {time}")),
    ] {
        assert_eq!(problems(&with(line)), [format!("3:{expected}")], "{line}");
    }
}

#[test]
fn a_bad_number_of_workers_is_told_with_its_place_and_remedy() {
    for (line, expected) in [
        ("workers = 0", "1:11: `workers` is 0; it must be 1 to 1024"),
        ("workers = 1025", "1:11: `workers` is 1025; it must be 1 to 1024"),
        (
            "workers = -1",
            &format!("1:11: `workers` is -1; it must be a whole number from 0 to {}", usize::MAX),
        ),
        (
            "workers = \"all\"",
            "1:11: `workers` must be a whole number without quotes; this is a string",
        ),
        ("worker = 1", "1:1: unknown key `worker`: did you mean `workers`?"),
    ] {
        assert_eq!(problems(&format!("{line}\n{}", with(""))), [expected], "{line}");
    }
    assert_eq!(parse(&format!("workers = 1024\n{}", with(""))).unwrap().workers, Some(1024));
}

#[test]
fn a_key_that_is_misspelt_is_never_ignored() {
    let all = fields::known().iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    assert!(
        all.starts_with("`listen`, `backends`, `source`, `check`, `dial_timeout`")
            && all.contains("`start`")
    );
    for (line, expected) in [
        ("dail_timeout = \"3s\"", "unknown key `dail_timeout`: did you mean `dial_timeout`?".into()),
        ("peer_timout = 3", "unknown key `peer_timout`: did you mean `peer_timeout`?".into()),
        ("tcp_user_timeout = \"2m\"", "`tcp_user_timeout` is now `peer_timeout`, the time after which a peer that doesn't answer counts as dead (\"60s\"): rename it".into()),
        ("Listen = 3", "unknown key `Listen`: did you mean `listen`?".into()),
        ("lisetn = 3", "unknown key `lisetn`: did you mean `listen`?".into()),
        ("listenn = 3", "unknown key `listenn`: did you mean `listen`?".into()),
        ("sat = 1", format!("unknown key `sat` in `web`: expected {all}")),
        ("foo = 1", format!("unknown key `foo` in `web`: expected {all}")),
        ("\"\" = 1", format!("unknown key `` in `web`: expected {all}")),
        ("x.y = 1", "unknown table `x` in `web`: if the dot is part of the service's name, write [services.\"web.x\"]".into()),
    ] {
        assert_eq!(problems(&with(line)), [format!("3:1: {expected}")], "{line}");
    }
    // One slip, one problem: neither is the right key missing too.
    for (text, expected) in [
        (
            "[services.web]\nlisten = \"[::]:1\"\nbackend = {}",
            "3:1: unknown key `backend`: did you mean `backends`?",
        ),
        ("[service.web]\nlisten = 1", "1:2: unknown key `service`: did you mean `services`?"),
        ("x = 1", "1:1: unknown key `x` in the file: expected `services`, `workers`"),
        ("start = 1", "1:1: `start` belongs to a service: write [services.NAME] above it"),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn what_a_service_cannot_do_without_is_missed() {
    let listen = "1:11: `web` has no `listen`: write for example listen = \"127.0.0.1:8080\"";
    let backends = "1:11: `web` has no `backends`: write a table of them, or backends = {} if there should be none";
    assert_eq!(problems("[services.web]"), [listen, backends]);
    assert_eq!(problems("[services.web]\nbackends = {}"), [listen]);
    assert_eq!(problems("[services.web]\nlisten = \"127.0.0.1:1\""), [backends]);
    assert_eq!(
        problems("[services.web]\nlisten = []\nbackends = {}"),
        ["2:10: `listen` is empty: give at least one address"]
    );
    for (text, expected) in [
        ("services = 5", "1:12: `services` must be tables [services.NAME]; this is an integer"),
        (
            "[services]\nweb = 5",
            "2:7: a service must be one table, [services.web]; this is an integer",
        ),
        (
            "\n[[services.web]]",
            "2:1: a service must be one table, [services.web]; this is an array",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
    for (name, expected) in [
        ("\"\"", ["1:11: a service's name is empty: write [services.NAME]"].as_slice()),
        ("\"a b\"", &["1:11: `a b` can't name a service: use letters, digits, `-`, `_` and `.`"]),
        ("\"a/é\"", &["1:11: `a/é` can't name a service: use letters, digits, `-`, `_` and `.`"]),
        ("\"a.b-C_9\"", &[]),
    ] {
        let text = format!("[services.{name}]\nlisten = \"127.0.0.1:1\"\nbackends = {{}}");
        assert_eq!(problems(&text), expected, "{name}");
    }
}

#[test]
fn a_bad_address_is_told_where_it_stands() {
    let listen =
        |value: &str| problems(&format!("[services.a]\nbackends = {{}}\nlisten = {value}"));
    let form = "\"HOST:PORT\", \"[IPV6]:PORT\" or \"unix:/PATH\"";
    assert_eq!(
        listen("5"),
        [format!("3:10: `listen` must be a string, {form}; this is an integer")]
    );
    assert_eq!(
        listen("[\"127.0.0.1\", \"[::1]:80\",\n  {}, \"a.b:80\"]"),
        [
            "3:11: `127.0.0.1` has no port: write HOST:PORT, [IPV6]:PORT or unix:/PATH".into(),
            format!("4:3: `listen` must be a string, {form}; this is a table"),
            "4:7: `a.b:80` is a name: listen at an IP address, such as 127.0.0.1:80 or [::]:80"
                .into(),
        ]
    );
    let backends = |value: &str| {
        problems(&format!(
            "[services.a]\nlisten = [\"127.0.0.1:80\", \"unix:/a\"]\nbackends_max = 3\nbackends = {value}"
        ))
    };
    assert_eq!(
        backends("[]"),
        ["4:12: `backends` must be a table, such as { a = \"127.0.0.1:9001\" }; this is an array"]
    );
    assert_eq!(
        backends("{ b = \"é:1\",\n\"é\" = \"x:0\", c = 5 }"),
        [
            "4:18: `é` is no host: write an IP address or a host name".into(),
            "5:7: the target x:0 of é is invalid: port 0 can't be dialled: give the backend's port"
                .into(),
            format!("5:18: a backend's address must be a string, {form}; this is an integer"),
        ]
    );
    let itself = "is invalid: the balancer itself listens at";
    assert_eq!(
        backends("{ a = \"unix:/a\", b = \"localhost:80\", c = \"127.0.0.1:81\" }"),
        [
            format!("4:18: the target unix:/a of a {itself} unix:/a: give another address"),
            format!(
                "4:33: the target localhost:80 of b {itself} 127.0.0.1:80: give another address"
            ),
        ]
    );
    assert_eq!(
        backends("{ \"\" = \"a:1\" }"),
        ["4:14: the backend at a:1 has an empty key: name it"]
    );
    assert_eq!(backends("{ \"\" = 5 }").len(), 2);
    assert_eq!(backends("{ a = \"a:1\", b = \"a:1\", c = \"a:1\" }"), [""; 0]);
    assert_eq!(
        backends("{ d = \"a:1\", a = \"a:1\", c = \"a:1\", b = \"a:1\" }"),
        [
            "4:14: 4 backends, and at most 3 are allowed; d is the first too many: remove some, or raise `backends_max`"
        ]
    );
}

#[test]
fn two_listeners_never_share_an_address() {
    let text = "[services.b]\nlisten = [\"127.0.0.1:80\", \"127.0.0.1:80\", \"[::]:0\", \"[::]:0\"]\nbackends = {}\n\
                [services.a]\nlisten = [\"127.0.0.2:80\", \"127.0.0.1:80\", \"[::]:0\"]\nbackends = {}\n";
    // Port 0 is another port for each service, but one socket for each.
    let twice = |address| {
        format!(
            "`b` listens at {address} already, line 2: give each listener an address of its own"
        )
    };
    let expected = [("2:27", "127.0.0.1:80"), ("2:53", "[::]:0"), ("5:27", "127.0.0.1:80")];
    assert_eq!(problems(text), expected.map(|(at, address)| format!("{at}: {}", twice(address))));
}

#[test]
fn services_that_lead_to_each_other_in_a_circle_are_told_and_a_chain_is_none() {
    let text = |last: &str| {
        format!(
            "[services.x]\nlisten = \"127.0.0.1:80\"\nbackends = {{ k = \"127.0.0.1:81\" }}\n\
             [services.y]\nlisten = \"0.0.0.0:81\"\nbackends = {{ l = \"unix:/run/z\" }}\n\
             [services.z]\nlisten = \"unix:/run/z\"\nbackends = {{ a = \"10.0.0.1:80\", m = {last:?} }}\n"
        )
    };
    let message = "m leads to the service `x`, which leads back to `z`: give another address";
    assert_eq!(problems(&text("localhost:80")), [format!("9:37: {message}")]);
    assert!(problems(&text("127.0.0.1:82")).is_empty());
}

#[test]
fn an_address_that_another_takes_in_is_told_before_the_program_starts() {
    let text = "[services.b]\nlisten = [\"0.0.0.0:80\", \"[::]:81\", \"[::1]:80\"]\nbackends = {}\n\
                [services.a]\nlisten = [\"[::]:80\", \"127.0.0.1:81\", \"[::]:82\"]\nbackends = {}\n";
    let taken = |other, wide, narrow| {
        format!(
            "`b` listens at {other} already, line 2, and {wide} covers {narrow}: keep one of them"
        )
    };
    let expected = [
        format!("5:11: {}", taken("0.0.0.0:80", "[::]:80", "0.0.0.0:80")),
        format!("5:22: {}", taken("[::]:81", "[::]:81", "127.0.0.1:81")),
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn an_error_of_syntax_is_told_with_a_remedy() {
    for (line, expected) in [
        ("dial_timeout = 3s", "3:16: `3s` isn't a TOML value: put text in quotes, \"3s\""),
        ("dial_timeout =", "3:15: the value is missing: write one after the `=`"),
        ("start = 1.2.3.4:5", "3:12: invalid float: put quotes around the value if it is text"),
        ("start = 01", "3:9: unexpected leading zero"),
        ("start = 1\nstart = 2", "4:1: duplicate key `start`: keep one of the two"),
        ("dial_timeout = \"3s", "3:19: invalid basic string, expected `\"`"),
        ("start 5", "3:7: key with no value, expected `=`"),
        (
            "start = [",
            "4:10: unexpected `=` in array, expected value, `]`; or a `]` or `}` is missing above",
        ),
        ("[services.b", "3:12: unclosed table, expected `]`"),
    ] {
        let found = problems(&with(line));
        // The value that is no array is wrong anyhow.
        let found: Vec<_> =
            found.iter().filter(|found| !found.contains("this is an array")).collect();
        assert_eq!(found, [expected], "{line}");
    }
}

#[test]
fn an_error_of_syntax_hides_nothing_but_what_it_may_have_distorted() {
    // A bad value hides its own line only.
    let text =
        "[services.a]\nlisten = 1.2.3.4:1\nfoo = 1\nstart = -1\n[services.b]\nlisten = 5\nx = \n";
    assert_eq!(places(text), ["2:13", "3:1", "4:9", "6:10", "7:5"]);
    // A key that is there twice hides nothing.
    let text = with("removal = { drain = 5, drain = 6, x = 1 }");
    assert_eq!(places(&text), ["3:21", "3:24", "3:35"]);
    // A bad header hides its table: `foo` and the second `listen` are not where they seem to be.
    let text = "[services.a]\nlisten = 5\n[services.b\nfoo = 1\nlisten = 6\n[services.\"c c\"]\nlisten = 7\n";
    assert_eq!(places(text), ["2:10", "3:12", "6:11", "7:10"]);
    for line in
        ["services.b]", "[[services.b]", "services:", "<<<<<<< HEAD", "=", "x = ]", "x = {a 1}"]
    {
        let text = format!("[services.a]\nlisten = 5\n{line}\n[services.c]\nlisten = 7\n");
        let found = places(&text);
        assert_eq!(
            (found.len(), found[0].as_str(), found[2].as_str()),
            (3, "2:10", "5:10"),
            "{line}"
        );
        assert!(found[1].starts_with("3:"), "{line}");
    }
    // A bracket that is never closed takes all that follows for its own.
    let text =
        "[services.a]\nstart = 3s\nlisten = [\"a:1\"\nbackends = {}\n[services.b]\nlisten = 5\n";
    assert_eq!(places(text), ["2:9", "3:11", "4:1"]);
}

#[test]
fn a_header_without_backends_is_no_empty_set() {
    let text = |rest: &str| format!("[services.a]\nlisten = \"127.0.0.1:1\"\n{rest}");
    let message = "`backends` is empty: write backends = {} if there should be none";
    assert_eq!(problems(&text("[services.a.backends]\n")), [format!("3:13: {message}")]);
    assert_eq!(problems(&text("[services.a.backends]\na = \"127.0.0.1:2\"\n")).len(), 0);
    assert_eq!(problems(&text("backends = { }\n")).len(), 0);
}

#[test]
fn problems_come_in_order_with_columns_in_characters() {
    let text = "[services.\"é\"]\nbackends = { \"ü€\" = 5 }\r\n\tlisten = 6\r\n[services.a]\n";
    let problems = parse(text).unwrap_err();
    let places: Vec<_> = problems.iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(1, 11), (2, 21), (3, 11), (4, 11), (4, 11)]);
    assert_eq!(problems[1].source_line, "backends = { \"ü€\" = 5 }");
    // A byte order mark takes no column.
    let marked = parse(&format!("\u{feff}{text}")).unwrap_err();
    assert_eq!(marked, problems);
}

#[test]
fn a_problem_is_shown_with_its_line_and_a_mark_below_it() {
    let text = with("\twaiting_max = \"é\"");
    let problem = &parse(&text).unwrap_err()[0];
    let expected = "a/b.toml:3:16: `waiting_max` must be a whole number without quotes; this is a string\n  \
                    |\n3 |  waiting_max = \"é\"\n  |                ^";
    assert_eq!(problem.show(Path::new("a/b.toml")), expected);
    assert_eq!(problem.one_line(Path::new("a/b.toml")), expected.lines().next().unwrap());
    // At the end of a text, there is nothing above the mark.
    let missing = &parse("x =").unwrap_err()[0];
    assert!(
        missing.show(Path::new("f")).ends_with("\n  |\n1 | x =\n  |    ^"),
        "{}",
        missing.show(Path::new("f"))
    );
}

#[test]
fn a_long_line_or_value_makes_no_long_message() {
    let long = "x".repeat(100_000);
    let problems = parse(&with(&format!("removal = \"{long}\" # {long}"))).unwrap_err();
    let problem = &problems[0];
    assert_eq!((problems.len(), problem.line, problem.column), (1, 3, 11));
    assert!(
        problem.message.ends_with("x\": write \"abort\" or { drain = \"30s\" }"),
        "{}",
        problem.message
    );
    assert!(problem.message.chars().count() < 600 && problem.source_line.chars().count() < 300);
    let shown = problem.show(Path::new("f"));
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[2].chars().nth(lines[3].len() - 1), Some('"'), "the mark is below the value");
    // The same where the line is cut on its left.
    let problems =
        parse(&with(&format!("waiting_max = 1 # {long}\nremoval = {{ {long} = 1 }}"))).unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (4, 11));
    let wide = format!(
        "[services]\na = {{ listen = \"[::]:1\", backends = {{ a = \"unix:/{long}\" }}, start = -1 }}"
    );
    let problem = parse(&wide).unwrap_err().pop().unwrap();
    assert!(problem.source_line.chars().count() < 300);
    let shown = problem.show(Path::new("f"));
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[2].chars().nth(lines[3].len() - 1), Some('-'), "{shown}");
}

#[test]
fn a_flood_of_problems_is_cut_and_counted() {
    let backends: String = (0..1500).map(|n| format!("k{n} = 5\n")).collect();
    let text = format!("[services.a]\nlisten = \"[::]:1\"\n[services.a.backends]\n{backends}");
    let problems = parse(&text).unwrap_err();
    assert_eq!(problems.len(), 20);
    assert_eq!((problems[18].line, problems[19].line), (22, 23));
    assert_eq!(
        problems[19].message,
        "there are 1481 more problems from here on: correct the first ones"
    );
    assert_eq!(problems.iter().map(|problem| problem.count).sum::<usize>(), 1500);
}

#[test]
fn nothing_in_a_file_can_command_a_terminal() {
    let text = with("removal = \"\\u001b[2J\\n\" # \u{1b}[2J");
    for problem in parse(&text).unwrap_err() {
        let shown = problem.show(Path::new("f"));
        assert_eq!(shown.lines().count(), 4, "{shown}");
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }
}

#[test]
fn a_file_in_another_encoding_is_told_at_its_first_bad_byte() {
    let message = "is not UTF-8: save the file as UTF-8";
    let problems = parse_bytes(b"# \xc3\xa9\n# \xc3\xa9 \xff\xfe x\n").unwrap_err();
    assert_eq!((problems.len(), problems[0].line, problems[0].column), (1, 2, 5));
    assert_eq!(problems[0].message, format!("the byte 0xff {message}"));
    assert_eq!(problems[0].source_line, "# é \u{fffd}\u{fffd} x");
    // Cut within a character, at the very end.
    let cut = parse_bytes(b"a\xe2\x82").unwrap_err();
    assert_eq!((cut[0].line, cut[0].column), (1, 2));
    assert_eq!(parse_bytes(FULL.as_bytes()), parse(FULL));
}

#[test]
fn a_file_is_loaded_or_the_error_names_it() {
    let good = Scratch::new("good", FULL.as_bytes());
    assert_eq!(load(&good.0).unwrap(), parse(FULL).unwrap());

    let bad = Scratch::new("bad", b"x = 1\ny = 2\n");
    let error = load(&bad.0).unwrap_err();
    let name = bad.0.display();
    assert_eq!(
        error.to_string(),
        format!(
            "{name}:1:1: unknown key `x` in the file: expected `services`, `workers`\n\
             {name}:2:1: unknown key `y` in the file: expected `services`, `workers`"
        )
    );

    let missing = bad.0.join("missing");
    let missing = load(&missing).unwrap_err();
    assert!(std::error::Error::source(&missing).is_some());
    let none = Path::new("/nonexistent/tinylb.toml");
    assert_eq!(
        load(none).unwrap_err().to_string(),
        "can't read /nonexistent/tinylb.toml: No such file or directory (os error 2): check the path"
    );
    let directory = load(&std::env::temp_dir()).unwrap_err().to_string();
    assert!(
        directory.ends_with("it isn't a regular file: give the path of a TOML file"),
        "{directory}"
    );
}

#[test]
fn every_range_has_an_owner() {
    let mut service = service(&[], &[]);
    service.shutdown_timeout = DAY + Duration::from_nanos(1);
    assert_eq!(service.check_ranges().unwrap_err().name, "shutdown_timeout");
    service.peer_timeout = Some(Duration::ZERO);
    assert_eq!(service.check_ranges().unwrap_err().name, "peer_timeout");
    service.settings.waiting_max = usize::MAX;
    assert_eq!(service.check_ranges().unwrap_err().name, "waiting_max");
}

/// What holds of every input: no panic, and each problem has a place in the text.
fn check_any(bytes: &[u8]) {
    let Err(problems) = parse_bytes(bytes) else { return };
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    assert!(!problems.is_empty(), "{text:?}");
    let lines: Vec<_> = text.split('\n').collect();
    let mut last = (0, 0);
    for problem in problems {
        let place = (problem.line, problem.column);
        assert!(last <= place, "in order: {text:?}");
        last = place;
        let shown = problem.show(Path::new("f"));
        assert!(problem.line >= 1 && problem.line <= lines.len(), "{shown}\n{text:?}");
        let length = lines[problem.line - 1].chars().count();
        assert!(problem.column >= 1 && problem.column <= length + 1, "{shown}\n{text:?}");
        assert!(!problem.message.is_empty() && shown.lines().count() == 4, "{shown}\n{text:?}");
    }
}

#[test]
fn no_input_whatever_makes_it_panic() {
    let full = FULL.as_bytes();
    for length in 0..=full.len() {
        check_any(&full[..length]);
        check_any(&full[length..]);
    }
    // Knuth's MMIX generator: the same inputs on every run.
    let mut state: u64 = 1;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let pieces: [&[u8]; 12] = [
        b"\"",
        b"'''",
        b"[",
        b"]",
        b"{",
        b"}",
        b"=",
        b"\n",
        b".",
        b"\xff",
        b"\xc3\xa9",
        b"services",
    ];
    for _ in 0..6000 {
        let mut bytes = full.to_vec();
        for _ in 0..=random(4) {
            let place = random(bytes.len());
            match random(4) {
                0 => bytes[place] = random(256) as u8,
                1 => drop(bytes.remove(place)),
                2 => drop(bytes.splice(place..place, pieces[random(pieces.len())].iter().copied())),
                _ => drop(bytes.drain(place..(place + random(40)).min(bytes.len()))),
            }
        }
        check_any(&bytes);
    }
    for piece in pieces {
        check_any(&piece.repeat(3000));
    }
}

/// A service with this source.
fn source(source: &str) -> String {
    format!("[services.a]\nlisten = \"127.0.0.1:1\"\nsource = {source}\n")
}

#[test]
fn every_key_of_a_source_reaches_its_setting() {
    let text = source(
        "{ dns = \"_db._tcp.example.org\", servers = [\"10.0.0.2\", \"[::1]:5353\"], \
         refresh_min = \"100ms\", refresh_max = \"24h\", timeout = \"2s\", family = \"ipv6\", \
         bad_entries = \"leave_out\", max_stale = \"1h\", \
         floor = { removed_percent_max = 50, hold = \"5m\" }, \
         keep_absent = \"30s\", last_known = \"/var/known\" }",
    );
    let mut options = DnsOptions::default();
    options.servers = ["10.0.0.2:53", "[::1]:5353"].map(|text| text.parse().unwrap()).into();
    options.refresh_min = Duration::from_millis(100);
    options.refresh_max = DAY;
    options.timeout = Duration::from_secs(2);
    options.family = DnsFamily::Ipv6;
    options.max_stale = Some(Duration::from_secs(3600));
    let mut settings = SourceSettings::default();
    settings.bad_entries = BadEntries::LeaveOut;
    settings.max_stale = Some(Duration::from_secs(3600));
    settings.floor = Some(Floor { removed_percent_max: 50, hold: Duration::from_secs(300) });
    settings.keep_absent = Some(Duration::from_secs(30));
    let followed = Followed {
        place: Place::Dns("_db._tcp.example.org".parse().unwrap(), options),
        settings,
        last_known: Some("/var/known".into()),
    };
    let expected = Backends::Followed(Box::new(followed));
    assert_eq!(parse(&text).unwrap().services["a"].backends, expected);

    let least = parse(&source("{ dns = \"db:1\", max_stale = \"off\" }")).unwrap();
    let followed = Followed::new(Place::Dns("db:1".parse().unwrap(), DnsOptions::default()));
    assert_eq!(least.services["a"].backends, Backends::Followed(Box::new(followed)));
}

#[test]
fn a_source_that_is_no_good_is_told_with_its_remedy() {
    let told = |value: &str| problems(&source(value)).join("; ");
    for (value, expected) in [
        ("\"db:1\"", "3:10: `source` must be a table; this is a string"),
        ("{}", "3:10: `source` has no place: write for example { dns = "),
        ("{ dn = \"db:1\" }", "3:12: unknown key `dn`"),
        ("{ dns = \"db:1\", file = \"x\" }", "3:10: `source` has several places"),
        ("{ file = \"x\", timeout = \"1s\" }", "`timeout` is for `dns`: remove it"),
        ("{ file = \"\" }", "3:19: `file` is empty: give one"),
        ("{ file = 5 }", "3:19: `file` must be a string"),
        ("{ file = \"x\", last_known = \"x\" }", "`last_known` is the source itself"),
        ("{ dns = \"db:1\", servers = [] }", "`servers` is empty"),
        ("{ dns = \"db\" }", "3:18: `dns` isn't a valid name: "),
        ("{ dns = 5 }", "3:18: `dns` must be a string; this is an integer"),
        ("{ dns = \"db:1\", servers = \"db\" }", "`servers` has \"db\": write a server's IP"),
        ("{ dns = \"db:1\", refresh_min = \"1ms\" }", "is 1ms; it must be 100ms to 24h"),
        ("{ dns = \"db:1\", refresh_min = \"9m\" }", "`refresh_min` is above `refresh_max`"),
        ("{ dns = \"db:1\", family = \"v4\" }", "`family` is \"v4\": write \"ipv4\", \"ipv6\""),
        ("{ dns = \"db:1\", timeout = \"5\" }", "`timeout` is \"5\", without a unit"),
        ("{ dns = \"db:1\", bad_entries = \"x\" }", "write \"reject\" or \"leave_out\""),
        ("{ dns = \"db:1\", max_stale = \"1ms\" }", "max_stale is 1ms; it must be 1s to"),
        (
            "{ dns = \"db:1\", keep_absent = \"500ms\" }",
            "keep_absent is 500ms; it must be 1s to 24h, or off",
        ),
        ("{ dns = \"db:1\", floor = 50 }", "`floor` must be a table; this is an integer: write"),
        ("{ dns = \"db:1\", floor = {} }", "`floor` has no `hold`: write"),
        (
            "{ dns = \"db:1\", floor = { removed_percent_max = 100, hold = \"1s\" } }",
            "removed_percent_max is 100; it must be 1 to 99",
        ),
    ] {
        assert!(told(value).contains(expected), "{value}: {}", told(value));
    }
    let both = source("{ dns = \"db:1\" }") + "backends = {}\n";
    let expected = "3:1: there are `backends` and a `source`: keep one of them";
    assert_eq!(problems(&both), [expected]);
    assert_eq!(problems("[services.a]\nlisten = \"[::]:1\"\nsorce = {}\n").len(), 1);
}

#[test]
fn two_services_never_keep_their_backends_in_one_file() {
    let service = |name: &str, port: usize, known: &str| {
        format!(
            "[services.{name}]\nlisten = \"127.0.0.1:{port}\"\nsource = {{ dns = \"db:1\", \
             last_known = \"{known}\" }}\n"
        )
    };
    // By their places in the file, not by their names.
    let text = service("b", 1, "known") + &service("a", 2, "./known") + &service("c", 3, "known");
    let expected = "`b` keeps its backends in known already, line 3: give each service a file of \
                    its own";
    assert_eq!(problems(&text), ["6:39", "9:39"].map(|at| format!("{at}: {expected}")));
    let good = service("b", 1, "b/known") + &service("a", 2, "a/known");
    assert_eq!(problems(&good), [""; 0]);
}

#[test]
fn a_path_is_relative_to_the_file_that_names_it() {
    let text = source("{ file = \"b.toml\", last_known = \"/known\" }");
    let scratch = Scratch::new("relative", text.as_bytes());
    let directory = scratch.0.parent().unwrap();
    let config = load(&scratch.0).unwrap();
    let Backends::Followed(followed) = &config.services["a"].backends else { panic!("no source") };
    assert_eq!(followed.place, Place::File(directory.join("b.toml")));
    assert_eq!(followed.last_known, Some("/known".into()));
}

#[test]
#[cfg(feature = "etcd")]
fn every_key_of_etcd_reaches_its_option() {
    let text = source(
        "{ etcd = { endpoints = [\"https://a:1\", \"b:2\"], prefix = \"/lb/web/\", user = \"lb\", \
         password_file = \"pw\", ca = \"ca.pem\", certificate = \"c.pem\", \
         certificate_key = \"/c.key\", domain = \"etcd.test\", resync = \"30s\", \
         timeout = \"1s\" }, last_known = \"known\" }",
    );
    let scratch = Scratch::new("etcd", text.as_bytes());
    let directory = scratch.0.parent().unwrap();
    let missing = load(&scratch.0).unwrap_err().to_string();
    assert!(
        missing.contains("can't read the etcd user's password in") && missing.contains("pw"),
        "{missing}"
    );
    fs::write(directory.join("pw"), "secret\r\n").unwrap();
    let config = load(&scratch.0).unwrap();
    let Backends::Followed(followed) = &config.services["a"].backends else { panic!("no source") };
    assert_eq!(followed.last_known, Some(directory.join("known")));
    assert_eq!(followed.place.to_string(), "etcd https://a:1,b:2 /lb/web/");
    let Place::Etcd(etcd) = &followed.place else { panic!("no etcd") };
    let options = etcd.options().unwrap();
    let mut expected = tinylb_tokio::EtcdOptions::new(["https://a:1", "b:2"], "/lb/web/");
    expected.user = Some(("lb".into(), "secret".into()));
    let mut tls = tinylb_tokio::EtcdTls::new(directory.join("ca.pem"));
    tls.certificate = Some(directory.join("c.pem"));
    tls.key = Some("/c.key".into());
    tls.domain = Some("etcd.test".into());
    expected.tls = Some(tls);
    expected.resync = Duration::from_secs(30);
    expected.timeout = Duration::from_secs(1);
    assert_eq!(options, expected);
    assert!(!format!("{config:?}").contains("secret"));

    // Another password is another source.
    fs::write(directory.join("pw"), "other").unwrap();
    assert_ne!(load(&scratch.0).unwrap(), config);
    fs::remove_file(directory.join("pw")).unwrap();
}

#[test]
#[cfg(feature = "etcd")]
fn an_etcd_that_is_no_good_is_told_with_its_remedy() {
    let told = |value: &str| problems(&source(&format!("{{ etcd = {value} }}"))).join("; ");
    for (value, expected) in [
        ("\"a:1\"", "3:19: `etcd` must be a table; this is a string: write { endpoints = "),
        ("{}", "3:19: `etcd` has no `endpoints`: write { endpoints = "),
        ("{ endpoints = \"a:1\" }", "3:19: `etcd` has no `prefix`: write"),
        ("{ endpoints = [], prefix = \"/\" }", "`endpoints` is empty: give at least one"),
        ("{ endpoints = [5], prefix = \"/\" }", "`endpoints` must be a string"),
        ("{ endpoint = \"a:1\" }", "3:21: unknown key `endpoint`: did you mean `endpoints`?"),
        ("{ endpoints = \"a:1\", prefix = \"/lb\" }", "doesn't end in `/`"),
        ("{ endpoints = \"a\", prefix = \"/\" }", "is no endpoint of etcd: write http://HOST:PORT"),
        ("{ endpoints = \"https://a:1\", prefix = \"/\" }", "needs TLS"),
        (
            "{ endpoints = \"a:1\", prefix = \"/\", user = \"u\" }",
            "`user` needs `password_file` beside it",
        ),
        ("{ endpoints = \"a:1\", prefix = \"/\", domain = \"x\" }", "`domain` needs `ca` beside"),
        (
            "{ endpoints = \"a:1\", prefix = \"/\", ca = \"x\", certificate = \"x\" }",
            "a client certificate and its key go together",
        ),
        (
            "{ endpoints = \"a:1\", prefix = \"/\", resync = \"1ms\" }",
            "resync is 1ms; it must be 1s to 24h",
        ),
    ] {
        assert!(told(value).contains(expected), "{value}: {}", told(value));
    }
    let secret = source("{ etcd = { endpoints = [\"http://lb:secret@a:1\"], prefix = \"/\" } }");
    let problem = parse_bytes(secret.as_bytes()).unwrap_err().remove(0);
    let shown = problem.show(Path::new("f"));
    assert!(!shown.contains("secret") && shown.contains("\"http://*********@a:1\""), "{shown}");
    let several = "{ dns = \"db:1\", etcd = { endpoints = \"a:1\", prefix = \"/\" } }";
    assert!(problems(&source(several)).join("; ").contains("`source` has several places"));
    let foreign = "{ etcd = { endpoints = \"a:1\", prefix = \"/\" }, servers = \"10.0.0.1\" }";
    assert!(problems(&source(foreign)).join("; ").contains("`servers` is for `dns`: remove it"));
}

#[test]
#[cfg(not(feature = "etcd"))]
fn without_etcd_a_file_that_wants_it_is_refused_with_what_to_build() {
    let text = source("{ etcd = { endpoints = \"a:1\", prefix = \"/\" } }");
    let expected = "3:19: this tinylb was built without etcd: build it with `--features etcd`";
    assert_eq!(problems(&text), [expected]);
}

#[test]
fn a_length_of_time_has_units_that_nobody_can_mistake() {
    let ms = |text| duration(text).map(|time| time.as_millis()).ok();
    for (text, expected) in [
        ("5ms", 5),
        ("3s", 3_000),
        ("5m", 300_000),
        ("5min", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("1h 30m", 5_400_000),
        (" 1h30m5s ", 5_405_000),
        ("0", 0),
        ("0s", 0),
    ] {
        assert_eq!(ms(text), Some(expected), "{text}");
    }
    // Months, years and weeks differ, and so do the letters of those who write them.
    for text in ["5M", "1month", "1y", "1w", "5S", "5us", "5", "", " ", "s", "-5s", "1.5s", "5s x"]
    {
        assert_eq!(ms(text), None, "{text}");
    }
    assert_eq!(ms("18446744073709551615d"), None);
}
