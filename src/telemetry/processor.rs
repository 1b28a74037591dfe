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

/// Collects the spans of a trace until the one of them ends that has its parent elsewhere,
/// and hands them in together.
#[derive(Debug)]
pub struct QueueProcessor {
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
    /// A processor in front of `queue`.
    pub fn new(queue: SpanQueue) -> Self {
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
        trace.ended.push(span);
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
                observed: None,
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
