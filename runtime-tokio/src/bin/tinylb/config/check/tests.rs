use super::*;
use crate::config::{Config, Problem, parse_bytes};

fn parse(check: &str, rest: &str) -> Result<Config, Vec<Problem>> {
    let text = format!("[services.s]\nlisten = \"127.0.0.1:1\"\ncheck = {check}\n{rest}\n");
    parse_bytes(text.as_bytes())
}

fn check(text: &str) -> CheckConfig {
    let config = parse(text, "backends = {}").unwrap_or_else(|problems| panic!("{problems:?}"));
    config.services["s"].check.clone().unwrap()
}

/// `COLUMN: message` of each problem, all of them in the check's line.
fn problems_with(check: &str, rest: &str) -> Vec<String> {
    let problems = parse(check, rest).err().unwrap_or_default();
    assert!(problems.iter().all(|problem| problem.line == 3), "{problems:?}");
    // From the value on.
    let column = |problem: &Problem| problem.column - "check = ".len();
    problems.iter().map(|problem| format!("{}: {}", column(problem), problem.message)).collect()
}

fn problems(check: &str) -> Vec<String> {
    problems_with(check, "backends = {}")
}

#[test]
fn every_key_of_a_check_reaches_its_setting() {
    let ms = Duration::from_millis;
    let all = r#"{ http = "/ready?full=1", port = 8008, host = "db", status = [200, "204-206"],
        interval = "2s", timeout = "500ms", rise = 2, fall = 3, fall_unanswered = 4,
        when_none = "all" }"#
        .replace('\n', " ");
    let full = check(&all);
    let expected = Question::Http {
        path: "/ready?full=1".into(),
        host: Some("db".into()),
        statuses: vec![200..=200, 204..=206],
        tls: None,
    };
    assert_eq!((full.question, full.port), (expected, NonZeroU16::new(8008)));
    let CheckSettings { interval, timeout, rise, fall, fall_unanswered, when_none, .. } =
        full.settings;
    assert_eq!((interval, timeout), (ms(2000), ms(500)));
    assert_eq!((rise, fall, fall_unanswered, when_none), (2, 3, 4, WhenNone::All));
    // One status needs no list.
    let one = check(r#"{ http = "/", status = 204 }"#);
    assert!(matches!(one.question, Question::Http { statuses, .. } if statuses == [204..=204]));
}

