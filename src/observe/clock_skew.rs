//! How far the clock of the stream's host is ahead of ours. Behind cannot be told from
//! waiting; ahead shows in messages that seem to arrive before they were stored.

use super::stage_times::seconds;

/// Each half of the window that is looked back on.
const HALF_WINDOW_NANOS: u64 = 5_000_000_000;

/// The most of the last ten seconds, five at least.
#[derive(Debug, Default)]
pub(crate) struct ClockSkew {
    /// Number of the half window that `now` is of.
    half: u64,
    now_nanos: u64,
    before_nanos: u64,
}

impl ClockSkew {
    /// Notes the skew of a message, at `at` on the monotonic clock.
    pub(crate) fn note(&mut self, skew_nanos: u64, at: u64) {
        self.advance(at);
        self.now_nanos = self.now_nanos.max(skew_nanos);
    }

    /// The most that was noted, at `at` on the monotonic clock.
    pub(crate) fn seconds(&mut self, at: u64) -> f64 {
        self.advance(at);
        seconds(self.now_nanos.max(self.before_nanos))
    }

    fn advance(&mut self, at: u64) {
        let half = at / HALF_WINDOW_NANOS;
        match half.saturating_sub(self.half) {
            0 => return,
            1 => self.before_nanos = self.now_nanos,
            _ => self.before_nanos = 0,
        }
        self.now_nanos = 0;
        self.half = half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_most_is_remembered_for_a_while_and_then_forgotten() {
        let mut skew = ClockSkew::default();
        skew.note(2 * SECOND, 101 * SECOND);
        skew.note(SECOND, 102 * SECOND);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(skew.seconds(104 * SECOND), 2.0));
        assert!(close(skew.seconds(109 * SECOND), 2.0));
        assert!(close(skew.seconds(111 * SECOND), 0.0));
        skew.note(SECOND, 112 * SECOND);
        assert!(close(skew.seconds(300 * SECOND), 0.0));
    }
}
