//! The laws, and the ledger that sees to them.

mod health;
mod law;
mod ledger;

pub use self::law::{Law, Violation};
pub(crate) use self::ledger::{Ledger, PLACES, Reported, SLACK};

/// What a judgement comes to: the law that is broken, and by what.
type Judged<T = ()> = Result<T, (Law, String)>;

fn wrong<T>(law: Law, text: String) -> Judged<T> {
    Err((law, text))
}
