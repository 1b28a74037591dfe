//! The one way out for spans: a bounded queue of whole traces, and what becomes of each span.
//!
//! ```text
//!  kept messages ──┐ offer                        ┌▶ accepted: count, attach exemplars
//!                  ├──▶ queue, ≤ 8,192 spans ─512─┤
//!  SpanProcessor ──┘      │   ≤ 16 MiB            └▶ refused, late: count, say so
//!                         ▼ no room
//!                      dropped, whole
//! ```
//!
//! The SDK's batch processor drops single spans, silently, at 2,048 of them; so the queue,
//! its limit and its counters are ours. spans built = exported + dropped + failed, once the
//! queue is empty and no request is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use opentelemetry::trace::SpanContext;
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use super::export::ExportTask;
use super::histogram::Exemplar;
use super::span_bytes;
use super::span_totals::{QueueShare, Totals};
use crate::labels::{SpanResult, Stage};

/// Spans that are exported together or not at all.
pub(crate) struct Trace {
    /// Its spans; at least one.
    pub(crate) spans: Vec<SpanData>,
    /// The batch's span that one of the spans links to.
    pub(crate) batch: Option<Arc<BatchSpan>>,
    /// Attached to histograms once the collector has accepted the trace.
    pub(crate) exemplars: Vec<(Timed, Exemplar)>,
}

