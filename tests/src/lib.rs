//! End-to-end tests of tinylb, its driver and its program, and benchmarks beside other balancers. See
//! `tests/` and `benches/` of this package; the contract that any adapter can be tested against is
//! `tinylb-contract`.
#![forbid(unsafe_code)]

pub mod outage;
pub mod program;
