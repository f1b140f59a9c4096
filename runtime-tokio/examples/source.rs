//! A source of sets of one's own: each line of standard input says what the backends are.
//!
//!     cargo run -p tinylb-tokio --example source
//!     a=127.0.0.1:9001 b=127.0.0.1:9002

#![allow(clippy::print_stdout)]

use std::{error::Error, time::Duration};

use futures::{Stream, stream};
use tinylb_core::{BackendSet, Server, Settings, Update};
use tinylb_tokio::{Address, AddressDialer, SocketRelay, TcpListener, TcpOptions, TokioRuntime};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};

/// A line that can't be read is a loss: the last set stays. So is the end of the input.
fn sets() -> impl Stream<Item = Update<Address>> + Send + 'static {
    stream::unfold(BufReader::new(stdin()).lines(), async |mut lines: Lines<BufReader<Stdin>>| {
        let update = match lines.next_line().await {
            Ok(Some(line)) => {
                set(&line).map_or_else(|e| Update::Lost(e.to_string().into()), Update::Set)
            }
            Ok(None) => return None,
            Err(error) => Update::Lost(error.to_string().into()),
        };
        Some((update, lines))
    })
}

fn set(line: &str) -> Result<BackendSet<Address>, Box<dyn Error>> {
    let mut backends = Vec::new();
    for word in line.split_whitespace() {
        let (key, address) = word.split_once('=').ok_or("write KEY=ADDRESS")?;
        backends.push((key, address.parse::<Address>()?));
    }
    Ok(BackendSet::new(backends)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (options, runtime) = (TcpOptions::default(), TokioRuntime::current());
    let server = Server::with_observer(
        AddressDialer::new(options.clone()),
        runtime.clone(),
        Settings::default(),
        |number, event| println!("{number}: {event:?}"),
    )?;
    let listener = TcpListener::bind("127.0.0.1:8080".parse()?, &options)?;
    let _listening = server.listen(listener, SocketRelay::default(), runtime);
    server.handle().follow(sets());
    tokio::signal::ctrl_c().await?;
    server.handle().shutdown(Duration::from_secs(5)).await;
    // The end of the runtime would wait for the next line.
    std::process::exit(0)
}
