use std::{
    io,
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::{
    harness::Cluster,
    tinylb::harness::{Kill, free_address},
};

/// haproxy in front of the primary and of the replicas, set up as Patroni's documentation says.
pub struct Haproxy {
    /// Where clients reach the primary.
    pub primary: SocketAddr,
    /// Where they reach the replicas.
    pub replicas: SocketAddr,
    _process: Kill,
}

const CONFIGURATION: &str = "global
    maxconn 100
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
";

/// A service in front of the nodes that have a role.
fn service(cluster: &Cluster, role: &str, address: &str) -> String {
    let mut service = format!(
        "listen {role}
    option httpchk OPTIONS /{role}
    http-check expect status 200
    bind {address}
"
    );
    for node in &cluster.nodes {
        let (name, at, port) = (&node.name, node.address(), node.api().port());
        service += &format!("    server {name} {at} maxconn 100 check port {port}\n");
    }
    service
}

impl Haproxy {
    /// Starts it.
    ///
    /// # Errors
    /// It isn't installed.
    pub fn start(cluster: &Cluster) -> io::Result<Self> {
        let [primary, replicas] = [free_address(), free_address()];
        let configuration = CONFIGURATION.to_owned()
            + &service(cluster, "primary", &primary)
            + &service(cluster, "replica", &replicas);
        let file = cluster.file(&configuration);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        let process = Kill(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let [primary, replicas] = [primary, replicas].map(|address| address.parse());
        let (primary, replicas) =
            (primary.map_err(io::Error::other)?, replicas.map_err(io::Error::other)?);
        Ok(Self { primary, replicas, _process: process })
    }
}
