use std::time::Duration;

use crate::Room;

/// A service as a configuration describes it, as far as that decides what becomes of the service.
pub trait Definition {
    /// Where a service can listen.
    type Address: Ord + Clone;

    /// The addresses that it listens at.
    fn listen(&self) -> &[Self::Address];

    /// Whether each service that listens there has a socket of its own, since each gets another port.
    fn takes_any_port(address: &Self::Address) -> bool;

    /// Whether its backends come from a source. Otherwise they are a table, in the configuration or a
    /// PUT.
    fn is_followed(&self) -> bool;

    /// Whether the two have the same table, or the same source.
    fn has_backends_of(&self, other: &Self) -> bool;

    /// Whether only those of its backends are used that pass a check.
    fn is_checked(&self) -> bool;

    /// How long its sessions may take to finish once it leaves.
    fn shutdown_timeout(&self) -> Duration;

    /// What it may have open beside its connections.
    fn room(&self) -> Room;
}

/// The sockets at one address. Two services that listen there one after the other share them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketKey<A> {
    /// The service whose own they are, if each service gets another port there.
    pub owner: Option<String>,
    /// The address, as configured.
    pub address: A,
}

/// The sockets that a service of this name accepts from at an address.
pub fn socket_key<D: Definition>(name: &str, address: &D::Address) -> SocketKey<D::Address> {
    let owner = D::takes_any_port(address).then(|| name.to_string());
    SocketKey { owner, address: address.clone() }
}

/// The sockets that a service accepts from.
pub(crate) fn sockets_of<D: Definition>(
    name: &str,
    definition: &D,
) -> impl Iterator<Item = SocketKey<D::Address>> {
    definition.listen().iter().map(move |address| socket_key::<D>(name, address))
}
