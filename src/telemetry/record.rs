//! The timing record that every message carries: a few numbers, no span, no
//! allocation, no lock. Settlement reads it.

use std::sync::LazyLock;
use std::time::Instant;

/// Where the process's monotonic clock starts; marks count from here.
static PROCESS_START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Ends of the stages that a message passes by itself. What a whole batch
/// passes together is marked once, on the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The source read the delivery.
    Received,
    /// Its envelope was decoded, or refused.
    Decoded,
    /// Its batch was closed.
    Batched,
    /// A writer took its batch.
    StoreBegan,
    /// Its row was committed, or its dead letter acknowledged.
    Durable,
    /// The cache was written, or skipped.
    Cached,
}

/// Monotonic times in nanoseconds since the process started; 0 where the message has not been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record([u64; 6]);

impl Record {
    /// A record of a message that was received now.
    pub fn received() -> Self {
        let mut record = Self::default();
        record.mark(Mark::Received, now_nanos());
        record
    }

    /// Notes that a stage ended at `nanos` (see [`now_nanos`]).
    pub fn mark(&mut self, mark: Mark, nanos: u64) {
        self.0[mark as usize] = nanos;
    }

    /// When a stage ended, if the message has been there.
    pub fn at(&self, mark: Mark) -> Option<u64> {
        Some(self.0[mark as usize]).filter(|nanos| *nanos != 0)
    }
}

/// Nanoseconds since the process started, never 0.
pub fn now_nanos() -> u64 {
    u64::try_from(PROCESS_START.elapsed().as_nanos()).map_or(u64::MAX, |nanos| nanos.max(1))
}
