//! The laws, and the ledger that sees to them.

mod law;
mod ledger;

pub use self::law::{Law, Violation};
pub(crate) use self::ledger::{Ledger, PLACES, SLACK, Said};
