use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Whatever takes longer hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(began.elapsed() < DEADLINE, "this never came: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