#[test]
fn a_role_fails_closed_and_liveness_fails_open_unless_that_is_configured() {
    let http = check(r#"{ http = "/primary" }"#);
    let question = Question::Http {
        path: "/primary".into(),
        host: None,
        statuses: vec![200..=200],
        tls: None,
    };
    let (settings, connections_max) = (CheckSettings::default(), 0);
    assert_eq!(http, CheckConfig { question, port: None, settings, connections_max });
    assert_eq!(http.settings.when_none, WhenNone::Empty);
    let tcp = check("{ tcp = true }");
    assert_eq!((tcp.question, tcp.settings.when_none), (Question::Tcp, WhenNone::All));
    let tcp = check("{ tcp = true, when_none = \"empty\" }");
    assert_eq!(tcp.settings.when_none, WhenNone::Empty);
    assert_eq!(
        parse_bytes(b"[services.s]\nlisten = \"[::1]:1\"\nbackends = {}\n").unwrap().services["s"]
            .check,
        None
    );
}

#[test]
fn a_check_that_is_no_good_is_refused_with_cause_and_remedy() {
    let time = "write a number with its unit in quotes, such as \"3s\", \"500ms\" or \"5m\"";
    let status = "which is no status: write for example 200, or \"200-299\"";
    for (check, expected) in [
        ("5", format!("1: `check` must be a table; this is an integer: {REMEDY}")),
        ("\"/\"", format!("1: `check` must be a table; this is a string: {REMEDY}")),
        ("{}", format!("1: `check` has none of `http`, `https` and `tcp`: {REMEDY}")),
        ("{ port = 1 }", format!("1: `check` has none of `http`, `https` and `tcp`: {REMEDY}")),
        (
            "{ http = \"/\", tcp = true }",
            "1: `check` has both `http` and `tcp`: keep one of them".into(),
        ),
        (
            "{ http = \"/\", https = \"/\" }",
            "1: `check` has both `http` and `https`: keep one of them".into(),
        ),
        ("{ http = \"/\", ca = \"f\" }", "15: `ca` is for `https`: remove it".into()),
        (
            "{ http = \"/\", certificate = \"f\" }",
            "15: `certificate` is for `https`: remove it".into(),
        ),
        (
            "{ http = \"/\", certificate_key = \"f\" }",
            "15: `certificate_key` is for `https`: remove it".into(),
        ),
        ("{ http = \"/\", domain = \"a\" }", "15: `domain` is for `https`: remove it".into()),
        ("{ tcp = true, domain = \"a\" }", "15: `domain` is for `https`: remove it".into()),
        ("{ htp = \"/\" }", "3: unknown key `htp`: did you mean `http`?".into()),
        (
            "{ tcp = false }",
            "9: `tcp` is false: write tcp = true, or http = \"/PATH\" instead".into(),
        ),
        ("{ tcp = 1 }", "9: `tcp` must be true or false; this is an integer".into()),
        (
            "{ http = \"primary\" }",
            "10: `primary` is no path of HTTP: write one such as /health, or /health?full=1".into(),
        ),
        ("{ http = \"\" }", "10: `http` is empty: give one, or leave it out".into()),
        ("{ http = 5 }", "10: `http` must be a string; this is an integer".into()),
        ("{ tcp = true, port = 0 }", "22: `port` is 0; it must be 1 to 65535".into()),
        ("{ tcp = true, port = 65536 }", "22: `port` is 65536; it must be 1 to 65535".into()),
        ("{ tcp = true, host = \"a\" }", "15: `host` is for `http` and `https`: remove it".into()),
        (
            "{ tcp = true, status = 200 }",
            "15: `status` is for `http` and `https`: remove it".into(),
        ),
        (
            "{ http = \"/\", host = \"a b\" }",
            "22: `a b` can't be a Host header: write a host name, with a port if need be".into(),
        ),
        (
            "{ http = \"/\", status = [200, 600] }",
            "24: 600 is no final status of HTTP: write numbers from 200 to 599".into(),
        ),
        (
            "{ http = \"/\", status = 99999 }",
            "24: 65535 is no final status of HTTP: write numbers from 200 to 599".into(),
        ),
        ("{ http = \"/\", status = [] }", "24: `status` is empty: give at least one".into()),
        ("{ http = \"/\", status = \"2xx\" }", format!("24: `status` has \"2xx\", {status}")),
        (
            "{ http = \"/\", status = \"300-200\" }",
            format!("24: `status` has \"300-200\", {status}"),
        ),
        (
            "{ tcp = true, interval = \"99ms\" }",
            "26: interval is 99ms; it must be 100ms to 1h".into(),
        ),
        ("{ tcp = true, interval = 1 }", format!("26: `interval` is an integer: {time}")),
        ("{ tcp = true, timeout = \"9ms\" }", "25: timeout is 9ms; it must be 10ms to 1m".into()),
        ("{ tcp = true, rise = 0 }", "22: rise is 0; it must be 1 to 100".into()),
        ("{ tcp = true, fall = 101 }", "22: fall is 101; it must be 1 to 100".into()),
        (
            "{ tcp = true, fall_unanswered = 99999999999 }",
            "33: fall_unanswered is 4294967295; it must be 1 to 100".into(),
        ),
        (
            "{ tcp = true, when_none = \"none\" }",
            "27: `when_none` is \"none\": write \"empty\" or \"all\"".into(),
        ),
    ] {
        assert_eq!(problems(check), [expected], "{check}");
    }
    // The next key isn't blamed for the one before.
    let two = problems("{ tcp = true, fall = 0, rise = 101 }");
    assert_eq!(two.len(), 2, "{two:?}");
    // The nearest that are good.
    for check in [
        "{ http = \"/\", status = \"200-599\", host = \"a:80\" }",
        "{ tcp = true, port = 65535, interval = \"1h\", timeout = \"1m\", rise = 100 }",
        "{ tcp = true, port = 1, interval = \"100ms\", timeout = \"10ms\", fall = 100 }",
    ] {
        assert_eq!(problems(check), [""; 0], "{check}");
    }
}

#[test]
fn what_a_check_cannot_be_combined_with_is_refused() {
    let floor = "floor = { removed_percent_max = 50, hold = \"5m\" }";
    let source = |settings: &str| format!("source = {{ file = \"f\", {settings} }}");
    let keep_absent = source("keep_absent = \"5s\"");
    let (http, tcp) = ("{ http = \"/primary\" }", "{ tcp = true }");
    let kept = "1: `keep_absent` of the source would keep backends that no longer pass the \
                `check`: remove one of the two";
    let held = "1: `floor` of the source would keep backends that no longer pass the `check`: \
                remove one of the two, or set when_none = \"all\"";
    assert_eq!(problems_with(http, &keep_absent), [kept]);
    assert_eq!(problems_with(tcp, &keep_absent), [kept]);
    assert_eq!(problems_with(http, &source(floor)), [held]);
    for (check, source) in [
        (tcp, source(floor)),
        ("{ http = \"/\", when_none = \"all\" }", source(floor)),
        (http, source("bad_entries = \"leave_out\"")),
    ] {
        assert_eq!(problems_with(check, &source), [""; 0], "{check} {source}");
    }
    let backends = "backends = { a = \"unix:/a\", b = \"127.0.0.1:2\" }";
    let no_port = "1: `check` asks at port 80, but a is a Unix socket, which has no ports: check it \
                   without a port, in a service of its own";
    assert_eq!(problems_with("{ tcp = true, port = 80 }", backends), [no_port]);
    assert_eq!(problems_with(tcp, backends), [""; 0]);
}

#[test]
fn arguments_make_the_same_check_as_a_file() {
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[arg(long)]
        config: Option<String>,
        #[command(flatten)]
        check: CheckArgs,
    }

    let read = |line: &str| {
        let words = ["tinylb"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        assert_eq!(line.config, None);
        line.check.read()
    };
    for (line, same) in [
        ("--check-http /primary --check-port 8008", r#"{ http = "/primary", port = 8008 }"#),
        ("--check-tcp --check-interval 2s", r#"{ tcp = true, interval = "2s" }"#),
        (
            "--check-http / --check-host a --check-status 204,300-399 --check-timeout 50ms",
            r#"{ http = "/", host = "a", status = [204, "300-399"], timeout = "50ms" }"#,
        ),
    ] {
        assert_eq!(read(line).unwrap(), Some(check(same)), "{line}");
    }
    assert_eq!(read("").unwrap(), None);
    for (line, cause) in [
        ("--check-port 80", "needs something to ask: give `--check-http PATH`"),
        ("--check-http / --check-tcp", "cannot be used with"),
        ("--check-tcp --check-status 200", "cannot be used with"),
        ("--check-http primary", "`primary` is no path of HTTP"),
        ("--check-http / --check-status 99", "99 is no final status"),
        ("--check-http / --check-status x", "which is no status"),
        ("--check-tcp --check-interval 5ms", "--check-interval is 5ms; it must be 100ms to 1h"),
        ("--check-tcp --check-interval 5", "without a unit"),
        ("--check-tcp --check-port 0", "--check-port"),
        ("--check-tcp --config f", "cannot be used with"),
        ("--check-http / --check-ca f", "are for `--check-https PATH`"),
        ("--check-http / --check-certificate f", "are for `--check-https PATH`"),
        ("--check-http / --check-certificate-key f", "are for `--check-https PATH`"),
        ("--check-http / --check-domain a", "are for `--check-https PATH`"),
        ("--check-tcp --check-domain a", "are for `--check-https PATH`"),
    ] {
        let error = read(line).unwrap_err();
        assert!(error.contains(cause), "{line}: {error}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_check_over_https_names_whom_it_trusts_and_asks_like_http() {
    let https = check(
        "{ https = \"/primary\", ca = \"ca.pem\", certificate = \"lb.pem\", \
         certificate_key = \"lb.key\", domain = \"db.test\", host = \"db\" }",
    );
    assert_eq!(https.settings.when_none, WhenNone::Empty);
    assert!(https.keeps_connections());
    let tls = Tls {
        ca: Some("ca.pem".into()),
        certificate: Some("lb.pem".into()),
        certificate_key: Some("lb.key".into()),
        domain: Some("db.test".into()),
        ..Tls::default()
    };
    let http = check("{ http = \"/primary\", host = \"db\" }");
    let Question::Http { path, host, statuses, .. } = http.question else { unreachable!() };
    assert_eq!(https.question, Question::Http { path, host, statuses, tls: Some(tls) });
    let needs_ca = "1: a check over HTTPS needs `ca`: give the file of the CA that signs the \
                    servers' certificates";
    assert_eq!(problems("{ https = \"/\" }"), [needs_ca]);
    let half =
        "1: `certificate` and `certificate_key` of a check go together: give both or neither";
    assert_eq!(problems("{ https = \"/\", ca = \"f\", certificate = \"f\" }"), [half]);
    assert_eq!(problems("{ https = \"/\", ca = \"f\", certificate_key = \"f\" }"), [half]);
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_a_check_over_https_is_refused_with_a_remedy() {
    let cause = "1: a check over HTTPS needs TLS, and this tinylb was built without TLS: build it \
                 with `--features tls`";
    assert_eq!(problems("{ https = \"/\", ca = \"f\" }"), [cause]);
}

#[cfg(feature = "tls")]
#[test]
fn files_that_were_renewed_make_another_check_and_are_never_printed() {
    // The CA, the certificate and its key.
    let read = |contents: [&str; 3]| {
        let directory = std::env::temp_dir();
        let names = ["ca", "certificate", "key"]
            .map(|name| format!("tinylb-check-{}-{name}.pem", std::process::id()));
        for (name, content) in names.iter().zip(contents) {
            std::fs::write(directory.join(name), content).unwrap();
        }
        let [ca, certificate, key] = &names;
        let mut tls = Tls {
            ca: Some(ca.into()),
            certificate: Some(certificate.into()),
            certificate_key: Some(key.into()),
            ..Tls::default()
        };
        let error = tls.read_files(&directory).unwrap_err();
        for name in &names {
            std::fs::remove_file(directory.join(name)).unwrap();
        }
        assert!(error.contains(ca) && error.contains("the CA can't be used"), "{error}");
        tls
    };
    let before = read(["one"; 3]);
    assert_eq!(before, read(["one"; 3]));
    for renewed in [["two", "one", "one"], ["one", "two", "one"], ["one", "one", "two"]] {
        assert_ne!(before, read(renewed), "{renewed:?}");
    }
    assert!(!format!("{:?}", read(["secret"; 3])).contains("secret"));
}
