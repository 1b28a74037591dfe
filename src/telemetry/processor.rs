//! Spans of the SDK, from `tracing`, go into the queue too: one exporter, one set of counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::{Span as _, SpanId, TraceContextExt, TraceId};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::span_queue::{SpanQueue, Trace};

/// Traces of this process that are not at their end; requests at a time are fewer. A span of
/// one more goes into the queue alone.
const OPEN_TRACES_MAX: usize = 1_024;

/// Spans that are collected of one trace; those that end after so many are left out, all but the
/// last, which has its parent elsewhere.
const TRACE_MAX_SPANS: usize = 64;

/// Collects the spans of a trace until the one of them ends that has its parent elsewhere,
/// and hands them in together.
#[derive(Debug)]
pub(crate) struct QueueProcessor {
    queue: SpanQueue,
    open: Mutex<HashMap<TraceId, Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// Spans with their parent elsewhere: a caller can have several requests in one trace.
    roots: usize,
    ended: Vec<SpanData>,
}

impl QueueProcessor {
    pub(crate) fn new(queue: SpanQueue) -> Self {
        Self {
            queue,
            open: Mutex::default(),
        }
    }

    /// Every holder only moves plain values.
    fn open(&self) -> MutexGuard<'_, HashMap<TraceId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spans to hand in now that this one has ended.
    fn ended(&self, span: SpanData) -> Vec<SpanData> {
        let is_root = span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID;
        let mut open = self.open();
        let Entry::Occupied(mut entry) = open.entry(span.span_context.trace_id()) else {
            return vec![span];
        };
        let trace = entry.get_mut();
        if is_root || trace.ended.len() < TRACE_MAX_SPANS {
            trace.ended.push(span);
        } else {
            self.queue.leave_out();
        }
        if !is_root {
            return Vec::new();
        }
        let spans = std::mem::take(&mut trace.ended);
        trace.roots -= 1;
        if trace.roots == 0 {
            entry.remove();
        }
        spans
    }
}

impl SpanProcessor for QueueProcessor {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        let parent = parent.span().span_context().clone();
        if parent.is_valid() && !parent.is_remote() {
            return;
        }
        let mut open = self.open();
        let trace_id = span.span_context().trace_id();
        if open.len() < OPEN_TRACES_MAX || open.contains_key(&trace_id) {
            open.entry(trace_id).or_default().roots += 1;
        }
    }

    fn on_end(&self, span: SpanData) {
        let spans = self.ended(span);
        if !spans.is_empty() {
            self.queue.offer(Trace {
                spans,
                batch: None,
                exemplars: Vec::new(),
            });
        }
    }

    /// The export task flushes when the queue is closed.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    use super::*;
    use crate::labels::SpanResult;
    use crate::telemetry::Metrics;

    #[test]
    fn a_trace_of_too_many_spans_keeps_the_first_ones_and_its_root_and_counts_the_rest() {
        let (queue, _task) = SpanQueue::new(Metrics::default());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(QueueProcessor::new(queue.clone()))
            .with_sampler(Sampler::AlwaysOn)
            .build();
        let tracer = provider.tracer("test");
        tracer.in_span("root", |_| {
            for _ in 0..1_000 {
                tracer.in_span("child", |_| {});
            }
        });
        let kept = TRACE_MAX_SPANS as u64 + 1;
        assert_eq!(queue.built(), 1_001);
        assert_eq!(queue.count(SpanResult::Dropped), 1_001 - kept);
    }
}
