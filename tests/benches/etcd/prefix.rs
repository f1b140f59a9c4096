use std::{collections::BTreeMap, io, net::Ipv4Addr};

use etcd_client::{Client, Txn, TxnOp};

use crate::harness::PREFIX;

/// What is under the prefix: backends, each with an address of its own. An address that is set is
/// higher than all before it.
pub struct Prefix {
    client: Client,
    /// That of all backends.
    port: u16,
    keys: BTreeMap<Ipv4Addr, String>,
    next: Ipv4Addr,
}

/// etcd takes 128 operations in a transaction.
const KEYS_AT_ONCE: usize = 100;

impl Prefix {
    /// Sets so many.
    pub async fn fill(client: Client, count: usize, port: u16) -> io::Result<Self> {
        let next = Ipv4Addr::new(127, 64, 0, 1);
        let mut prefix = Self { client, port, keys: BTreeMap::new(), next };
        let names: Vec<_> = (0..count).map(|n| format!("{PREFIX}backend-{n:05}")).collect();
        for names in names.chunks(KEYS_AT_ONCE) {
            let puts = names.iter().map(|name| {
                let address = prefix.give(name.clone());
                TxnOp::put(name.as_str(), prefix.value(address), None)
            });
            let puts = puts.collect::<Vec<_>>();
            prefix.client.txn(Txn::new().and_then(puts)).await.map_err(io::Error::other)?;
        }
        Ok(prefix)
    }

    /// The lowest address.
    pub fn oldest(&self) -> io::Result<Ipv4Addr> {
        self.keys.keys().next().copied().ok_or_else(empty)
    }

    /// The highest address.
    pub fn newest(&self) -> io::Result<Ipv4Addr> {
        self.keys.keys().next_back().copied().ok_or_else(empty)
    }

    /// Gives the backend that has this address a new one, and returns that when etcd has answered.
    pub async fn change(&mut self, old: Ipv4Addr) -> io::Result<Ipv4Addr> {
        let missing = || io::Error::other(format!("no backend has the address {old}"));
        let name = self.keys.remove(&old).ok_or_else(missing)?;
        let address = self.give(name.clone());
        let value = self.value(address);
        self.client.put(name, value, None).await.map_err(io::Error::other)?;
        Ok(address)
    }

    fn give(&mut self, name: String) -> Ipv4Addr {
        let address = self.next;
        self.next = Ipv4Addr::from_bits(address.to_bits() + 1);
        self.keys.insert(address, name);
        address
    }

    fn value(&self, address: Ipv4Addr) -> String {
        format!("{address}:{}", self.port)
    }
}

fn empty() -> io::Error {
    io::Error::other("there is no backend")
}
