use crate::BackendKey;

/// A backend whose turn it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick<T> {
    /// The backend's key.
    pub key: BackendKey,
    /// Its target at that moment.
    pub target: T,
}

/// What [`Balancer::admit`](crate::Balancer::admit) says of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// Dial this backend; the attempt is in the pool already.
    Dial(Pick<T>),
    /// There is no set with backends to dial: wait for one.
    Wait,
    /// Nothing can be done for it.
    Refused(Refusal),
}

/// Why a session gets no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The set is empty.
    NoBackends,
    /// As many sessions as allowed wait for a set.
    WaitingFull,
    /// The balancer has been closed by [`Balancer::abort_all`](crate::Balancer::abort_all).
    Closed,
}
