//! tinylb on tokio.

mod error;
mod target;

pub use self::{
    error::AddressError,
    target::{Address, Host, TcpTarget, UnixTarget},
};
