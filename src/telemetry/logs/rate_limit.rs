//! A bound on lines that repeat.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets a repeated line through a few times in a window and counts the rest: what happens at
/// the rate of messages, or at every attempt of an outage, must not fill a disk.
#[derive(Debug)]
pub(crate) struct RateLimit {
    lines_max: u32,
    window: Duration,
    state: Mutex<RateWindow>,
}

#[derive(Debug, Default)]
struct RateWindow {
    began: Option<Instant>,
    said: u32,
    suppressed: u64,
}

/// Ten lines a second.
impl Default for RateLimit {
    fn default() -> Self {
        Self::new(10, Duration::from_secs(1))
    }
}

impl RateLimit {
    /// At most `lines_max` lines in each window, which begins with its first line.
    pub(crate) fn new(lines_max: u32, window: Duration) -> Self {
        Self {
            lines_max,
            window,
            state: Mutex::default(),
        }
    }

    /// Returns `None` to suppress a line, or the number of lines suppressed since the last one.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self
            .state
            .lock()
            .expect("nothing panics while it holds this lock");
        let over = |began| now.duration_since(began) >= self.window;
        if state.began.is_none_or(over) {
            state.began = Some(now);
            state.said = 0;
        }
        if state.said >= self.lines_max {
            state.suppressed += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// How often [`OutageLog`] mentions one.
const MENTION_EVERY: Duration = Duration::from_secs(60);

/// Decides when to log that something fails, and that it works again: not at every attempt, and
/// not at every change of an unsteady one.
#[derive(Debug)]
pub(crate) struct OutageLog {
    failures: RateLimit,
    recoveries: RateLimit,
    /// It failed, and its return is not logged yet.
    is_on: bool,
    /// Since the last log line.
    lost: u64,
}

impl Default for OutageLog {
    fn default() -> Self {
        Self {
            failures: RateLimit::new(1, MENTION_EVERY),
            recoveries: RateLimit::new(1, MENTION_EVERY),
            is_on: false,
            lost: 0,
        }
    }
}

impl OutageLog {
    /// Counts a loss that is logged with the next failure or recovery.
    pub(crate) fn add_lost(&mut self, lost: u64) {
        self.is_on = true;
        self.lost += lost;
    }

    /// Counts a failure; returns the loss to log now, if it is time to.
    pub(crate) fn failed(&mut self, lost: u64) -> Option<u64> {
        self.add_lost(lost);
        self.failures.allow()?;
        Some(std::mem::take(&mut self.lost))
    }

    /// Returns the loss that was not logged yet, if it is time to log the recovery.
    pub(crate) fn succeeded(&mut self) -> Option<u64> {
        if !self.is_on {
            return None;
        }
        self.recoveries.allow()?;
        self.is_on = false;
        Some(std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_mentioned_twice_and_no_loss_is_forgotten() {
        let mut outage = OutageLog::default();
        let mut said = Vec::new();
        for _ in 0..1_000 {
            said.extend(outage.failed(7));
            said.extend(outage.succeeded());
        }
        assert_eq!(said, [7, 0]);
        assert_eq!(outage.lost, 999 * 7);
    }

    #[test]
    fn a_window_lets_its_lines_through_and_the_next_one_says_how_many_it_did_not() {
        let limit = RateLimit::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let at = |secs| limit.allow_at(start + Duration::from_secs(secs));
        assert_eq!([at(0), at(1), at(2), at(9)], [Some(0), Some(0), None, None]);
        assert_eq!([at(10), at(11), at(12)], [Some(2), Some(0), None]);
        assert_eq!(at(1_000), Some(1));
    }
}
