use std::{
    io::{Write, stderr},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// What the keys of all backends begin with.
pub(crate) const PREFIX: &str = "/lb/web/";

/// Whatever takes longer hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(began.elapsed() < DEADLINE, "this never came: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Prints a line for the person who runs the tests, though the test passes. (Of what is printed the
/// other way, the test runner shows only what belongs to a failure.)
pub(crate) fn say(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}
