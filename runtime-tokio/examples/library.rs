//! A balancer in your own program: the README's example, whole.

use tinylb_core::{BackendSet, Server, Settings};
use tinylb_tokio::{SocketRelay, TcpDialer, TcpListener, TcpOptions, TcpTarget, TokioRuntime};

#[expect(clippy::print_stdout, reason = "it is an example's output")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = TcpOptions::default();
    let runtime = TokioRuntime::current();
    let server =
        Server::new(TcpDialer::new(options.clone()), runtime.clone(), Settings::default())?;
    let listener = TcpListener::bind("127.0.0.1:8080".parse()?, &options)?;
    server.listen(listener, SocketRelay::default(), runtime);

    let backends =
        [("a", "127.0.0.1:9001".parse::<TcpTarget>()?), ("b", "127.0.0.1:9002".parse()?)];
    let replacement = server.handle().replace(BackendSet::new(backends)?)?; // the set is swapped,
    let report = replacement.await; // and here nothing of the one before is left
    println!("{} connections were cut", report.sessions_cut);
    Ok(())
}
