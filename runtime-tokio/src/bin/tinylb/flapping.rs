use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Decides which losses of a source to log: all losses of a source that is lost now and then, and
/// few of one that flaps every second. A loss that lasts is always logged, and the end of a loss is
/// logged if the loss was. Plain state; the caller passes in events and the time.
#[derive(Default)]
pub(crate) struct Flapping {
    /// When losses were logged: the newest few.
    logged: VecDeque<Instant>,
    spared: u64,
    current: Option<Loss>,
}

struct Loss {
    since: Instant,
    reason: Arc<str>,
    is_logged: bool,
}

/// What to log about a loss.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) reason: Arc<str>,
    /// Losses before it that weren't logged.
    pub(crate) spared: u64,
}

/// This many losses are logged in this period, however short they are.
const LINES_MAX: usize = 3;
const PERIOD: Duration = Duration::from_secs(180);

/// Any other loss is logged once it has lasted for this long.
pub(crate) const LASTING: Duration = Duration::from_secs(10);

impl Flapping {
    /// A loss begins: returns what to log now. If that is nothing, call [`Self::lasting`] after
    /// [`LASTING`].
    pub(crate) fn lost(&mut self, now: Instant, reason: &Arc<str>) -> Option<Line> {
        while self.logged.front().is_some_and(|oldest| *oldest + PERIOD <= now) {
            self.logged.pop_front();
        }
        let (reason, is_logged) = (Arc::clone(reason), false);
        self.current = Some(Loss { since: now, reason, is_logged });
        if self.logged.len() == LINES_MAX {
            return None;
        }
        self.logged.push_back(now);
        self.line()
    }

    /// What to log now about a loss that lasts.
    pub(crate) fn lasting(&mut self, now: Instant) -> Option<Line> {
        let lasts = |loss: &Loss| !loss.is_logged && loss.since + LASTING <= now;
        self.current.as_ref().filter(|loss| lasts(loss))?;
        self.line()
    }

    /// The loss is over, or its source is no longer followed: whether to log that. Without a loss,
    /// there is nothing to log.
    pub(crate) fn back(&mut self) -> bool {
        let Some(loss) = self.current.take() else { return false };
        self.spared += u64::from(!loss.is_logged);
        loss.is_logged
    }

    fn line(&mut self) -> Option<Line> {
        let loss = self.current.as_mut()?;
        loss.is_logged = true;
        Some(Line { reason: Arc::clone(&loss.reason), spared: std::mem::take(&mut self.spared) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_source_that_flaps_makes_few_lines_and_each_loss_in_the_log_has_its_end() {
        let (mut flapping, mut now) = (Flapping::default(), Instant::now());
        let (mut losses, mut ends, mut spared) = (0, 0, 0);
        for _ in 0..600 {
            if let Some(line) = flapping.lost(now, &"NXDOMAIN".into()) {
                losses += 1;
                spared += line.spared;
            }
            now += SECOND;
            assert_eq!(flapping.lasting(now), None);
            ends += usize::from(flapping.back());
            now += SECOND;
        }
        // 20 minutes of it.
        assert_eq!((losses, ends), (21, 21));
        assert_eq!(losses as u64 + spared + flapping.spared, 600, "none is forgotten");
    }

    #[test]
    fn a_loss_that_lasts_is_logged_whatever_came_before_it() {
        let (mut flapping, now) = (Flapping::default(), Instant::now());
        for _ in 0..4 {
            flapping.lost(now, &"short".into());
            flapping.back();
        }
        assert_eq!(flapping.lost(now, &"long".into()), None);
        assert_eq!(flapping.lasting(now + LASTING - SECOND), None);
        let line = Line { reason: "long".into(), spared: 1 };
        assert_eq!(flapping.lasting(now + LASTING), Some(line));
        assert_eq!(flapping.lasting(now + LASTING), None, "once");
        assert!(flapping.back());
        assert_eq!(flapping.lasting(now + LASTING), None);
        assert!(!flapping.back(), "a loss ends once");
    }

    #[test]
    fn a_source_that_is_lost_now_and_then_has_all_its_lines() {
        let (mut flapping, now) = (Flapping::default(), Instant::now());
        for n in 0..20 {
            assert!(flapping.lost(now + PERIOD * n / 3, &"away".into()).is_some(), "{n}");
            assert!(flapping.back());
        }
    }
}
