//! A dialer of one's own, judged by the scenarios that judge the adapters: one that dials again
//! when it is refused, as a backend may be about to start.
//!
//!     cargo run --release -p tinylb-sim --example own_dialer
#![allow(clippy::print_stdout)]

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use async_trait::async_trait;
use tinylb_core::Dialer;
use tinylb_sim::{Profile, Scenario, Sometimes, TurmoilConn, TurmoilDialer, driver};

/// Waits a moment after each refusal. The balancer's time limit ends it.
struct Patient(TurmoilDialer);

#[async_trait]
impl Dialer for Patient {
    type Target = SocketAddr;
    type Conn = TurmoilConn;

    async fn dial(&self, target: &SocketAddr, within: Duration) -> io::Result<TurmoilConn> {
        loop {
            match self.0.dial(target, within).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                dialled => return dialled,
            }
        }
    }
}

fn main() -> ExitCode {
    let (mut refused, mut refused_anyway) = (0, 0);
    for seed in 0..100 {
        let scenario = Scenario::from_seed(&Profile::FAST, seed);
        let outcome = driver::run_with(&scenario, false, Patient);
        if let Some(violation) = outcome.violations.first() {
            println!("seed {seed}: {violation}");
            return ExitCode::FAILURE;
        }
        refused_anyway += outcome.counts.of(Sometimes::DialRefused);
        refused += driver::run(&scenario, false).counts.of(Sometimes::DialRefused);
    }
    println!(
        "100 scenarios, and no law was broken; {refused_anyway} dials were refused, not {refused}"
    );
    ExitCode::SUCCESS
}
