//! What the pages in `docs/` list is what the program has: every key of the configuration, and every
//! metric. A key, a default or a metric that changes without its page fails here.

use std::collections::BTreeSet;

use serde_json::Value;
use tinylb_core::{CheckSettings, Settings, SourceSettings};
use tinylb_tokio::{DnsOptions, TcpOptions};

use crate::harness::{
    Backend, Tinylb, check, check_ranges, default_of, get, page, put, rows, time_of,
};

/// A key that resembles none.
const UNKNOWN: &str = "zzzzzzzzzzzzzzzz";

/// The tables of the configuration: the heading of each on the page, and a file with an unknown key
/// in that table.
fn tables() -> [(&'static str, String); 7] {
    let in_service = |line: &str| format!("[services.s]\nlisten = \"127.0.0.1:80\"\n{line}\n");
    [
        ("## Top level", format!("{UNKNOWN} = 1\n")),
        ("## `[services.NAME]`", in_service(&format!("{UNKNOWN} = 1"))),
        ("### `removal`", in_service(&format!("removal = {{ {UNKNOWN} = 1 }}"))),
        ("## `source = { … }`", in_service(&format!("source = {{ {UNKNOWN} = 1 }}"))),
        ("## `check = { … }`", in_service(&format!("check = {{ {UNKNOWN} = 1 }}"))),
        ("### `floor = { … }`", in_service(&format!("source = {{ floor = {{ {UNKNOWN} = 1 }} }}"))),
        ("### `etcd = { … }`", in_service(&format!("source = {{ etcd = {{ {UNKNOWN} = 1 }} }}"))),
    ]
}

fn names(rows: &[Vec<String>]) -> BTreeSet<String> {
    let names: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(names.len(), rows.len(), "a row is there twice: {names:?}");
    names
}

/// The keys that a table has, according to the program's complaint about an unknown one.
fn known_keys(text: &str) -> BTreeSet<String> {
    let report = check(text);
    let complaint = report.lines().find(|line| line.contains(&format!("unknown key `{UNKNOWN}`")));
    let complaint = complaint.unwrap_or_else(|| panic!("no complaint: {report}"));
    let (_, expected) = complaint.split_once(": expected ").unwrap();
    expected.split(", ").map(|key| key.trim_matches('`').to_string()).collect()
}

#[test]
fn the_page_on_the_configuration_has_every_key_and_no_other() {
    let page = page("configuration.md");
    for (heading, text) in tables() {
        assert_eq!(names(&rows(&page, heading)), known_keys(&text), "{heading}");
    }
}

#[test]
fn the_examples_on_the_page_on_the_configuration_are_good_files() {
    let page = page("configuration.md");
    let examples = page.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let reports: Vec<String> = examples.map(check).collect();
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(reports[0].contains("2 services, no problem"), "{reports:?}");
    assert!(reports[1].contains("1 services, no problem"), "{reports:?}");
}

#[test]
fn the_page_on_the_configuration_has_the_range_of_every_setting() {
    let page = page("configuration.md");
    let mut checked = 0;
    for (heading, before, after) in [
        ("## Top level", "", "\n"),
        ("## `[services.NAME]`", "[services.s]\n", "\n"),
        ("### `removal`", "[services.s]\nremoval = { ", " }\n"),
        ("## `source = { … }`", "[services.s]\nsource = { dns = \"a:1\", ", " }\n"),
        ("### `floor = { … }`", "[services.s]\nsource = { floor = { ", " } }\n"),
        ("## `check = { … }`", "[services.s]\ncheck = { tcp = true, ", " }\n"),
    ] {
        checked += check_ranges(&page, heading, before, after);
    }
    assert!(checked >= 32, "only {checked} ranges were checked");
}

#[test]
fn the_page_on_the_configuration_has_the_defaults_in_force() {
    let page = page("configuration.md");
    let default_of = |key| default_of(&page, "## `[services.NAME]`", key);
    let (own, tcp) = (Settings::default(), TcpOptions::default());
    for (key, time) in [
        ("dial_timeout", Some(own.dial_timeout)),
        ("dial_patience", own.dial_patience),
        ("dial_time_max", Some(own.dial_time_max)),
        ("probe_interval_min", Some(own.probe_interval_min)),
        ("probe_interval_max", Some(own.probe_interval_max)),
        ("cut_silent", own.cut_silent),
        ("waiting_timeout", Some(own.waiting_timeout)),
        ("half_close_timeout", own.half_close_timeout),
        ("idle_timeout", own.idle_timeout),
        ("delivery_timeout", Some(own.delivery_timeout)),
        ("peer_timeout", tcp.peer_timeout),
    ] {
        assert_eq!(time_of(&default_of(key)), time, "{key}");
    }
    for (key, count) in [
        ("dial_attempts_max", own.dial_attempts_max),
        ("probes_max", own.probes_max),
        ("waiting_max", own.waiting_max),
        ("backends_max", own.backends_max),
    ] {
        assert_eq!(default_of(key), count.to_string(), "{key}");
    }
    assert_eq!(default_of("ejection"), own.ejection.to_string());
    assert_eq!(default_of("empty"), format!("{:?}", own.empty).to_lowercase());
}

#[test]
fn the_page_on_the_configuration_has_the_defaults_of_a_check() {
    let page = page("configuration.md");
    let default_of = |key: &str| default_of(&page, "## `check = { … }`", key);
    let own = CheckSettings::default();
    for (key, time) in [("interval", own.interval), ("timeout", own.timeout)] {
        assert_eq!(humantime::parse_duration(&default_of(key)).unwrap(), time, "{key}");
    }
    for (key, count) in
        [("rise", own.rise), ("fall", own.fall), ("fall_unanswered", own.fall_unanswered)]
    {
        assert_eq!(default_of(key), count.to_string(), "{key}");
    }
}

#[test]
fn the_page_on_the_configuration_has_the_defaults_of_a_source() {
    let page = page("configuration.md");
    let default_of = |key| default_of(&page, "## `source = { … }`", key);
    let (dns, own) = (DnsOptions::default(), SourceSettings::default());
    for (key, time) in [
        ("refresh_min", Some(dns.refresh_min)),
        ("refresh_max", Some(dns.refresh_max)),
        ("timeout", Some(dns.timeout)),
        ("max_stale", own.max_stale),
        ("keep_absent", own.keep_absent),
    ] {
        assert_eq!(time_of(&default_of(key)), time, "{key}");
    }
    assert_eq!(default_of("family"), format!("{:?}", dns.family).to_lowercase());
    assert_eq!(default_of("bad_entries"), format!("{:?}", own.bad_entries).to_lowercase());
    assert_eq!((&*default_of("floor"), own.floor), ("none", None));
    assert!(default_of("servers").starts_with("those of"));
    assert!(dns.servers.is_empty());
}

#[test]
fn the_page_on_the_admin_address_has_every_metric_with_its_type_and_labels() {
    let a = Backend::echo("a");
    // Metrics about checks are there if there is one.
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--check-tcp"]);
    tinylb.line("backends replaced");
    let metrics = get(&tinylb.admin(), "/metrics").body;
    let page = page("admin.md");
    let rows = rows(&page, "## Metrics");
    let documented: BTreeSet<String> = rows
        .iter()
        .map(|row| {
            // Names in backticks; what is in parentheses are values.
            let outside = row[2].split('(').map(|part| part.rsplit(')').next().unwrap());
            let labels: Vec<&str> = outside.flat_map(|part| part.split(['`', ',', ' '])).collect();
            let labels: Vec<&str> = labels.into_iter().filter(|label| !label.is_empty()).collect();
            format!("{} {} {}", row[0], row[1], labels.join(","))
        })
        .collect();
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let exported: BTreeSet<String> = types
        .map(|name_and_type| {
            let name = name_and_type.split(' ').next().unwrap();
            let is_sample = |line: &&str| line.split(['{', ' ']).next() == Some(name);
            let sample = metrics.lines().find(is_sample).unwrap();
            let labels = sample.split_once('{').map_or("", |(_, labels)| labels);
            let names = labels.split(',').filter_map(|label| label.split_once('='));
            let names: Vec<&str> = names.map(|(name, _)| name).collect();
            format!("{name_and_type} {}", names.join(","))
        })
        .collect();
    assert_eq!(documented, exported);
    let reasons = self::rows(&page, "### Reasons");
    let prefix = "tinylb_connections_ended_total{service=\"default\",reason=\"";
    let exported = metrics.lines().filter_map(|line| line.strip_prefix(prefix));
    let exported: BTreeSet<String> =
        exported.map(|rest| rest.split('"').next().unwrap().to_string()).collect();
    assert_eq!(names(&reasons), exported);
}

#[test]
fn the_page_on_the_admin_address_has_every_field_of_its_answers() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--admin-write"]);
    tinylb.line("backends replaced");
    let (admin, page) = (tinylb.admin(), page("admin.md"));
    let fields = |object: &Value| object.as_object().unwrap().keys().cloned().collect();
    let services: BTreeSet<String> = fields(&get(&admin, "/services").json()["default"]);
    assert_eq!(names(&rows(&page, "## `GET /services`")), services);
    let report: BTreeSet<String> = fields(&put(&admin, "default", "{}").json());
    let documented = names(&rows(&page, "## `PUT /services/NAME/backends`"));
    assert_eq!(documented, report);
}
