use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, Error, NoTls, Statement, error::SqlState};

use super::{Cluster, Entry, Record, What, eventually};

/// Clients that write rows all the time, and connect again when that fails.
pub(crate) struct Writers {
    pub(crate) record: Record,
    count: usize,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Long enough that all clients together leave the machine time for the rest.
const PAUSE: Duration = Duration::from_millis(40);

/// The first digits of a WAL file's name are the timeline, which every promotion increments.
const INSERT: &str = "INSERT INTO rows VALUES ($1, $2) RETURNING \
    pg_is_in_recovery(), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

impl Writers {
    /// Starts this many, which connect to an address, and waits until each has written a row.
    pub(crate) async fn start(cluster: &Cluster, address: SocketAddr, count: usize) -> Self {
        let primary = cluster.client(cluster.settle().await).await;
        let table = "CREATE TABLE IF NOT EXISTS rows (client int, number int)";
        primary.batch_execute(table).await.unwrap();
        Self::start_beside(&primary, address, count).await
    }

    /// Starts clients, whose numbers follow those that others have used.
    pub(crate) async fn start_beside(primary: &Client, address: SocketAddr, count: usize) -> Self {
        let used = primary.query_one("SELECT coalesce(max(client), -1) FROM rows", &[]).await;
        let first = used.unwrap().get::<_, i32>(0) + 1;
        let (stop, stopped) = watch::channel(false);
        let (record, mut tasks) = (Record::default(), JoinSet::new());
        for client in first..first + count as i32 {
            let (record, stopped) = (record.clone(), stopped.clone());
            tasks.spawn(Writer { client, number: 0, address, record, stopped }.run());
        }
        let writers = Self { record, count, stop, tasks };
        writers.go_on(Instant::now()).await;
        writers
    }

    /// Waits until each has written a row that it began after a moment.
    pub(crate) async fn go_on(&self, since: Instant) {
        let all = async || (self.record.writers(since, |_| true) == self.count).then_some(());
        eventually("a row of each client", all).await;
    }

    /// Waits until each has written a row at a node, after a moment.
    pub(crate) async fn arrive(&self, node: Ipv4Addr, since: Instant) {
        let at_node = |at: Ipv4Addr| at == node;
        let all = async || (self.record.writers(since, at_node) == self.count).then_some(());
        eventually("a row of each client at the new primary", all).await;
    }

    /// Ends them, each after the row that it writes, and returns what they noticed.
    pub(crate) async fn stop(self) -> Vec<Entry> {
        self.stop.send(true).unwrap();
        self.tasks.join_all().await;
        self.record.entries()
    }
}

struct Writer {
    client: i32,
    /// Of the row that it writes next.
    number: i32,
    address: SocketAddr,
    record: Record,
    stopped: watch::Receiver<bool>,
}

/// A connection, and the node that it leads to.
struct Session {
    opened: Instant,
    client: Client,
    insert: Statement,
    node: Ipv4Addr,
}

impl Writer {
    async fn run(mut self) {
        while !*self.stopped.borrow() {
            let began = Instant::now();
            match connect(self.address).await {
                Ok(session) => {
                    self.note(began, began, Some(session.node), What::Connected);
                    self.write(&session).await;
                }
                Err(error) => {
                    self.note(began, began, None, What::Failed(words(&error)));
                    // As a pool would, lest refusals are all that this machine does.
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Writes rows until it is asked to stop or can't.
    async fn write(&mut self, session: &Session) {
        while !*self.stopped.borrow() {
            let began = Instant::now();
            let number = self.number;
            self.number += 1;
            let row = session.client.query_one(&session.insert, &[&self.client, &number]).await;
            let what = match row {
                Ok(row) => {
                    assert!(!row.get::<_, bool>(0), "a node in recovery has taken a row");
                    let timeline = u32::from_str_radix(row.get(1), 16).unwrap();
                    What::Acknowledged { number, timeline }
                }
                Err(error) if error.is_closed() || is_end(&error) => What::Ended(words(&error)),
                Err(error) => What::Refused(words(&error)),
            };
            let is_over = !matches!(what, What::Acknowledged { .. });
            self.note(session.opened, began, Some(session.node), what);
            if is_over {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    fn note(&self, opened: Instant, began: Instant, node: Option<Ipv4Addr>, what: What) {
        let client = self.client as usize;
        self.record.note(Entry { client, opened, began, at: Instant::now(), node, what });
    }
}

async fn connect(address: SocketAddr) -> Result<Session, Error> {
    let opened = Instant::now();
    let (host, port) = (address.ip(), address.port());
    let parameters = format!("host={host} port={port} user=postgres");
    let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await?;
    tokio::spawn(connection);
    let row = client.query_one("SELECT host(inet_server_addr())", &[]).await?;
    let node = row.get::<_, &str>(0).parse().unwrap();
    let insert = client.prepare(INSERT).await?;
    Ok(Session { opened, client, insert, node })
}

/// The connection is no longer: PostgreSQL shuts down, or somebody reset it.
fn is_end(error: &Error) -> bool {
    let ends = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    error.code().is_none_or(|code| ends.contains(code))
}

/// What it says, with its cause.
fn words(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
