//! The program with a set from etcd.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use etcd_client::Permission;
use rustix::process::Signal;
use tinylb_tokio::EtcdOptions;

use super::{
    harness::{Cluster, PREFIX, say},
    register::register,
    tinylb::harness::{
        Backend, Client, ConfigFile, End, Load, Tinylb, check_ranges, default_of, get, page, put,
        time_of, until,
    },
};

#[test]
fn the_page_on_the_configuration_has_the_ranges_and_the_defaults_of_etcd() {
    let (page, heading) = (page("configuration.md"), "### `etcd = { … }`");
    let before = "[services.s]\nsource = { etcd = { endpoints = [\"http://10.0.0.1:2379\"], \
                  prefix = \"/lb/web/\", ";
    assert_eq!(check_ranges(&page, heading, before, " } }\n"), 2);
    let options = EtcdOptions::new(["http://10.0.0.1:2379"], "/lb/web/");
    for (key, time) in [("resync", options.resync), ("timeout", options.timeout)] {
        assert_eq!(time_of(&default_of(&page, heading, key)), Some(time), "{key}");
    }
}

/// A balancer with its backends in a cluster.
fn balancer(cluster: &Cluster) -> Tinylb {
    let etcd = cluster.endpoints();
    Tinylb::run(&[
        "--listen",
        "127.0.0.1:0",
        "--etcd",
        &etcd,
        "--prefix",
        PREFIX,
        "--admin",
        "127.0.0.1:0",
        "--admin-write",
    ])
}

#[tokio::test]
async fn a_replacement_reaches_the_balancer_and_nobody_else_changes_its_set() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let [a, b, c] = ["a", "b", "c"].map(Backend::echo);
    cluster.put("a", &a.address).await;
    cluster.put("b", &b.address).await;
    let tinylb = balancer(&cluster);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let mut load = Load::start(&address, 10);
    assert_eq!((load.count(|key| key == "a"), load.count(|key| key == "b")), (5, 5));

    cluster.put("b", &c.address).await;
    assert_eq!(load.ends("b"), [End::Reset; 5], "who talks to a backend that left learns of it");
    load.go_on(|_| true);
    assert_eq!(Client::several(&address, 4).iter().filter(|c| c.backend == "c").count(), 2);
    cluster.delete("a").await;
    assert_eq!(load.ends("a"), [End::Reset; 5]);

    let answer = put(&admin, "default", r#"{"a":"127.0.0.1:1"}"#);
    assert_eq!(answer.status, 409);
    let place = format!("etcd {} {PREFIX}", cluster.endpoints());
    assert!(answer.body.contains(&place), "{}", answer.body);
    assert_eq!(get(&admin, "/services").json()["default"]["source"], place);
    load.finish();
    tinylb.stop();
}

#[tokio::test]
async fn a_backend_whose_machine_dies_is_cut_within_a_second_after_its_lease() {
    const TTL: Duration = Duration::from_secs(3);
    let Some(cluster) = Cluster::start(1).await else { return };
    let [a, b] = ["a", "b"].map(Backend::echo);
    cluster.put("b", &b.address).await;
    let tinylb = balancer(&cluster);
    tinylb.line("backends replaced");
    let mut took = Vec::new();
    // The middle one of three: a machine that is busy may hold up any one.
    for round in 0..3 {
        let keeper = register(&cluster, "a", &a.address, &["--ttl", "3s"]);
        tinylb.lines(2 + 2 * round, "backends replaced");
        let mut load = Load::start(&tinylb.address(), 6);
        assert_eq!(load.count(|key| key == "a"), 3);
        if round == 0 {
            // It would be gone if it weren't looked after.
            thread::sleep(TTL * 2);
            load.go_on(|_| true);
        }
        let killed = Instant::now();
        keeper.signal(Signal::KILL);
        assert_eq!(load.ends("a"), [End::Reset; 3]);
        took.push(killed.elapsed());
        load.go_on(|_| true);
        assert_eq!(load.finish(), [End::Clean; 3]);
    }
    say(&format!("cut {took:?} after kill -9, with a lease of {TTL:?}"));
    took.sort();
    assert!(took[1] < TTL + Duration::from_secs(1), "{took:?}");
    tinylb.stop();
}

#[tokio::test]
async fn without_a_majority_the_last_set_serves_and_with_one_it_changes_again() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let [a, b] = ["a", "b"].map(Backend::echo);
    cluster.put("x", &a.address).await;
    let tinylb = balancer(&cluster);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let mut load = Load::start(&address, 3);
    cluster.kill(0);
    cluster.kill(1);
    assert!(tinylb.line("source of backends lost").says("Connection refused"));
    load.go_on(|_| true);
    assert!(Client::connect(&address).is_served());
    assert!(get(&admin, "/metrics").body.contains("tinylb_source_lost{service=\"default\"} 1"));
    cluster.restart(0);
    cluster.restart(1);
    cluster.put("x", &b.address).await;
    let changed = Instant::now();
    assert_eq!(load.ends("a"), [End::Reset; 3]);
    let back = changed.elapsed();
    say(&format!("cut {back:?} after the first put with a majority"));
    assert!(back < Duration::from_secs(5), "{back:?}");
    tinylb.line("source of backends is back");
    assert_eq!(Client::connect(&address).backend, "b");
    tinylb.stop();
}

#[tokio::test]
async fn a_file_says_who_asks_and_a_reload_takes_another_password() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let a = Backend::echo("a");
    cluster.put("a", &a.address).await;
    let mut admin = cluster.client(0).await;
    for role in ["root", "lb"] {
        admin.role_add(role).await.unwrap();
        admin.user_add(role, "right", None).await.unwrap();
        admin.user_grant_role(role, role).await.unwrap();
    }
    let read = Permission::read(PREFIX).with_prefix();
    admin.role_grant_permission("lb", read).await.unwrap();
    admin.auth_enable().await.unwrap();

    let text = format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nsource = {{ etcd = {{ endpoints = {:?}, prefix = \
         {PREFIX:?}, user = \"lb\", password_file = \"password\" }} }}\n",
        cluster.url(0)
    );
    let file = ConfigFile::new(&text);
    fs::write(file.in_dir("password"), "wrong\n").unwrap();
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    assert!(tinylb.line("source of backends lost").says("login refused"));
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 503);
    fs::write(file.in_dir("password"), "right\n").unwrap();
    tinylb.signal(Signal::HUP);
    until("a set", || get(&tinylb.admin(), "/readyz").status == 200);
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
    tinylb.stop_and_log(|lines| {
        assert!(!lines.iter().any(|line| line.says("right") || line.says("wrong")), "{lines:?}");
    });
}
