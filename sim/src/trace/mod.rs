//! What happened in a run, hashed as it runs.

mod hash;
mod record;
mod text;

pub use self::{
    hash::Trace,
    record::{By, Failure, Host, Note, Record, Sight},
    text::RecordOf,
};
