//! Starts etcd as the tests of the source do. They disturb it too, for which there is no use here.

#[path = "../../tests/etcd/harness/cluster.rs"]
#[allow(clippy::unwrap_used, dead_code)]
mod cluster;
#[path = "../../tests/etcd/harness/process.rs"]
#[allow(clippy::unwrap_used, dead_code)]
mod process;
#[path = "../../tests/etcd/harness/wait.rs"]
mod wait;

use std::{io, net::SocketAddr, process::Command};

use etcd_client::Client;
use tokio::net::TcpStream;

pub(crate) use self::wait::{DEADLINE, PREFIX, eventually};
use self::{cluster::Cluster, process::Process, wait::say};
use crate::usage::Usage;

/// All that there is of etcd. It ends when this is dropped.
pub struct Etcd {
    cluster: Cluster,
    /// What stands before the members, and where.
    proxy: Option<(Process, SocketAddr)>,
}

const PROXY_PORT: u16 = 2378;

/// The version of the etcd that is installed.
pub fn version() -> io::Result<String> {
    let missing = |error| {
        let hint = "etcd isn't installed (Debian: apt-get install etcd-server)";
        io::Error::other(format!("{hint}: {error}"))
    };
    let said = Command::new("etcd").arg("--version").output().map_err(missing)?;
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version.map(Into::into).ok_or_else(|| io::Error::other("etcd doesn't print its version"))
}

impl Etcd {
    /// So many members once they have a quorum, and a gRPC proxy before them, if one is wanted.
    pub async fn start(members: usize, has_proxy: bool) -> io::Result<Self> {
        let missing = || io::Error::other("etcd isn't installed");
        let cluster = Cluster::start(members).await.ok_or_else(missing)?;
        let mut proxy = None;
        if has_proxy {
            let members: Vec<_> = (0..members).map(|place| cluster.address(place)).collect();
            let at = SocketAddr::new(members[0].ip(), PROXY_PORT);
            let mut process = Process::proxy(&members, at);
            process.start().ok_or_else(missing)?;
            eventually("the proxy", async || TcpStream::connect(at).await.ok()).await;
            proxy = Some((process, at));
        }
        Ok(Self { cluster, proxy })
    }

    /// A client of the first member.
    pub async fn client(&self) -> Client {
        self.cluster.client(0).await
    }

    /// Where a balancer asks: at the proxy, if there is one, else at all members.
    pub fn urls(&self) -> Vec<String> {
        match &self.proxy {
            Some((_, at)) => vec![format!("http://{at}")],
            None => (0..self.cluster.members.len()).map(|place| self.cluster.url(place)).collect(),
        }
    }

    /// What all its processes together use.
    pub fn usage(&self) -> Usage {
        let proxy = self.proxy.iter().map(|(process, _)| process);
        let processes = self.cluster.members.iter().chain(proxy);
        let ids = processes.map(|process| process.id().as_raw_nonzero().get() as u32);
        Usage::of(&ids.collect::<Vec<_>>())
    }
}
