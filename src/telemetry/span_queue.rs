//! The one way out for spans: a bounded queue of whole traces, and what becomes of each span.
//!
//! ```text
//!  kept messages ──┐ offer                        ┌▶ accepted: count, attach exemplars
//!                  ├──▶ queue, ≤ 8,192 spans ─512─┤
//!  SpanProcessor ──┘      │ no room               └▶ refused, late: count, say so
//!                         ▼
//!                      dropped, whole
//! ```
//!
//! The SDK's batch processor drops single spans, silently, at 2,048 of them; so the queue,
//! its limit and its counters are ours. spans built = exported + dropped + failed, once the
//! queue is empty and no request is under way.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use opentelemetry::trace::SpanContext;
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use super::catalogue::{Outcome, Queue, SpanResult, Stage};
use super::export::ExportTask;
use super::histogram::Exemplar;
use super::stages::StageTimes;
use super::trace_id::TraceId;
use crate::event::Timestamp;

/// Spans that wait at most: about six seconds of the default budget.
pub const QUEUE_MAX_SPANS: usize = 8_192;

/// Spans that are exported together or not at all.
#[derive(Debug)]
pub struct Trace {
    /// Its spans; at least one.
    pub spans: Vec<SpanData>,
    /// The batch's span that one of them links to.
    pub batch: Option<Arc<BatchSpan>>,
    /// What to attach to the histograms once the collector has accepted it.
    pub observed: Option<Observed>,
}

/// What the histograms were told of a message whose trace was kept.
#[derive(Debug)]
pub struct Observed {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its stages.
    pub times: StageTimes,
    /// How it ended: end to end is observed for stored ones alone.
    pub outcome: Outcome,
}

impl Observed {
    pub(super) fn attach(&self, metrics: &Metrics) {
        let trace_id = self.trace_id;
        let at = Timestamp::from_nanos(i128::from(self.times.ended()));
        for passed in self.times.passed() {
            let value = passed.seconds();
            metrics
                .stage_seconds(passed.stage)
                .attach_exemplar(Exemplar {
                    trace_id,
                    value,
                    at,
                });
        }
        if self.outcome == Outcome::Stored
            && let Some(value) = self.times.seconds_until_end_of(Stage::Store)
        {
            metrics.end_to_end_seconds.attach_exemplar(Exemplar {
                trace_id,
                value,
                at,
            });
        }
    }
}

/// The span of a batch, to which the traces of its messages link. It goes with each of them
/// until the collector has accepted it, so that no accepted link leads nowhere.
#[derive(Debug)]
pub struct BatchSpan {
    span: SpanData,
    fate: AtomicU8,
    totals: Arc<Totals>,
}

const WAITING: u8 = 0;
const FAILED: u8 = 1;
const EXPORTED: u8 = 2;

impl BatchSpan {
    /// The span itself.
    pub(super) fn span(&self) -> &SpanData {
        &self.span
    }

    /// What to link to.
    pub fn context(&self) -> &SpanContext {
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

/// Counts of spans since the process started. They are exported once there are metrics.
#[derive(Default)]
pub(super) struct Totals {
    built: AtomicU64,
    results: [AtomicU64; SpanResult::ALL.len()],
    waiting: AtomicUsize,
    metrics: OnceLock<Metrics>,
}

impl fmt::Debug for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Totals")
            .field("built", &self.built)
            .field("results", &self.results)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Totals {
    /// Counts spans whose fate is known.
    pub(super) fn add(&self, result: SpanResult, spans: usize) {
        self.results[result as usize].fetch_add(spans as u64, Ordering::Relaxed);
        self.publish();
    }

    fn of(&self, result: SpanResult) -> u64 {
        self.results[result as usize].load(Ordering::Relaxed)
    }

    /// Takes room for so many spans, if there is any.
    fn take_room(&self, spans: usize) -> bool {
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                Some(waiting + spans).filter(|waiting| *waiting <= QUEUE_MAX_SPANS)
            })
            .is_ok()
    }

    /// Gives back the room of so many spans.
    pub(super) fn leave_room(&self, spans: usize) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        self.publish();
    }

    /// The metrics, once there are any.
    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.get()
    }

    fn publish(&self) {
        let Some(metrics) = self.metrics.get() else {
            return;
        };
        for result in SpanResult::ALL {
            metrics.spans(result).absolute(self.of(result));
        }
        // After the results: whoever reads the sum never sees more than was built.
        metrics
            .spans_built
            .absolute(self.built.load(Ordering::Relaxed));
        let waiting = self.waiting.load(Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        metrics.queue_depth(Queue::Export).set(waiting as f64);
    }
}

/// Where traces are handed in. Cloning clones an `Arc`.
#[derive(Debug, Clone)]
pub struct SpanQueue {
    totals: Arc<Totals>,
    // Unbounded, but never longer than the spans that `totals` has let in.
    input: mpsc::UnboundedSender<Trace>,
    closing: CancellationToken,
}

impl SpanQueue {
    /// An empty queue, and the task that empties it.
    pub fn new() -> (Self, ExportTask) {
        let (input, output) = mpsc::unbounded_channel();
        let queue = Self {
            totals: Arc::default(),
            input,
            closing: CancellationToken::new(),
        };
        let task = ExportTask::new(queue.totals.clone(), output, queue.closing.clone());
        (queue, task)
    }

    /// Exports the counts from now on, and those of before.
    pub fn count_in(&self, metrics: &Metrics) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        let capacity = QUEUE_MAX_SPANS as f64;
        metrics.queue_capacity(Queue::Export).set(capacity);
        // A second time it would count elsewhere what the first one knows; nobody does that.
        let _ = self.totals.metrics.set(metrics.clone());
        self.totals.publish();
    }

    /// Hands in a trace; dropped, and counted so, when there is no room for all of it.
    pub fn offer(&self, trace: Trace) {
        let spans = trace.spans.len();
        self.totals.built.fetch_add(spans as u64, Ordering::Relaxed);
        if !self.totals.take_room(spans) {
            self.totals.add(SpanResult::Dropped, spans);
        } else if self.input.send(trace).is_err() {
            // The task is gone: the process ends.
            self.totals.leave_room(spans);
            self.totals.add(SpanResult::Dropped, spans);
        } else {
            self.totals.publish();
        }
    }

    /// The span of a batch, for the traces that link to it.
    pub fn batch_span(&self, span: SpanData) -> BatchSpan {
        self.totals.built.fetch_add(1, Ordering::Relaxed);
        BatchSpan {
            span,
            fate: AtomicU8::new(WAITING),
            totals: self.totals.clone(),
        }
    }

    /// Tells the task to export what waits, and to end.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Spans with this result since the process started.
    pub fn count(&self, result: SpanResult) -> u64 {
        self.totals.of(result)
    }

    /// Spans that wait now.
    pub fn waiting(&self) -> usize {
        self.totals.waiting.load(Ordering::Relaxed)
    }
}
