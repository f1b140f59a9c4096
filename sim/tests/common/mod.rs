//! What tests of scenarios share.

use std::env;

/// The seeds to try: `TINYLB_SIM_SEED` is the first, `TINYLB_SIM_CASES` how many there are.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let first = setting("TINYLB_SIM_SEED", 0);
    first..first + setting("TINYLB_SIM_CASES", count)
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}
