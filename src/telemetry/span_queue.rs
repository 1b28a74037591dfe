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

use opentelemetry::Context;
use opentelemetry::trace::SpanContext;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use strum::VariantArray as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Metrics;
use super::export::ExportTask;
use super::histogram::Exemplar;
use super::spans::size_bytes;
use crate::labels::{Queue, SpanResult, Stage};

/// Spans that wait at most: about six seconds of the default budget.
const SPANS_MAX: u32 = 8_192;
/// About what they take in memory at most. Ordinary traces meet the limit of spans first; what
/// producers, callers and errors write into them can make them much larger.
const BYTES_MAX: usize = 16 << 20;

/// Spans that are exported together or not at all.
pub(crate) struct Trace {
    /// Its spans; at least one.
    pub(crate) spans: Vec<SpanData>,
    /// The batch's span that one of the spans links to.
    pub(crate) batch: Option<Arc<BatchSpan>>,
    /// Attached to histograms once the collector has accepted the trace.
    pub(crate) exemplars: Vec<(Timed, Exemplar)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Timed {
    /// `ganesh_stage_seconds` of this stage.
    Stage(Stage),
    /// `ganesh_end_to_end_seconds`.
    EndToEnd,
}

/// The span of a batch, to which the traces of its messages link. It goes with each of them
/// until the collector has accepted it, so that no accepted link leads nowhere. Until the last of
/// them is gone, it may still be exported.
#[derive(Debug)]
pub(crate) struct BatchSpan {
    pub(super) span: SpanData,
    pub(super) fate: Fate,
}

impl BatchSpan {
    pub(crate) fn context(&self) -> &SpanContext {
        &self.span.span_context
    }
}

/// What becomes of some spans, which is counted: exported ones at once, others when they are gone.
/// They are dropped unless the export says otherwise.
#[derive(Debug)]
pub(super) struct Fate {
    spans: u64,
    /// A [`SpanResult`].
    result: AtomicU8,
    metrics: Metrics,
}

impl Fate {
    pub(super) fn result(&self) -> SpanResult {
        SpanResult::VARIANTS[usize::from(self.result.load(Ordering::Relaxed))]
    }

    pub(super) fn set(&self, result: SpanResult) {
        self.result.store(result as u8, Ordering::Relaxed);
        if result == SpanResult::Exported {
            self.metrics.spans[result].increment(self.spans);
        }
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        let result = self.result();
        if result != SpanResult::Exported {
            self.metrics.spans[result].increment(self.spans);
        }
    }
}

/// A trace in the queue, or in a request.
pub(super) struct Queued {
    pub(super) trace: Trace,
    pub(super) fate: Fate,
}

/// The room that a trace takes in the queue, given back when this is dropped.
pub(super) struct Room {
    spans: u32,
    metrics: Metrics,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Drop for Room {
    fn drop(&mut self) {
        self.metrics.queue_depth[Queue::Export].decrement(f64::from(self.spans));
    }
}

/// Takes traces. Cloning clones `Arc`s.
#[derive(Debug, Clone)]
pub struct SpanQueue {
    metrics: Metrics,
    free_spans: Arc<Semaphore>,
    free_bytes: Arc<Semaphore>,
    // Unbounded, but never longer than there was room for.
    input: mpsc::UnboundedSender<(Queued, Room)>,
    closing: CancellationToken,
}

impl SpanQueue {
    /// An empty queue, and the task that empties it.
    pub(crate) fn new(metrics: Metrics) -> (Self, ExportTask) {
        metrics.queue_capacity[Queue::Export].set(f64::from(SPANS_MAX));
        let (input, output) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let task = ExportTask::new(output, closing.clone(), metrics.clone());
        let queue = Self {
            metrics,
            free_spans: Arc::new(Semaphore::new(SPANS_MAX as usize)),
            free_bytes: Arc::new(Semaphore::new(BYTES_MAX)),
            input,
            closing,
        };
        (queue, task)
    }

    /// Hands in a trace; dropped, and counted so, when there is no room for all of it.
    pub(crate) fn offer(&self, trace: Trace) {
        let fate = self.built(trace.spans.len());
        if let Some(room) = self.room_for(&trace) {
            // Dropped, too, when the task is gone: the process ends.
            let _ = self.input.send((Queued { trace, fate }, room));
        }
    }

