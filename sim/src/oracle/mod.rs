//! What must hold, and who sees to it.

mod law;
mod ledger;

pub use self::law::{Law, Violation};
pub(crate) use self::ledger::{Ledger, PLACES, SLACK, Said};
