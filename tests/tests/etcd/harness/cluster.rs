use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, DeleteOptions, Error, Identity, TlsOptions,
};
use tempfile::TempDir;
use tinylb_tokio::EtcdOptions;
use tokio::time::timeout;

use super::{
    PREFIX, eventually,
    process::{Process, Security, client_port, own_host},
};

/// Members of one etcd, and a client of the test's own. All is gone when it is dropped.
pub(crate) struct Cluster {
    host: Ipv4Addr,
    security: Security,
    pub(crate) members: Vec<Process>,
    directory: TempDir,
}

impl Cluster {
    /// This many members, once they have a quorum. `None`: etcd isn't installed, and standard error
    /// says so.
    pub(crate) async fn start(members: usize) -> Option<Self> {
        Self::start_with(own_host(), members, Security::Open).await
    }

    /// The same, at a host that [`own_host`] gave.
    pub(crate) async fn start_with(
        host: Ipv4Addr,
        members: usize,
        security: Security,
    ) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let data = |place| directory.path().join(format!("m{place}"));
        let process = |place| Process::new(host, place, members, &data(place), &security);
        let mut all: Vec<_> = (0..members).map(process).collect();
        for member in &mut all {
            member.start()?;
        }
        let cluster = Self { host, security, members: all, directory };
        for place in 0..members {
            cluster.ready(place).await;
        }
        Some(cluster)
    }

    /// Where a member answers.
    pub(crate) fn address(&self, place: usize) -> SocketAddr {
        SocketAddr::new(self.host.into(), client_port(place))
    }

    pub(crate) fn url(&self, place: usize) -> String {
        format!("{}://{}", self.security.scheme(), self.address(place))
    }

    /// Options of a source that uses all members.
    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions::new((0..self.members.len()).map(|place| self.url(place)), PREFIX)
    }

    pub(crate) fn kill(&mut self, place: usize) {
        self.members[place].kill();
    }

    pub(crate) fn restart(&mut self, place: usize) {
        self.members[place].kill();
        self.members[place].start().unwrap();
    }

    /// Takes all that a member knows away, which doesn't run.
    pub(crate) fn wipe(&self, place: usize) {
        fs::remove_dir_all(self.directory.path().join(format!("m{place}"))).unwrap();
    }

    pub(crate) fn freeze(&self, place: usize) {
        self.members[place].freeze();
    }

    pub(crate) fn thaw(&self, place: usize) {
        self.members[place].thaw();
    }

    /// A client of a member, whether that answers or not.
    pub(crate) async fn client(&self, place: usize) -> Client {
        self.try_client(place, None).await.unwrap()
    }

    /// The same, as a user.
    pub(crate) async fn try_client(
        &self,
        place: usize,
        user: Option<(&str, &str)>,
    ) -> Result<Client, Error> {
        let mut options = ConnectOptions::new();
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        if let Security::Certificates(directory) = &self.security {
            let file = |name: &str| fs::read(directory.join(name)).unwrap();
            let identity = Identity::from_pem(file("etcd.pem"), file("etcd.key"));
            let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(file("ca.pem")));
            options = options.with_tls(tls.identity(identity));
        }
        Client::connect([self.url(place)], Some(options)).await
    }

    /// Waits until a member answers for the cluster.
    pub(crate) async fn ready(&self, place: usize) {
        let mut client = self.client(place).await;
        eventually("a member that answers for the cluster", async || {
            timeout(Duration::from_secs(1), client.get("x", None)).await.ok()?.ok()
        })
        .await;
    }

    /// Sets a backend, by whichever member answers, and gives the revision.
    pub(crate) async fn put(&self, name: &str, value: &str) -> i64 {
        let key = format!("{PREFIX}{name}");
        eventually("a member that sets a key", async || {
            for place in 0..self.members.len() {
                let mut client = self.client(place).await;
                let put = client.put(key.as_str(), value, None);
                if let Ok(Ok(done)) = timeout(Duration::from_secs(1), put).await {
                    return Some(done.header().unwrap().revision());
                }
            }
            None
        })
        .await
    }

    /// Deletes a backend, by the first member, and gives the revision.
    pub(crate) async fn delete(&self, name: &str) -> i64 {
        let key = format!("{PREFIX}{name}");
        let mut client = self.client(0).await;
        let done = client.delete(key, Some(DeleteOptions::new())).await.unwrap();
        assert_eq!(done.deleted(), 1, "{name}");
        done.header().unwrap().revision()
    }

    /// What a backend's key holds now, by the first member, once that answers.
    pub(crate) async fn value(&self, name: &str) -> Option<String> {
        let key = format!("{PREFIX}{name}");
        let get = async || self.client(0).await.get(key.as_str(), None).await.ok();
        let there = eventually("an answer of the first member", get).await;
        there.kvs().first().map(|kv| kv.value_str().unwrap().into())
    }

    /// Waits until it holds this.
    pub(crate) async fn until(&self, name: &str, value: Option<&str>) {
        let what = format!("{name} = {value:?}");
        eventually(&what, async || (self.value(name).await.as_deref() == value).then_some(()))
            .await;
    }

    /// The endpoints of all members, as an argument.
    pub(crate) fn endpoints(&self) -> String {
        let urls: Vec<_> = (0..self.members.len()).map(|place| self.url(place)).collect();
        urls.join(",")
    }

    /// The place of the leader, once there is one. All members must answer.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", async || {
            for place in 0..self.members.len() {
                let status = self.client(place).await.status().await.ok()?;
                if status.leader() == status.header()?.member_id() {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// Makes a member the leader.
    pub(crate) async fn lead(&self, place: usize) {
        let status = self.client(place).await.status().await.unwrap();
        let member = status.header().unwrap().member_id();
        eventually("the new leader", async || {
            let leader = self.leader().await;
            if leader != place {
                // Refused, if another leads by now.
                let _ = self.client(leader).await.move_leader(member).await;
            }
            (leader == place).then_some(())
        })
        .await;
    }
}
