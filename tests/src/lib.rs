//! What every adapter of tinylb must do, as tests that run against any of them: [`contract`]; and
//! an adapter in memory to test with: [`pipe`].
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod contract;
pub mod pipe;
