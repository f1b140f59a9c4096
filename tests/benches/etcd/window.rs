use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::usage::Usage;

/// A time in which it is seen what a process uses.
pub struct Window<F> {
    usage: F,
    before: Usage,
    began: Instant,
}

impl<F: Fn() -> Usage> Window<F> {
    /// From now on.
    pub fn begin(usage: F) -> Self {
        Self { before: usage(), usage, began: Instant::now() }
    }

    /// Until now: the CPU time that the process had, beyond this share of the time.
    pub fn beyond(&self, idle: Rate) -> Duration {
        let time = self.began.elapsed();
        let used = (self.usage)().cpu.saturating_sub(self.before.cpu);
        used.saturating_sub(time.mul_f64(idle.0))
    }

    /// Until now: the share of the time that the process had on a core.
    pub fn rate(&self) -> Rate {
        Rate(self.beyond(Rate::NONE).as_secs_f64() / self.began.elapsed().as_secs_f64())
    }
}

/// A share of a core's time.
#[derive(Clone, Copy)]
pub struct Rate(f64);

impl Rate {
    pub const NONE: Self = Self(0.0);

    /// What a process takes if nothing happens for so long.
    pub async fn while_idle(usage: impl Fn() -> Usage, time: Duration) -> Self {
        let window = Window::begin(usage);
        sleep(time).await;
        window.rate()
    }

    /// In microseconds of CPU time a second.
    pub fn micros(self) -> f64 {
        self.0 * 1e6
    }
}
