use std::{
    io::{self, Write},
    net::SocketAddr,
    process::{Command, Stdio},
};

/// Counts the SYNs of the loopback, and drops those that it is asked to. It uses `nft` and belongs in
/// a network namespace of its own. The answers to a SYN and all that follows pass.
#[derive(Debug)]
pub struct Filter(());

const RULES: &str = "
    table inet outage {
        set hung { type inet_service; }
        set lossy { type inet_service; }
        set seen { type inet_service; size 65535; flags dynamic; }
        chain input {
            type filter hook input priority 0;
            tcp flags & (syn | ack) != syn accept
            update @seen { tcp dport counter }
            tcp dport @hung drop
            tcp dport @lossy numgen random mod 100 < 1 drop
        }
    }";

impl Filter {
    /// Whether `nft` is installed.
    pub fn is_available() -> bool {
        let version = Command::new("nft").arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }

    /// Sets the rules up. Nothing is dropped yet.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn new() -> io::Result<Self> {
        nft(RULES)?;
        Ok(Self(()))
    }

    /// Drops every SYN to an address from now on, as a backend does whose machine hangs.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn hang(&self, address: SocketAddr) -> io::Result<()> {
        nft(&format!("add element inet outage hung {{ {} }}", address.port())).map(drop)
    }

    /// Lets them pass again.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn heal(&self, address: SocketAddr) -> io::Result<()> {
        nft(&format!("delete element inet outage hung {{ {} }}", address.port())).map(drop)
    }

    /// Drops one SYN of a hundred to an address from now on, at random.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, address: SocketAddr) -> io::Result<()> {
        nft(&format!("add element inet outage lossy {{ {} }}", address.port())).map(drop)
    }

    /// SYNs to an address so far, dropped or not.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn syns(&self, address: SocketAddr) -> io::Result<u64> {
        let seen = nft("list set inet outage seen")?;
        // `elements = { 5555 counter packets 2 bytes 120, ...`
        let mut words = seen.split_whitespace();
        let port = address.port().to_string();
        let Some(_) = words.find(|word| *word == port) else { return Ok(0) };
        let count = words.nth(2).and_then(|count| count.parse().ok());
        count.ok_or_else(|| io::Error::other(format!("no count of {port}: {seen}")))
    }
}

/// Runs commands, and returns what they print.
fn nft(commands: &str) -> io::Result<String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let problem = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("nft: {problem}")))
    }
}
