use std::io;

use futures::{StreamExt, channel::mpsc::unbounded};
use tinylb_core::{Event, Server, Settings};
use tinylb_tokio::{
    AddressDialer, EtcdOptions, EtcdSource, SocketRelay, TcpListener, TcpOptions, TokioRuntime,
};

use crate::{child::Control, harness::PREFIX};

/// The part of a balancer: prints where it listens, waits for a line, follows the source, and prints
/// the size of the first set once that is in force.
pub async fn run(mut control: Control, urls: &[String]) -> io::Result<()> {
    let options = TcpOptions::default();
    let runtime = TokioRuntime::current();
    let (sizes, mut applied) = unbounded();
    let observer = move |_, event: &Event<_>| {
        if let Event::SetReplaced { report, .. } = event {
            let _ = sizes.unbounded_send(report.backends);
        }
    };
    let dialer = AddressDialer::new(options.clone());
    let server = Server::with_observer(dialer, runtime.clone(), Settings::default(), observer)
        .map_err(io::Error::other)?;
    let listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), &options)?;
    control.say(listener.local_address()?).await?;
    server.listen(listener, SocketRelay::default(), runtime);
    control.heard().await?;
    let options = EtcdOptions::new(urls, PREFIX);
    server.handle().follow(EtcdSource::new(options).map_err(io::Error::other)?.updates());
    if let Some(size) = applied.next().await {
        control.say(size).await?;
    }
    drop(applied);
    control.closed().await;
    Ok(())
}
