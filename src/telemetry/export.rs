//! The task that takes traces from the queue and hands them to the exporter.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanExporter;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::logs::RateLimit;
use super::span_queue::{BatchSpan, Timed, Trace};
use super::span_totals::{QueueShare, Totals};
use crate::labels::SpanResult;

/// A request is closed at this many spans, at the end of a trace.
const REQUEST_SPANS: usize = 512;
/// How long the first span of a request waits for others.
const REQUEST_LINGER: Duration = Duration::from_millis(200);
/// A request, retries included, takes no longer; then its spans have failed.
pub(crate) const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a collector that stays away is mentioned in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Takes traces from the queue and exports them, one request at a time.
pub(crate) struct ExportTask {
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
    pub(crate) async fn run(mut self, exporter: impl SpanExporter) {
        while let Some(first) = self.first().await {
            let traces = self.request(first).await;
            self.export(&exporter, traces).await;
        }
    }

    async fn first(&mut self) -> Option<Trace> {
        tokio::select! {
            biased;
            trace = self.output.recv() => trace,
            () = self.closing.cancelled() => self.output.try_recv().ok(),
        }
    }

    /// Collects the traces of one request; does not wait for more while the process ends.
    async fn request(&mut self, first: Trace) -> Vec<Trace> {
        let mut room = QueueShare::default();
        room += first.room();
        let mut traces = vec![first];
        let deadline = Instant::now() + REQUEST_LINGER;
        while room.spans < REQUEST_SPANS {
            let next = tokio::select! {
                biased;
                trace = self.output.recv() => trace,
                () = tokio::time::sleep_until(deadline) => None,
                () = self.closing.cancelled() => None,
            };
            let Some(trace) = next else {
                break;
            };
            room += trace.room();
            traces.push(trace);
        }
        self.totals.leave_room(room);
        traces
    }

    async fn export(&mut self, exporter: &impl SpanExporter, mut traces: Vec<Trace>) {
        let mut spans = Vec::with_capacity(REQUEST_SPANS);
        for trace in &mut traces {
            spans.append(&mut trace.spans);
        }
        let own = spans.len();
        let mut under_way = UnderWay {
            totals: self.totals.clone(),
            spans: own,
            batches: missing_batches(&traces),
            accepted: false,
        };
        let batches = under_way.batches.iter();
        spans.extend(batches.map(|batch| batch.span().clone()));
        let result = match tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(spans)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        under_way.accepted = result.is_ok();
        drop(under_way);
        if let Err(error) = result {
            if let Some(spans) = self.complaints.failed(own) {
                tracing::warn!(error, spans, "the collector did not take spans");
            }
            return;
        }
        if let Some(not_taken) = self.complaints.succeeded() {
            tracing::info!(not_taken, "the collector takes spans again");
        }
        let metrics = &self.totals.metrics;
        for (timed, exemplar) in traces.iter().flat_map(|trace| &trace.exemplars) {
            match timed {
                Timed::Stage(stage) => metrics.stage_seconds[*stage].attach_exemplar(*exemplar),
                Timed::EndToEnd => metrics.end_to_end_seconds.attach_exemplar(*exemplar),
            }
        }
    }
}

/// Traces that wait when the task ends early are dropped.
impl Drop for ExportTask {
    fn drop(&mut self) {
        self.output.close();
        while let Ok(trace) = self.output.try_recv() {
            let room = trace.room();
            self.totals.leave_room(room);
            self.totals.add(SpanResult::Dropped, room.spans);
        }
    }
}

/// The spans of a request. They count as failed unless the collector accepts them, also when the
/// process ends first.
struct UnderWay {
    totals: Arc<Totals>,
    spans: usize,
    batches: Vec<Arc<BatchSpan>>,
    accepted: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let result = if self.accepted {
            SpanResult::Exported
        } else {
            SpanResult::Failed
        };
        self.totals.add(result, self.spans);
        for batch in &self.batches {
            if self.accepted {
                batch.accepted();
            } else {
                batch.refused();
            }
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

/// Decides when to log that the collector is away, and that it is back: not at every request, and
/// not at every change of an unsteady one.
#[derive(Debug)]
struct Complaints {
    failures: RateLimit,
    recoveries: RateLimit,
    /// The collector did not take the last request, or its return is not logged yet.
    is_away: bool,
    /// Since the last log line.
    not_taken: usize,
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            failures: RateLimit::new(1, COMPLAIN_EVERY),
            recoveries: RateLimit::new(1, COMPLAIN_EVERY),
            is_away: false,
            not_taken: 0,
        }
    }
}

impl Complaints {
    /// The spans to complain about now, if it is time to.
    fn failed(&mut self, spans: usize) -> Option<usize> {
        self.is_away = true;
        self.not_taken += spans;
        self.failures.allow()?;
        Some(std::mem::take(&mut self.not_taken))
    }

    /// The spans that were not taken since the last complaint, if it is time to say that it
    /// is back.
    fn succeeded(&mut self) -> Option<usize> {
        if !self.is_away {
            return None;
        }
        self.recoveries.allow()?;
        self.is_away = false;
        Some(std::mem::take(&mut self.not_taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_comes_and_goes_is_mentioned_twice_and_no_span_is_forgotten() {
        let mut complaints = Complaints::default();
        let mut said = Vec::new();
        for _ in 0..1_000 {
            said.extend(complaints.failed(7));
            said.extend(complaints.succeeded());
        }
        assert_eq!(said, [7, 0]);
        assert_eq!(complaints.not_taken, 999 * 7);
    }
}
