//! Decides from the last 1,000 rows whether to pause writing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Rows that are remembered; half of them rejected is too many.
pub const WINDOW_ROWS: usize = 1_000;
/// How often a batch is tried while too many are rejected.
pub const PROBE_EVERY: Duration = Duration::from_secs(10);

/// Why a batch is written, which decides what its rejected rows mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOrigin {
    /// Its rows have not been tried.
    Fresh,
    /// Too many rows are rejected, and it shows whether they still are.
    Probe,
    /// Its rows were rejected while too many were.
    Again,
}

/// The last rows, and whether too many of them were rejected. Pure: it is told the time.
#[derive(Debug, Default)]
pub struct RejectionWindow {
    /// Whether each of the last rows was rejected, the oldest first.
    rows: VecDeque<bool>,
    rejected: usize,
    /// While too many are rejected: when the next batch may be tried.
    probe_at: Option<Instant>,
}

impl RejectionWindow {
    /// Notes how the rows of a batch ended: `true` is rejected. Says whether those that were
    /// are to be parked.
    pub fn note(&mut self, origin: BatchOrigin, batch: &[bool], now: Instant) -> bool {
        let rejected = batch.iter().filter(|rejected| **rejected).count();
        match (origin, self.is_paused()) {
            // Only duplicates: Postgres tried no row, so probe again at once.
            (BatchOrigin::Probe, _) if batch.is_empty() => {}
            (BatchOrigin::Probe, _) if rejected * 2 < batch.len() => *self = Self::default(),
            (BatchOrigin::Probe, _) => self.probe_at = Some(now + PROBE_EVERY),
            (BatchOrigin::Fresh, false) => {
                for rejected in batch {
                    self.push(*rejected);
                    if self.rejected * 2 >= WINDOW_ROWS {
                        self.probe_at = Some(now + PROBE_EVERY);
                    }
                }
            }
            // `Fresh`: begun before the pause. `Again`: counted at its first refusal.
            (BatchOrigin::Fresh, true) | (BatchOrigin::Again, _) => {}
        }
        // Rows that the last probe rejected are parked, too: they get a second try.
        self.is_paused() || origin == BatchOrigin::Probe
    }

    fn push(&mut self, rejected: bool) {
        if self.rows.len() == WINDOW_ROWS && self.rows.pop_front() == Some(true) {
            self.rejected -= 1;
        }
        self.rows.push_back(rejected);
        self.rejected += usize::from(rejected);
    }

    /// Whether too many rows are rejected.
    pub fn is_paused(&self) -> bool {
        self.probe_at.is_some()
    }

    /// When the next batch may be tried; `None` when every batch may be written.
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }
}

/// Says when the writers pause, and when they go on.
pub(super) fn log_pause(
    origin: BatchOrigin,
    paused: (bool, bool),
    rejected: usize,
    rows: usize,
    example: &str,
) {
    match paused {
        (false, true) => tracing::error!(
            example,
            "Postgres rejected half of the last {WINDOW_ROWS} rows: pausing. Rejected rows are parked, \
             and a batch is tried every {} s. Look for a change of the schema, of ganesh or of a \
             producer",
            PROBE_EVERY.as_secs()
        ),
        (true, true) if origin == BatchOrigin::Probe => tracing::warn!(
            rejected,
            rows,
            example,
            "still pausing: Postgres refuses half of a batch or more"
        ),
        (true, false) => tracing::info!(
            rejected,
            rows,
            "Postgres takes most rows of a batch again: going on"
        ),
        _ => {}
    }
}