    fn built(&self, spans: usize) -> Fate {
        let spans = spans as u64;
        self.metrics.spans_built.increment(spans);
        Fate {
            spans,
            result: AtomicU8::new(SpanResult::Dropped as u8),
            metrics: self.metrics.clone(),
        }
    }

    /// A batch's span counts with each trace that holds it, which may be too much.
    fn room_for(&self, trace: &Trace) -> Option<Room> {
        let batch = trace.batch.iter().map(|batch| &batch.span);
        let bytes: usize = trace.spans.iter().chain(batch).map(size_bytes).sum();
        let take = |free: &Arc<Semaphore>, count| free.clone().try_acquire_many_owned(count).ok();
        let spans = u32::try_from(trace.spans.len()).ok()?;
        let permits = [
            take(&self.free_spans, spans)?,
            take(&self.free_bytes, u32::try_from(bytes).ok()?)?,
        ];
        self.metrics.queue_depth[Queue::Export].increment(f64::from(spans));
        Some(Room {
            spans,
            metrics: self.metrics.clone(),
            _permits: permits,
        })
    }

    pub(crate) fn batch_span(&self, span: SpanData) -> BatchSpan {
        BatchSpan {
            span,
            fate: self.built(1),
        }
    }

    /// Tells the task to export what waits, and to end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Logs the spans that the collector does not have, at the end of the process.
    pub(crate) fn report_loss(&self) {
        let built = self.metrics.spans_built.get();
        let exported = self.metrics.spans[SpanResult::Exported].get();
        if exported < built {
            let dropped = self.metrics.spans[SpanResult::Dropped].get();
            let failed = self.metrics.spans[SpanResult::Failed].get();
            tracing::warn!(
                built,
                exported,
                dropped,
                failed,
                "some spans were not exported"
            );
        }
    }
}

/// Spans of `tracing` (start-up, HTTP requests, maintenance) go into the queue too: one exporter, one
/// set of counts. None of them has a child, so each is a whole trace.
impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.offer(Trace {
            spans: vec![span],
            batch: None,
            exemplars: Vec::new(),
        });
    }

    /// The export task flushes when the queue is closed.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::KeyValue;
    use opentelemetry_sdk::trace::SpanExporter;

    use super::*;
    use crate::config::{Config, Reader};
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

    /// Built, then exported, dropped and failed.
    fn counts(metrics: &Metrics) -> [u64; 4] {
        let [exported, dropped, failed] =
            std::array::from_fn(|i| metrics.spans[SpanResult::VARIANTS[i]].get());
        [metrics.spans_built.get(), exported, dropped, failed]
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_what_is_left_is_counted() {
        const TEXT: usize = 100_000;
        let metrics = Metrics::default();
        let (queue, task) = SpanQueue::new(metrics.clone());
        for _ in 0..1_000 {
            queue.offer(trace(TEXT, None));
        }
        let free = queue.free_bytes.available_permits();
        assert!(free < 2 * TEXT, "{free}");
        let waiting = u64::from(SPANS_MAX) - queue.free_spans.available_permits() as u64;
        assert_eq!(counts(&metrics), [2_000, 0, 2_000 - waiting, 0]);
        drop(task);
        assert_eq!(counts(&metrics), [2_000, 0, 2_000, 0]);
        assert_eq!(queue.free_bytes.available_permits(), BYTES_MAX);
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_has_failed_and_the_rest_was_dropped() {
        let metrics = Metrics::default();
        let (queue, task) = SpanQueue::new(metrics.clone());
        let batch = Arc::new(queue.batch_span(span([2; 16], "batch", 1, 2)));
        // More than one request.
        for _ in 0..300 {
            queue.offer(trace(1, Some(&batch)));
        }
        drop(batch);
        let config = Config::read(Reader::default()).expect("the defaults are valid");
        let task = tokio::spawn(task.run(Hangs, config.telemetry.otlp));
        queue.close();
        tokio::time::sleep(Duration::from_millis(50)).await;
        task.abort();
        let _ = task.await;
        // Of the 600, 512 were under way, and the span of the batch with them.
        assert_eq!(counts(&metrics), [601, 0, 88, 513]);
    }
}
