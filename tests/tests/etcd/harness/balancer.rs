use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use futures::StreamExt;
use tinylb_core::{BackendSet, Event, Handle, Server, Settings, Snapshot, Update};
use tinylb_tokio::{
    Address, AddressDialer, EtcdOptions, EtcdSource, SocketRelay, TcpListener, TcpOptions,
    TokioRuntime,
};

/// A balancer whose backends are what etcd says, as the library's documentation has it.
pub(crate) struct Balancer {
    server: Server<AddressDialer>,
    front: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What has become of the sets.
#[derive(Default)]
pub(crate) struct Seen {
    /// The sets that the source reported.
    pub(crate) reported: Vec<BackendSet<Address>>,
    /// What was in force, one after the other.
    pub(crate) in_force: Vec<BackendSet<Address>>,
    /// Sets that another had replaced before they were noted: none, if all runs on one thread.
    pub(crate) missed: usize,
    /// How often the source was lost.
    pub(crate) losses: usize,
}

impl Balancer {
    /// It follows a source with these options from now on.
    pub(crate) fn following(options: EtcdOptions) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let own = Arc::<OnceLock<Handle<Address>>>::default();
        let observer = {
            let (seen, own) = (Arc::clone(&seen), Arc::clone(&own));
            move |_, event: &Event<Address>| match event {
                Event::SetReplaced { report, .. } => {
                    let now = own.get().unwrap().snapshot();
                    let mut seen = seen.lock().unwrap();
                    match now.set.filter(|_| now.generation == report.generation) {
                        Some(set) => seen.in_force.push(set),
                        None => seen.missed += 1,
                    }
                }
                Event::SourceLost { .. } => seen.lock().unwrap().losses += 1,
                _ => {}
            }
        };
        let runtime = TokioRuntime::current();
        let dialer = AddressDialer::default();
        let settings = Settings::default();
        let server = Server::with_observer(dialer, runtime.clone(), settings, observer).unwrap();
        own.set(server.handle()).unwrap_or_else(|_| unreachable!("it is set once"));

        let at = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::bind(at, &TcpOptions::default()).unwrap();
        let front = listener.local_address().unwrap();
        server.listen(listener, SocketRelay::default(), runtime);

        let note = Arc::clone(&seen);
        let source = EtcdSource::new(options).unwrap().updates();
        server.handle().follow(source.inspect(move |update| match update {
            Update::Set(set) => note.lock().unwrap().reported.push(set.clone()),
            Update::Partial(_, bad) => panic!("no such entry was set: {bad:?}"),
            Update::Lost(_) | Update::Narrowed(_) => {}
        }));
        Self { server, front, seen }
    }

    /// Where clients connect.
    pub(crate) fn front(&self) -> SocketAddr {
        self.front
    }

    pub(crate) fn snapshot(&self) -> Snapshot<Address> {
        self.server.handle().snapshot()
    }

    /// What has become of the sets so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}
