//! The producer's own span for each message that it samples: `send <pattern>`, from the first
//! sending to the acknowledgement.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceState};
use opentelemetry_sdk::trace::SpanData;

use super::messages::MessageWriter;
use super::pending::Waiting;
use crate::error::Code;
use crate::event::{Event, TraceContext};
use crate::message::timings::Moment;
use crate::telemetry::semconv as name;
use crate::telemetry::span_queue::{SpanQueue, Trace};
use crate::telemetry::spans;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Acknowledged,
    /// No acknowledgement came in time.
    Failed,
}

#[derive(Debug)]
pub(super) struct SendSpans {
    /// The pattern that all subjects of the run match.
    pattern: String,
    queue: SpanQueue,
}

impl SendSpans {
    pub(super) fn new(pattern: &str, queue: SpanQueue) -> Self {
        Self {
            pattern: pattern.to_owned(),
            queue,
        }
    }

    /// Hands in the spans of those messages that are sampled, whose sending ended at `now`
    /// since the start of the run.
    pub(super) fn offer(
        &self,
        writer: &MessageWriter,
        ended: &[Waiting],
        now: Duration,
        sending: Sending,
    ) {
        for waiting in ended {
            if !writer.is_sampled(waiting.recipe.number) {
                continue;
            }
            let context = writer.trace_context(waiting.recipe.number);
            let took = now.saturating_sub(waiting.first_sent);
            let mut span = self.span(&context, took);
            let (subject, event) = writer.subject_and_event(&waiting.recipe);
            span.attributes = self.attributes(subject, &event);
            if sending == Sending::Failed {
                let timeout = Code::Timeout.into_str();
                spans::fail(&mut span, timeout, "no acknowledgement in time");
            }
            self.queue.offer(Trace {
                spans: vec![span],
                batch: None,
                exemplars: Vec::new(),
            });
        }
    }

    /// The span that a message's `traceparent` names, ending now.
    fn span(&self, context: &TraceContext, took: Duration) -> SpanData {
        let now = Moment::now();
        let ended = now.unix_nanos(now.monotonic());
        let took_nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut span = spans::span(
            context.trace_id,
            format!("send {}", self.pattern),
            ended.saturating_sub(took_nanos),
            ended,
        );
        span.span_context = SpanContext::new(
            span.span_context.trace_id(),
            SpanId::from_bytes(context.parent_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        span.span_kind = SpanKind::Producer;
        span
    }

    fn attributes(&self, subject: &str, event: &Event) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(name::MESSAGING_SYSTEM, name::NATS),
            KeyValue::new(name::MESSAGING_OPERATION_NAME, "send"),
            KeyValue::new(name::MESSAGING_OPERATION_TYPE, "send"),
            KeyValue::new(name::MESSAGING_DESTINATION_NAME, subject.to_owned()),
            KeyValue::new(name::MESSAGING_DESTINATION_TEMPLATE, self.pattern.clone()),
        ];
        attributes.extend(spans::event_attributes(event));
        attributes
    }
}
