use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use tokio::{
    net::TcpStream,
    sync::{Mutex, MutexGuard},
};
use tokio_postgres::NoTls;

use super::{
    Node, api,
    estate::Estate,
    programs::{Programs, say},
    wait::eventually,
};

/// Three nodes and the etcd that they use. All is gone when it is dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    etcd: Child,
    programs: Programs,
    estate: Estate,
    /// Another test's cluster would take the time away that this one is judged by.
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts it, with each node at a host of this cluster's own. `None`: something isn't installed,
    /// which was then printed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_at(own_hosts()).await
    }

    /// Starts it, with the nodes at these hosts.
    pub(crate) async fn start_at(hosts: [Ipv4Addr; 3]) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let programs = Programs::find()?;
        let estate = Estate::new(&programs);
        let client = SocketAddr::new(hosts[0].into(), 2379);
        let etcd = start_etcd(&programs, hosts[0], estate.path());
        let mut cluster = Self { nodes: Vec::new(), etcd, programs, estate, _turn: turn };
        eventually("etcd", async || TcpStream::connect(client).await.ok()).await;
        for (place, host) in hosts.into_iter().enumerate() {
            let directory = cluster.estate.path();
            let node = Node::start(&cluster.programs, place, host, client, directory);
            cluster.nodes.push(node);
        }
        cluster.settle().await;
        Some(cluster)
    }

    /// Writes a file, which is gone when the cluster is. A program that names it in its command line
    /// ends with the cluster.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let file = tempfile::Builder::new().tempfile_in(self.estate.path()).unwrap();
        fs::write(&file, text).unwrap();
        file.into_temp_path().keep().unwrap()
    }

    /// Waits until there is a primary and all others replicate, one of them synchronously. Returns the
    /// primary's place.
    pub(crate) async fn settle(&self) -> usize {
        eventually("a primary with its replicas", async || {
            let answer = api::get(self.nodes[0].api(), "/cluster").await.ok()?;
            let cluster: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
            let roles = cluster["members"].as_array()?.iter().map(|member| &member["role"]);
            let has_synchronous = roles.clone().any(|role| role == "sync_standby");
            let (mut primary, mut replicas) = (None, 0);
            for (place, node) in self.nodes.iter().enumerate() {
                if api::get(node.api(), "/primary").await.ok()?.is_primary() {
                    primary = Some(place);
                }
                let replica = api::get(node.api(), "/replica").await.ok()?;
                replicas += usize::from(replica.status == 200);
            }
            primary.filter(|_| replicas + 1 == self.nodes.len() && has_synchronous)
        })
        .await
    }

    /// Waits until another node than this one is a primary that takes writes. Returns its place.
    pub(crate) async fn successor(&self, old: usize) -> usize {
        eventually("another primary", async || {
            for (place, node) in self.nodes.iter().enumerate().filter(|(place, _)| *place != old) {
                let answer = api::get(node.api(), "/primary").await.ok()?;
                if answer.is_primary() {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// Has the primary hand over to the synchronous replica, as `patronictl switchover` does.
    pub(crate) async fn switch_over(&self, primary: usize) {
        let mut command = self.programs.command("patronictl");
        command.arg("-c").arg(self.nodes[primary].file());
        command.args(["switchover", "db", "--force"]).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Successfully switched over"), "{said}");
    }

    /// A client of one node, without a balancer.
    pub(crate) async fn client(&self, place: usize) -> tokio_postgres::Client {
        let node = &self.nodes[place];
        let connect = async || {
            let parameters =
                format!("host={} port={} user=postgres", node.host, node.address().port());
            tokio_postgres::connect(&parameters, NoTls).await.ok()
        };
        let (client, connection) = eventually("a client of a node", connect).await;
        tokio::spawn(connection);
        client
    }

    /// PostgreSQL's client of this name, as the database's user.
    pub(crate) fn command(&self, program: &str) -> std::process::Command {
        let program = self.programs.postgres().join(program);
        self.programs.command(program.to_str().unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.nodes.iter().for_each(|node| say(&node.log()));
        }
        self.estate.end();
        self.nodes.iter_mut().for_each(Node::reap);
        let _ = self.etcd.wait();
    }
}

fn start_etcd(programs: &Programs, host: Ipv4Addr, directory: &Path) -> Child {
    let (client, peer) = (format!("http://{host}:2379"), format!("http://{host}:2380"));
    let mut command = programs.command("etcd");
    command.arg("--data-dir").arg(directory.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    // Over the v3 API, Patroni 3.0.2 takes the leader key from its holder when it wakes up.
    command.arg("--enable-v2");
    command.args(["--log-level", "error", "--logger", "zap"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Hosts of this cluster's own (the whole of 127.0.0.0/8 leads to this machine), so that nobody else
/// can have taken their ports.
fn own_hosts() -> [Ipv4Addr; 3] {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let first = 100 + 3 * NEXT.fetch_add(1, Ordering::Relaxed);
    [0, 1, 2].map(|place| Ipv4Addr::new(127, high.max(1), low, first + place))
}
