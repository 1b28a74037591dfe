//! How many rows a statement may have, where rows are slow, or belong to more partitions than the server has
//! locks for: otherwise each batch of a backlog would run into that limit before it is halved.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::session::STATEMENT_TIMEOUT;
use crate::error::Error;
use crate::telemetry::logs::RateLimit;

/// Twice as many rows take less than a quarter of the time limit then.
const FAST: Duration = STATEMENT_TIMEOUT.checked_div(8).expect("8 is not 0");

const WARN_EVERY: Duration = Duration::from_secs(1);

/// Learned from statements, by all writers.
#[derive(Debug)]
pub(super) struct PartLimit {
    /// 0: no limit.
    rows: AtomicUsize,
    warned: RateLimit,
}

impl Default for PartLimit {
    fn default() -> Self {
        Self {
            rows: AtomicUsize::default(),
            warned: RateLimit::new(1, WARN_EVERY),
        }
    }
}

impl PartLimit {
    /// Rows of a statement at most.
    pub(super) fn rows(&self) -> usize {
        match self.rows.load(Ordering::Relaxed) {
            0 => usize::MAX,
            rows => rows,
        }
    }

    /// A statement with so many rows was too much.
    pub(super) fn too_much(&self, rows: usize) {
        let limit = self.rows().min(rows / 2).max(1);
        self.rows.store(limit, Ordering::Relaxed);
    }

    /// At most once a second.
    pub(super) fn warn(&self, error: &Error, rows: usize) {
        if let Some(suppressed) = self.warned.allow() {
            tracing::warn!(
                %error, rows, suppressed,
                "a batch took Postgres too long, or too many locks; it is written in halves"
            );
        }
    }

    /// A statement with so many rows took that long.
    pub(super) fn stored(&self, rows: usize, took: Duration) {
        let limit = self.rows();
        if rows >= limit && took < FAST {
            self.rows.store(limit.saturating_mul(2), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_with_late_statements_and_doubles_with_fast_ones_that_are_full() {
        let limit = PartLimit::default();
        assert_eq!(limit.rows(), usize::MAX);
        limit.stored(2_000, Duration::ZERO);
        assert_eq!(limit.rows(), usize::MAX);
        limit.too_much(2_000);
        assert_eq!(limit.rows(), 1_000);
        limit.stored(1_000, Duration::from_secs(20));
        limit.stored(999, Duration::ZERO);
        assert_eq!(limit.rows(), 1_000);
        limit.stored(1_000, Duration::from_secs(1));
        assert_eq!(limit.rows(), 2_000);
        limit.too_much(1);
        assert_eq!(limit.rows(), 1);
    }
}
