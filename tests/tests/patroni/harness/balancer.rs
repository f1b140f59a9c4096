use std::{net::SocketAddr, time::SystemTime};

use tokio::time::Instant;

use super::Cluster;
use crate::tinylb::harness::Tinylb;

/// The program, between the clients and the cluster.
pub(crate) struct Balancer(Tinylb);

/// The check of a service that leads to the primary, as the page on databases has it.
const CHECK: &str =
    r#"{ http = "/primary", port = 8008, interval = "500ms", timeout = "1s", rise = 2 }"#;

/// A service in front of all nodes, at a port of its own.
fn service(cluster: &Cluster, name: &str, check: &str) -> String {
    let backends: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| format!("{} = \"{}\"", node.name, node.address()))
        .collect();
    let backends = backends.join(", ");
    format!(
        "[services.{name}]\nlisten = \"127.0.0.1:0\"\nbackends = {{ {backends} }}\n\
         check = {check}\nempty = \"wait\"\nwaiting_timeout = \"1m\"\n"
    )
}

impl Balancer {
    /// The program with this configuration. Its file is the cluster's, so that both leave nothing behind.
    pub(crate) fn start(cluster: &Cluster, configuration: &str) -> Self {
        let file = cluster.file(configuration);
        Self(Tinylb::run(&["--config", file.to_str().unwrap()]))
    }

    /// The program in front of the primary.
    pub(crate) fn primary(cluster: &Cluster) -> Self {
        Self::start(cluster, &service(cluster, "db", CHECK))
    }

    /// The program in front of the replicas.
    pub(crate) fn replicas(cluster: &Cluster) -> Self {
        Self::start(cluster, &service(cluster, "reads", &CHECK.replace("/primary", "/replica")))
    }

    /// Where clients connect, if it has one service.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address().parse().unwrap()
    }

    /// When it first logged a line with all of these texts, after a moment.
    pub(crate) fn logged(&self, texts: &[&str], after: Instant) -> Option<Instant> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let lines = self.0.log().into_iter();
        let found = lines.filter(|line| texts.iter().all(|text| line.says(text)));
        let times = found.map(|line| {
            let time = humantime::parse_rfc3339(line.field("timestamp")).unwrap();
            now - wall.duration_since(time).unwrap_or_default()
        });
        times.into_iter().find(|at| *at >= after)
    }

    /// Ends it, which must go well.
    pub(crate) fn stop(self) {
        self.0.stop();
    }
}
