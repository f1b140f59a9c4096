//! The page in `docs/` on databases.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
};

use tokio::time::Instant;

use super::harness::{Balancer, Cluster, Judge, Poller, Writers, say};
use crate::tinylb::harness::binary;

/// Set for the test that runs in a namespace of its own.
const INSIDE: &str = "TINYLB_PATRONI_NAMESPACE";

/// First the addresses, which only root there can give; then a user that isn't root, as PostgreSQL
/// demands.
const SCRIPT: &str = "ip link set lo up && for n in 1 2 3; do ip address add 10.0.0.$n/32 dev lo; done \
    && exec unshare --user --map-user 65534 --map-group 65534 \"$@\"";

/// Runs a test, by its full name, where the page's addresses are this machine's. Returns whether this
/// is that run. If not, that run has passed, or there can be no such namespaces, which was printed.
fn is_inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let enter = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", SCRIPT, "sh"]);
        command
    };
    let trial = enter().arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !trial.is_ok_and(|status| status.success()) {
        say("SKIPPED: no namespaces (`unshare --user --net`, and `ip`) can be had here");
        return false;
    }
    // Built here, where cargo has all that it may need.
    binary();
    let run = enter()
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(run.status.success(), "{}", said.concat());
    assert!(said[0].contains("1 passed"), "there is no test {test}: {}", said[0]);
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_on_the_page_is_one_that_works() {
    if !is_inside("page::the_configuration_on_the_page_is_one_that_works") {
        return;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/databases.md");
    let page = fs::read_to_string(page).unwrap();
    let configuration = page.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let hosts = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
    let Some(cluster) = Cluster::start_at(hosts).await else { return };
    let tinylb = Balancer::start(&cluster, configuration);
    let [primary, reads] = [5432, 5433].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let poller = Poller::start(&cluster);
    let writers = Writers::start(&cluster, primary, 5).await;
    let old = cluster.settle().await;
    let began = Instant::now();
    cluster.switch_over(old).await;
    let new = cluster.settle().await;
    writers.arrive(cluster.nodes[new].host, began).await;
    let judge = Judge(writers.stop().await);
    judge.assert_one_primary();
    judge.assert_no_row_lost(&cluster, new).await;
    let promotion = poller.promotion(&cluster, new, began).unwrap();
    let old = &cluster.nodes[old];
    let known = tinylb.logged(&["no longer passes", &old.name, "503 from /primary"], began);
    let known = known.expect("a line that says why the primary is no longer used");
    judge.assert_only_resets(known, old.host, &promotion);
    let parameters = format!("host={} port={} user=postgres", reads.ip(), reads.port());
    let (reader, connection) =
        tokio_postgres::connect(&parameters, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = reader.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "a reader was sent to the primary");
    tinylb.stop();
}
