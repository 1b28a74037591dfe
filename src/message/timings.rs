//! When a message was where: a few numbers, no span, no lock, no allocation. They are read when the
//! message is settled.
//!
//! What a message passes by itself is noted on the message (received, decode began, decoded); what a batch
//! passes as a whole is noted once, on the batch (taken by a writer, durable, cached).

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use crate::error::{Code, Error};
use crate::text::cut;

/// Start of the process's monotonic clock; marks count from here.
static PROCESS_START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Error details in telemetry are cut at this length.
pub(crate) const DETAIL_MAX_BYTES: usize = 512;

/// Set at start, where nothing is to be timed.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Failed attempts that are kept with details; an outage can make thousands.
pub(crate) const FAILURES_KEPT_MAX: usize = 16;

/// When a message was where: nanoseconds of [`now_nanos`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    received: u64,
    /// 0 until then.
    decode_began: u64,
    /// 0 until then.
    decoded: u64,
}

impl Timings {
    /// A message that was received now.
    pub fn received() -> Self {
        Self {
            received: now_nanos(),
            decode_began: 0,
            decoded: 0,
        }
    }

    /// Notes that decode took it, at `nanos`. Until then it waited in JetStream or in the source.
    pub fn mark_decode_began(&mut self, nanos: u64) {
        self.decode_began = nanos;
    }

    /// Notes that its envelope was decoded, or refused, at `nanos`.
    pub fn mark_decoded(&mut self, nanos: u64) {
        self.decoded = nanos;
    }

    /// When the source read the delivery.
    pub(crate) fn received_at(&self) -> u64 {
        self.received
    }

    /// When decode took it; 0 before.
    pub fn decode_began_at(&self) -> u64 {
        self.decode_began
    }

    /// When its envelope was decoded, or refused; 0 before.
    pub fn decoded_at(&self) -> u64 {
        self.decoded
    }
}

/// An attempt that failed and was made again, or that a stage did without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedAttempt {
    /// When it failed: nanoseconds of [`now_nanos`].
    pub(crate) at: u64,
    pub(crate) code: Code,
    /// The words for people, without payloads, cut at [`DETAIL_MAX_BYTES`].
    pub(crate) detail: String,
}

/// The failed attempts of one stage: of the first ones the particulars, of all the number.
/// Empty, which is nearly always, it takes no memory of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    kept: Vec<FailedAttempt>,
    left_out: u32,
}

impl Failures {
    pub(crate) fn add(&mut self, error: &Error) {
        if self.kept.len() < FAILURES_KEPT_MAX {
            self.kept.push(FailedAttempt {
                at: now_nanos(),
                code: error.code,
                detail: cut(&error.to_string(), DETAIL_MAX_BYTES).to_owned(),
            });
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The attempts with details, oldest first.
    pub(crate) fn kept(&self) -> &[FailedAttempt] {
        &self.kept
    }

    /// How many more there were.
    pub(crate) fn left_out(&self) -> u32 {
        self.left_out
    }
}

/// One moment on both clocks: marks are monotonic, spans need the wall clock. All times of
/// a trace are converted by the same moment, so that they fit together whatever is done to
/// the wall clock meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    monotonic: u64,
    unix: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            });
        Self {
            monotonic: now_nanos(),
            unix,
        }
    }

    /// The moment as a mark: nanoseconds of [`now_nanos`].
    pub fn monotonic(&self) -> u64 {
        self.monotonic
    }

    /// The wall clock's nanoseconds since the Unix epoch at a mark.
    pub(crate) fn unix_nanos(&self, mark: u64) -> u64 {
        if mark <= self.monotonic {
            self.unix.saturating_sub(self.monotonic - mark)
        } else {
            self.unix.saturating_add(mark - self.monotonic)
        }
    }
}

/// Makes [`now_nanos`] ask no clock, so that timings stay empty (`OTEL_SDK_DISABLED`).
pub(crate) fn stop_clock() {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Nanoseconds since the process started, never 0; always 1 after [`stop_clock`].
pub fn now_nanos() -> u64 {
    if STOPPED.load(Ordering::Relaxed) {
        return 1;
    }
    u64::try_from(PROCESS_START.elapsed().as_nanos()).map_or(u64::MAX, |nanos| nanos.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Dependency};

    #[test]
    fn marks_convert_to_the_wall_clock_on_both_sides_of_the_moment() {
        let moment = Moment {
            monotonic: 1_000,
            unix: 5_000_000,
        };
        assert_eq!(moment.unix_nanos(400), 4_999_400);
        assert_eq!(moment.unix_nanos(1_000), 5_000_000);
        assert_eq!(moment.unix_nanos(1_250), 5_000_250);
    }

    #[test]
    fn failures_keep_the_first_ones_and_count_the_rest() {
        let error = Error::new(
            Dependency::Postgres,
            Class::Transient,
            Code::Timeout,
            "löng ".repeat(1_000),
        );
        let mut failures = Failures::default();
        assert!(failures.is_empty());
        for _ in 0..FAILURES_KEPT_MAX + 5 {
            failures.add(&error);
        }
        assert_eq!(failures.kept().len(), FAILURES_KEPT_MAX);
        assert_eq!(failures.left_out(), 5);
        let detail = &failures.kept()[0].detail;
        assert!((508..=512).contains(&detail.len()), "{detail}");
    }
}
