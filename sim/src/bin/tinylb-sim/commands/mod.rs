//! The subcommands, a file or a folder each.

pub(crate) mod corpus;
pub(crate) mod judge;
pub(crate) mod meta;
pub(crate) mod minimize;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod timeline;
pub(crate) mod zoo;
