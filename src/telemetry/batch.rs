//! The record of one batch: what its messages pass together is noted once.

use std::sync::{Arc, OnceLock};

use super::record::Failures;
use super::span_queue::BatchSpan;

/// When a batch was where (nanoseconds of [`super::record::now_nanos`]), and what failed.
#[derive(Debug, Default)]
pub struct BatchRecord {
    /// When it was closed: nothing was added any more.
    pub closed: u64,
    /// When a writer took it.
    pub store_began: u64,
    /// When every row of it was decided: committed, or refused.
    pub durable: u64,
    /// Its messages.
    pub events: usize,
    /// Attempts to write it that failed.
    pub failures: Failures,
    /// Its own span, once a message of it was kept.
    span: OnceLock<Arc<BatchSpan>>,
}

impl BatchRecord {
    /// The record of a batch whose rows are all decided.
    pub fn new(
        closed: u64,
        store_began: u64,
        durable: u64,
        events: usize,
        failures: Failures,
    ) -> Self {
        Self {
            closed,
            store_began,
            durable,
            events,
            failures,
            span: OnceLock::new(),
        }
    }

    /// The batch's span: built for the first of its messages that is kept, the same one for
    /// the others.
    pub fn span(&self, build: impl FnOnce() -> BatchSpan) -> Arc<BatchSpan> {
        self.span.get_or_init(|| Arc::new(build())).clone()
    }
}
