//! The task that takes traces from the queue and hands them to the exporter.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanExporter;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalogue::SpanResult;
use super::span_queue::{BatchSpan, Totals, Trace};

/// A request is closed at this many spans, at the end of a trace.
const REQUEST_SPANS: usize = 512;
/// How long the first span of a request waits for others.
const REQUEST_LINGER: Duration = Duration::from_millis(200);
/// A request, retries included, takes no longer; then its spans have failed.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a collector that stays away is mentioned in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Takes traces from the queue and exports them, one request at a time.
pub struct ExportTask {
    totals: Arc<Totals>,
    output: mpsc::UnboundedReceiver<Trace>,
    closing: CancellationToken,
    complaints: Complaints,
}

impl ExportTask {
    pub(super) fn new(
        totals: Arc<Totals>,
        output: mpsc::UnboundedReceiver<Trace>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            totals,
            output,
            closing,
            complaints: Complaints::default(),
        }
    }

    /// Exports until the queue is closed and empty. The exporter has been told its resource.
    pub async fn run(mut self, exporter: impl SpanExporter) {
        while let Some(first) = self.first().await {
            let traces = self.request(first).await;
            self.export(&exporter, traces).await;
        }
    }

    /// Waits for the first trace of a request; `None` when no more will come.
    async fn first(&mut self) -> Option<Trace> {
        tokio::select! {
            biased;
            trace = self.output.recv() => trace,
            () = self.closing.cancelled() => self.output.try_recv().ok(),
        }
    }

    /// Collects the traces of one request; does not wait for more while the process ends.
    async fn request(&mut self, first: Trace) -> Vec<Trace> {
        let mut spans = first.spans.len();
        let mut traces = vec![first];
        let deadline = Instant::now() + REQUEST_LINGER;
        while spans < REQUEST_SPANS {
            let next = tokio::select! {
                biased;
                trace = self.output.recv() => trace,
                () = tokio::time::sleep_until(deadline) => None,
                () = self.closing.cancelled() => None,
            };
            let Some(trace) = next else {
                break;
            };
            spans += trace.spans.len();
            traces.push(trace);
        }
        self.totals.leave_room(spans);
        traces
    }

    async fn export(&mut self, exporter: &impl SpanExporter, mut traces: Vec<Trace>) {
        let mut spans = Vec::with_capacity(REQUEST_SPANS);
        for trace in &mut traces {
            spans.append(&mut trace.spans);
        }
        let own = spans.len();
        let batches = missing_batches(&traces);
        spans.extend(batches.iter().map(|batch| batch.span().clone()));
        let result = match tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(spans)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        if let Err(error) = result {
            self.totals.add(SpanResult::Failed, own);
            for batch in &batches {
                batch.refused();
            }
            self.complaints.failed(&error, own);
            return;
        }
        self.totals.add(SpanResult::Exported, own);
        for batch in &batches {
            batch.accepted();
        }
        self.complaints.succeeded();
        if let Some(metrics) = self.totals.metrics() {
            for observed in traces.iter().filter_map(|trace| trace.observed.as_ref()) {
                observed.attach(metrics);
            }
        }
    }
}

/// What waits when the task ends early has been dropped.
impl Drop for ExportTask {
    fn drop(&mut self) {
        self.output.close();
        while let Ok(trace) = self.output.try_recv() {
            let spans = trace.spans.len();
            self.totals.leave_room(spans);
            self.totals.add(SpanResult::Dropped, spans);
        }
    }
}

/// The batches' spans that these traces link to and that the collector does not have.
fn missing_batches(traces: &[Trace]) -> Vec<Arc<BatchSpan>> {
    let mut missing: Vec<Arc<BatchSpan>> = Vec::new();
    for batch in traces.iter().filter_map(|trace| trace.batch.as_ref()) {
        let known = missing.iter().any(|other| Arc::ptr_eq(other, batch));
        if !known && !batch.is_exported() {
            missing.push(batch.clone());
        }
    }
    missing
}

/// Says that the collector is away, and that it is back; not at every request.
#[derive(Debug, Default)]
struct Complaints {
    said_at: Option<Instant>,
    /// Since it was said last.
    spans: usize,
}

impl Complaints {
    fn failed(&mut self, error: &str, spans: usize) {
        self.spans += spans;
        if self.said_at.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            tracing::warn!(
                error,
                spans = self.spans,
                "the collector did not take spans"
            );
            *self = Self {
                said_at: Some(Instant::now()),
                spans: 0,
            };
        }
    }

    fn succeeded(&mut self) {
        if self.said_at.take().is_some() {
            tracing::info!(not_taken = self.spans, "the collector takes spans again");
            self.spans = 0;
        }
    }
}
