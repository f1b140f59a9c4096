use std::{
    fs, io,
    net::SocketAddr,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    harness::Cluster,
    tinylb::harness::{Kill, free_address},
};

/// haproxy in front of the primary, set up as Patroni's documentation says.
pub struct Haproxy {
    pub address: SocketAddr,
    _process: Kill,
    _directory: TempDir,
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
listen primary
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
";

impl Haproxy {
    /// Starts it.
    ///
    /// # Errors
    /// It isn't installed.
    pub fn start(cluster: &Cluster) -> io::Result<Self> {
        let address = free_address();
        let mut configuration = format!("{CONFIGURATION}    bind {address}\n");
        for node in &cluster.nodes {
            let (name, at, port) = (&node.name, node.address(), node.api().port());
            configuration += &format!("    server {name} {at} maxconn 100 check port {port}\n");
        }
        let directory = TempDir::new()?;
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, configuration)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        let process = Kill(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let address = address.parse().map_err(io::Error::other)?;
        Ok(Self { address, _process: process, _directory: directory })
    }
}
