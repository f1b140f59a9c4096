//! PostgreSQL's own clients.

use std::process::{Command, Stdio};

use tokio::{task::spawn_blocking, time::Instant};

use super::harness::{Balancer, Cluster, eventually};
use crate::tinylb::harness::output;

/// Runs a command of PostgreSQL through a balancer, which must succeed. Returns what it prints.
async fn run(cluster: &Cluster, tinylb: &Balancer, program: &str, arguments: &[&str]) -> String {
    let mut command = command(cluster, tinylb, program, arguments);
    let done = spawn_blocking(move || output(&mut command)).await.unwrap();
    let problem = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {problem}");
    String::from_utf8(done.stdout).unwrap()
}

fn command(cluster: &Cluster, tinylb: &Balancer, program: &str, arguments: &[&str]) -> Command {
    let address = tinylb.address();
    let mut command = cluster.command(program);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command.args(["-U", "postgres"]).args(arguments).arg("postgres");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_and_pgbench_work_before_and_after_a_switchover() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::primary(&cluster);
    let rows = "SELECT count(*) FROM pgbench_history";
    run(&cluster, &tinylb, "pgbench", &["--initialize", "--quiet"]).await;
    run(&cluster, &tinylb, "pgbench", &["--client=4", "--transactions=50"]).await;
    let count = run(&cluster, &tinylb, "psql", &["-Atc", rows]).await;
    assert_eq!(count.trim(), "200");

    // One that is at work when its primary leaves.
    let arguments = ["--client=4", "--time=600", "--progress=1"];
    let mut working = command(&cluster, &tinylb, "pgbench", &arguments);
    working.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let working = working.spawn().unwrap();
    let old = cluster.settle().await;
    let direct = cluster.client(old).await;
    let is_at_work = async || {
        let row = direct.query_one(rows, &[]).await.unwrap();
        (row.get::<_, i64>(0) > 200).then_some(())
    };
    eventually("pgbench at work", is_at_work).await;
    let began = Instant::now();
    let (verdict, ()) = tokio::join!(
        async {
            let texts = ["no longer passes", cluster.nodes[old].name.as_str()];
            eventually("the verdict", async || tinylb.logged(&texts, began)).await;
            // A client that comes now waits for the new primary.
            run(&cluster, &tinylb, "psql", &["-Atc", "SELECT pg_is_in_recovery()"]).await
        },
        cluster.switch_over(old),
    );
    assert_eq!(verdict.trim(), "f");
    let ended = spawn_blocking(move || working.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        !ended.status.success() && said.contains("aborted"),
        "pgbench has noticed nothing: {said}"
    );
    cluster.settle().await;
    run(&cluster, &tinylb, "pgbench", &["--client=4", "--transactions=50"]).await;
    tinylb.stop();
}
