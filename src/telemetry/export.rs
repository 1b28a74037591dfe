//! The task that takes traces from the queue and hands them to the exporter.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanExporter;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::histogram::Histogram;
use super::logs::OutageLog;
use super::span_queue::{BatchSpan, Fate, Queued, Room, Timed};
use super::{Metrics, collector};
use crate::config::OtlpConfig;
use crate::labels::SpanResult;

/// A request is closed at this many spans, at the end of a trace.
const REQUEST_SPANS: usize = 512;
/// How long the first span of a request waits for others.
const REQUEST_LINGER: Duration = Duration::from_millis(200);

/// Takes traces from the queue and exports them, one request at a time.
pub(crate) struct ExportTask {
    output: mpsc::UnboundedReceiver<(Queued, Room)>,
    closing: CancellationToken,
    metrics: Metrics,
    outage: OutageLog,
}

impl ExportTask {
    pub(super) fn new(
        output: mpsc::UnboundedReceiver<(Queued, Room)>,
        closing: CancellationToken,
        metrics: Metrics,
    ) -> Self {
        Self {
            output,
            closing,
            metrics,
            outage: OutageLog::default(),
        }
    }

    /// Exports until the queue is closed and empty. The exporter has been told its resource.
    pub(crate) async fn run(mut self, exporter: impl SpanExporter, config: OtlpConfig) {
        while let Some(first) = self.next().await {
            let traces = self.request(first).await;
            self.export(&exporter, &config, traces).await;
        }
    }

    /// The next trace, which leaves the queue. Does not wait for one while the process ends.
    async fn next(&mut self) -> Option<Queued> {
        let next = tokio::select! {
            biased;
            next = self.output.recv() => next,
            () = self.closing.cancelled() => self.output.try_recv().ok(),
        };
        next.map(|(queued, _room)| queued)
    }

    /// Collects the traces of one request.
    async fn request(&mut self, first: Queued) -> Vec<Queued> {
        let mut spans = first.trace.spans.len();
        let mut traces = vec![first];
        let deadline = Instant::now() + REQUEST_LINGER;
        while spans < REQUEST_SPANS {
            let Ok(Some(next)) = tokio::time::timeout_at(deadline, self.next()).await else {
                break;
            };
            spans += next.trace.spans.len();
            traces.push(next);
        }
        traces
    }

    async fn export(
        &mut self,
        exporter: &impl SpanExporter,
        config: &OtlpConfig,
        mut traces: Vec<Queued>,
    ) {
        let mut spans = Vec::with_capacity(REQUEST_SPANS);
        for queued in &mut traces {
            spans.append(&mut queued.trace.spans);
        }
        let own = spans.len() as u64;
        let batches = missing_batches(&traces);
        spans.extend(batches.iter().map(|batch| batch.span.clone()));
        let fates = traces.iter().map(|queued| &queued.fate);
        let fates: Vec<&Fate> = fates
            .chain(batches.iter().map(|batch| &batch.fate))
            .collect();
        // Also when the process ends before the collector answers.
        for fate in &fates {
            fate.set(SpanResult::Failed);
        }
        let result = match tokio::time::timeout(config.timeout, exporter.export(spans)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        if let Err(error) = result {
            if let Some(spans) = self.outage.failed(own) {
                let error = cause(config).await.unwrap_or(error);
                tracing::warn!(error, spans, "the collector did not take spans");
            }
            return;
        }
        for fate in &fates {
            fate.set(SpanResult::Exported);
        }
        if let Some(not_taken) = self.outage.succeeded() {
            tracing::info!(not_taken, "the collector takes spans again");
        }
        for (timed, exemplar) in traces.iter().flat_map(|queued| &queued.trace.exemplars) {
            let histogram: &Histogram = match timed {
                Timed::Stage(stage) => &self.metrics.stage_seconds[*stage],
                Timed::EndToEnd => &self.metrics.end_to_end_seconds,
            };
            histogram.attach_exemplar(*exemplar);
        }
    }
}

/// Why TLS does not work, if that is it.
async fn cause(config: &OtlpConfig) -> Option<String> {
    if !config.is_encrypted() {
        return None;
    }
    collector::peer(config).await.err()
}

/// The batches' spans that these traces link to and that the collector does not have.
fn missing_batches(traces: &[Queued]) -> Vec<Arc<BatchSpan>> {
    let mut missing: Vec<Arc<BatchSpan>> = Vec::new();
    for batch in traces
        .iter()
        .filter_map(|queued| queued.trace.batch.as_ref())
    {
        let known = missing.iter().any(|other| Arc::ptr_eq(other, batch));
        if !known && batch.fate.result() != SpanResult::Exported {
            missing.push(batch.clone());
        }
    }
    missing
}