impl Trace {
    /// Its share of the queue. A batch's span counts with each trace that holds it, which may be
    /// too much.
    pub(super) fn room(&self) -> QueueShare {
        let batch = self
            .batch
            .as_ref()
            .map(|batch| span_bytes::of(batch.span()));
        let own: usize = self.spans.iter().map(span_bytes::of).sum();
        QueueShare {
            spans: self.spans.len(),
            bytes: own + batch.unwrap_or(0),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Timed {
    /// `ganesh_stage_seconds` of this stage.
    Stage(Stage),
    /// `ganesh_end_to_end_seconds`.
    EndToEnd,
}

/// The span of a batch, to which the traces of its messages link. It goes with each of them
/// until the collector has accepted it, so that no accepted link leads nowhere.
#[derive(Debug)]
pub(crate) struct BatchSpan {
    span: SpanData,
    fate: AtomicU8,
    totals: Arc<Totals>,
}

const WAITING: u8 = 0;
const FAILED: u8 = 1;
const EXPORTED: u8 = 2;

impl BatchSpan {
    pub(super) fn span(&self) -> &SpanData {
        &self.span
    }

    pub(crate) fn context(&self) -> &SpanContext {
        &self.span.span_context
    }

    pub(super) fn is_exported(&self) -> bool {
        self.fate.load(Ordering::Relaxed) == EXPORTED
    }

    pub(super) fn accepted(&self) {
        if self.fate.swap(EXPORTED, Ordering::Relaxed) != EXPORTED {
            self.totals.add(SpanResult::Exported, 1);
        }
    }

    pub(super) fn refused(&self) {
        self.fate.store(FAILED, Ordering::Relaxed);
    }
}

/// Until the last trace that links to it is gone, it may still be exported.
impl Drop for BatchSpan {
    fn drop(&mut self) {
        match *self.fate.get_mut() {
            EXPORTED => {}
            FAILED => self.totals.add(SpanResult::Failed, 1),
            _ => self.totals.add(SpanResult::Dropped, 1),
        }
    }
}

/// Takes traces. Cloning clones an `Arc`.
#[derive(Debug, Clone)]
pub struct SpanQueue {
    totals: Arc<Totals>,
    // Unbounded, but never longer than what `totals` has let in.
    input: mpsc::UnboundedSender<Trace>,
    closing: CancellationToken,
}

impl SpanQueue {
    /// An empty queue, and the task that empties it.
    pub(crate) fn new(metrics: Metrics) -> (Self, ExportTask) {
        let (input, output) = mpsc::unbounded_channel();
        let queue = Self {
            totals: Arc::new(Totals::new(metrics)),
            input,
            closing: CancellationToken::new(),
        };
        let task = ExportTask::new(queue.totals.clone(), output, queue.closing.clone());
        (queue, task)
    }

    /// Hands in a trace; dropped, and counted so, when there is no room for all of it.
    pub(crate) fn offer(&self, trace: Trace) {
        let room = trace.room();
        self.totals.add_built(room.spans);
        if !self.totals.take_room(room) {
            self.totals.add(SpanResult::Dropped, room.spans);
        } else if self.input.send(trace).is_err() {
            // The task is gone: the process ends.
            self.totals.leave_room(room);
            self.totals.add(SpanResult::Dropped, room.spans);
        } else {
            self.totals.publish();
        }
    }

    /// Counts a span that is not handed in, because its trace has too many.
    pub(super) fn leave_out(&self) {
        self.totals.add_built(1);
        self.totals.add(SpanResult::Dropped, 1);
    }

    pub(crate) fn batch_span(&self, span: SpanData) -> BatchSpan {
        self.totals.add_built(1);
        BatchSpan {
            span,
            fate: AtomicU8::new(WAITING),
            totals: self.totals.clone(),
        }
    }

    /// Tells the task to export what waits, and to end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Spans with this result since the process started.
    pub(crate) fn count(&self, result: SpanResult) -> u64 {
        self.totals.of(result)
    }

    /// Spans that were built since the process started.
    pub(crate) fn built(&self) -> u64 {
        self.totals.built()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::KeyValue;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::SpanExporter;
    use strum::VariantArray as _;

    use super::*;
    use crate::telemetry::span_totals::QUEUE_MAX_BYTES;
    use crate::telemetry::spans::span;

    /// Never answers, as a collector that hangs does not.
    #[derive(Debug)]
    struct Hangs;

    impl SpanExporter for Hangs {
        async fn export(&self, _spans: Vec<SpanData>) -> OTelSdkResult {
            std::future::pending().await
        }
    }

    fn trace(text_bytes: usize, batch: Option<&Arc<BatchSpan>>) -> Trace {
        let mut long = span([1; 16], "test", 1, 2);
        let text = "x".repeat(text_bytes);
        long.attributes.push(KeyValue::new("text", text));
        Trace {
            spans: vec![long, span([1; 16], "test", 1, 2)],
            batch: batch.cloned(),
            exemplars: Vec::new(),
        }
    }

    fn counts(queue: &SpanQueue) -> (u64, [u64; 3]) {
        (
            queue.built(),
            std::array::from_fn(|i| queue.count(SpanResult::VARIANTS[i])),
        )
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_what_is_left_is_counted() {
        const TEXT: usize = 100_000;
        let (queue, task) = SpanQueue::new(Metrics::default());
        for _ in 0..1_000 {
            queue.offer(trace(TEXT, None));
        }
        let waiting = queue.totals.waiting_bytes.load(Ordering::Relaxed);
        assert!(waiting <= QUEUE_MAX_BYTES, "{waiting}");
        assert!(waiting > QUEUE_MAX_BYTES - 2 * TEXT, "{waiting}");
        let (built, [exported, dropped, failed]) = counts(&queue);
        let waiting = queue.totals.waiting_spans.load(Ordering::Relaxed) as u64;
        assert_eq!((built, exported, failed), (2_000, 0, 0));
        assert_eq!(dropped + waiting, 2_000);
        drop(task);
        assert_eq!(counts(&queue), (2_000, [0, 2_000, 0]));
        let waiting = queue.totals.waiting_bytes.load(Ordering::Relaxed);
        assert_eq!(waiting, 0);
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_has_failed_and_the_rest_was_dropped() {
        let (queue, task) = SpanQueue::new(Metrics::default());
        let batch = Arc::new(queue.batch_span(span([2; 16], "batch", 1, 2)));
        // More than one request.
        for _ in 0..300 {
            queue.offer(trace(1, Some(&batch)));
        }
        drop(batch);
        let task = tokio::spawn(task.run(Hangs));
        queue.close();
        tokio::time::sleep(Duration::from_millis(50)).await;
        task.abort();
        let _ = task.await;
        // Of the 600, 512 were under way, and the span of the batch with them.
        assert_eq!(counts(&queue), (601, [0, 88, 513]));
    }
}
