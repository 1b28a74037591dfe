//! When the next message is due. Open loop: the schedule does not wait for
//! answers, so a slow server cannot hide how slow it is.

use std::time::Duration;

/// How far a run may fall behind its schedule before it lets go of it. Up to
/// here what is late is sent as fast as it goes; beyond, an outage of minutes
/// would end in a burst of millions.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// The shortest wait: a timer's resolution in tokio. At higher rates several
/// messages are due after one wait.
const TICK: Duration = Duration::from_millis(1);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One is due. It was at this time since the start of the run, from which
    /// its latency counts.
    Due(Duration),
    /// None is due; ask again at this time since the start of the run.
    Wait(Duration),
}

/// The schedule of a fixed rate: number n is due n / rate seconds after the start.
#[derive(Debug)]
pub struct Pacer {
    rate_per_second: u32,
    /// When number 0 was due; moved on when the schedule is given up.
    origin: Duration,
    /// Handed out since `origin`.
    handed_out: u64,
    missed: u64,
}

impl Pacer {
    /// A schedule that starts at once; rate 0 has none, everything is due always.
    pub fn new(rate_per_second: u32) -> Self {
        Self {
            rate_per_second,
            origin: Duration::ZERO,
            handed_out: 0,
            missed: 0,
        }
    }

    /// What to do at `now`, a time since the start of the run.
    pub fn next(&mut self, now: Duration) -> Pace {
        if self.rate_per_second == 0 {
            return Pace::Due(now);
        }
        self.let_go(now);
        let due = self.origin + self.offset(self.handed_out);
        if due <= now {
            self.handed_out += 1;
            Pace::Due(due)
        } else {
            Pace::Wait(due.max(now + TICK))
        }
    }

    /// Messages of the schedule that were given up, because the run was more than [`CATCH_UP_MAX`]
    /// behind.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn let_go(&mut self, now: Duration) {
        let oldest_kept = self.origin + self.offset(self.handed_out) + CATCH_UP_MAX;
        let too_late = now.saturating_sub(oldest_kept);
        let per_second = u128::from(self.rate_per_second);
        let given_up = too_late.as_nanos() * per_second / NANOS_PER_SECOND;
        let given_up = u64::try_from(given_up).unwrap_or(u64::MAX);
        self.missed += given_up;
        self.origin += self.offset(given_up);
    }

    fn offset(&self, count: u64) -> Duration {
        let nanos = u128::from(count) * NANOS_PER_SECOND / u128::from(self.rate_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;
