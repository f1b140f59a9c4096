//! The limit of open descriptors. `tinylb_services::Descriptors` decides how it is split.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tinylb_services::Descriptors;

/// With room for fewer connections than this, the program warns.
pub(crate) const FEW: usize = 100;

/// Raises the soft limit of open descriptors to the hard one. Where that fails, the soft limit
/// stays, and [`all`] is that.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// All that the process may have open now.
pub(crate) fn all() -> Descriptors {
    Descriptors::new(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}
