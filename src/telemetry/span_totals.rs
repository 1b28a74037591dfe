//! The counts of the span queue: what was built, what became of it, and what waits.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use strum::VariantArray as _;

use super::Metrics;
use crate::labels::{Queue, SpanResult};

/// Spans that wait at most: about six seconds of the default budget.
pub(super) const QUEUE_MAX_SPANS: usize = 8_192;
/// About what they take in memory at most. Ordinary traces meet the limit of spans first; what
/// producers, callers and errors write into them can make them much larger.
pub(super) const QUEUE_MAX_BYTES: usize = 16 << 20;

/// A part of the queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QueueShare {
    pub(super) spans: usize,
    pub(super) bytes: usize,
}

impl AddAssign for QueueShare {
    fn add_assign(&mut self, other: Self) {
        self.spans += other.spans;
        self.bytes += other.bytes;
    }
}

/// Counts of spans since the process started. Handles of metrics cannot be read, so they are kept here.
#[derive(Debug)]
pub(super) struct Totals {
    built: AtomicU64,
    results: [AtomicU64; SpanResult::VARIANTS.len()],
    pub(super) waiting_spans: AtomicUsize,
    pub(super) waiting_bytes: AtomicUsize,
    pub(super) metrics: Metrics,
}

impl Totals {
    pub(super) fn new(metrics: Metrics) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        let capacity = QUEUE_MAX_SPANS as f64;
        metrics.queue_capacity[Queue::Export].set(capacity);
        Self {
            built: AtomicU64::default(),
            results: Default::default(),
            waiting_spans: AtomicUsize::default(),
            waiting_bytes: AtomicUsize::default(),
            metrics,
        }
    }

    /// Counts spans that were built; their fate makes them show.
    pub(super) fn add_built(&self, spans: usize) {
        self.built.fetch_add(spans as u64, Ordering::Relaxed);
    }

    pub(super) fn built(&self) -> u64 {
        self.built.load(Ordering::Relaxed)
    }

    /// Counts spans whose fate is known.
    pub(super) fn add(&self, result: SpanResult, spans: usize) {
        self.results[result as usize].fetch_add(spans as u64, Ordering::Release);
        self.publish();
    }

    pub(super) fn of(&self, result: SpanResult) -> u64 {
        self.results[result as usize].load(Ordering::Acquire)
    }

    /// Takes room, if there is enough.
    pub(super) fn take_room(&self, room: QueueShare) -> bool {
        if !take(&self.waiting_spans, room.spans, QUEUE_MAX_SPANS) {
            return false;
        }
        let has_bytes = take(&self.waiting_bytes, room.bytes, QUEUE_MAX_BYTES);
        if !has_bytes {
            self.waiting_spans.fetch_sub(room.spans, Ordering::Relaxed);
        }
        has_bytes
    }

    pub(super) fn leave_room(&self, room: QueueShare) {
        self.waiting_spans.fetch_sub(room.spans, Ordering::Relaxed);
        self.waiting_bytes.fetch_sub(room.bytes, Ordering::Relaxed);
        self.publish();
    }

    /// Shows the counts as they are now.
    pub(super) fn publish(&self) {
        // A span is built before it has a result. So the results are read first and shown
        // last: whoever reads them before what was built never sees more of them.
        let results = SpanResult::VARIANTS.iter().map(|result| self.of(*result));
        let results: Vec<u64> = results.collect();
        let built = self.built();
        self.metrics.spans_built.absolute(built);
        for (&result, spans) in SpanResult::VARIANTS.iter().zip(results) {
            self.metrics.spans[result].absolute(spans);
        }
        let waiting = self.waiting_spans.load(Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        self.metrics.queue_depth[Queue::Export].set(waiting as f64);
    }
}

/// Adds to a counter, unless it would be above `max` then.
fn take(counter: &AtomicUsize, count: usize, max: usize) -> bool {
    let more = |before: usize| Some(before + count).filter(|after| *after <= max);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}
