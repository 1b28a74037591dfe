//! The spans of a kept message, built when it is settled, with explicit times and ids of
//! our own.
//!
//! ```text
//!  send events.>                       the producer's, if it samples
//!  └ process events.>  CONSUMER        from the stream's timestamp to the settlement
//!    ├ stream                          waiting in JetStream
//!    ├ decode
//!    ├ batch                           waiting for the batch
//!    ├ store           CLIENT ┄ link ┄▶ COPY events   CLIENT, the batch's own trace
//!    ├ cache
//!    └ settle
//! ```

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event as SpanEvent, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::batch::BatchRecord;
use super::catalogue::{Decision, Outcome, Stage};
use super::passage::{DETAIL_MAX_BYTES, Passage};
use super::record::{Failures, Moment};
use super::semconv as name;
use super::stages::Passed;
use crate::config::{NatsConfig, pattern_of};
use crate::event::{Event, TraceContext};
use crate::messaging::Delivery;
use crate::text::cut;

/// Of a `Nats-Msg-Id`, which is as long as its producer likes; what is longer is cut.
const MESSAGE_ID_MAX_BYTES: usize = 1_024;

/// What a kept message's trace says of where it came from.
#[derive(Debug)]
pub struct MessageSpans {
    subjects: Vec<String>,
    stream: String,
    consumer: String,
}

impl MessageSpans {
    /// For messages of the configured stream and consumer.
    pub fn new(config: &NatsConfig) -> Self {
        Self {
            subjects: config.subjects.clone(),
            stream: config.stream.clone(),
            consumer: config.consumer.clone(),
        }
    }

    /// The whole trace of one message, its process span first. `batch` is the span of the
    /// batch that it was written with.
    pub fn build(
        &self,
        passage: &Passage<'_>,
        reason: Decision,
        batch: Option<&SpanContext>,
    ) -> Vec<SpanData> {
        let process = self.process(passage, reason);
        let parent = process.span_context.clone();
        let mut spans = Vec::with_capacity(1 + Stage::ALL.len());
        spans.push(process);
        spans.extend(passage.times.passed().map(|passed| {
            let batch = batch.filter(|_| passed.stage == Stage::Store);
            stage(passage, &passed, &parent, batch)
        }));
        spans
    }

    fn process(&self, passage: &Passage<'_>, reason: Decision) -> SpanData {
        let delivery = passage.delivery;
        let pattern = pattern_of(&self.subjects, &delivery.message.subject);
        // A stream that was made by others can have other subjects than ours.
        let destination = pattern.unwrap_or(&self.stream);
        let mut span = span(
            delivery.trace_id.bytes(),
            format!("process {destination}"),
            passage.times.began(),
            passage.times.ended(),
        );
        span.span_kind = SpanKind::Consumer;
        match &delivery.producer {
            Some(producer) if producer.sampled => {
                span.parent_span_id = SpanId::from_bytes(producer.parent_id);
                span.parent_span_is_remote = true;
            }
            Some(producer) => span.links = link(context_of(producer)),
            None => {}
        }
        span.attributes = self.attributes(delivery, pattern);
        span.attributes.extend([
            KeyValue::new(name::KEEP_REASON, reason.as_str()),
            KeyValue::new(name::OUTCOME, passage.outcome.as_str()),
        ]);
        if let Some(batch) = passage.batch {
            span.attributes
                .push(KeyValue::new(name::BATCH_EVENTS, count(batch.events)));
        }
        if let Some(event) = passage.event {
            span.attributes.extend(event_attributes(event));
        }
        // A stage can fail without harm to the message: the cache is one.
        if let Some(verdict) = passage.verdict
            && passage.outcome == Outcome::DeadLettered
        {
            fail(&mut span, verdict.error_type, verdict.detail);
        }
        span
    }

    fn attributes(&self, delivery: &Delivery, pattern: Option<&str>) -> Vec<KeyValue> {
        let message = &delivery.message;
        let mut attributes = vec![
            KeyValue::new(name::MESSAGING_SYSTEM, name::NATS),
            KeyValue::new(name::MESSAGING_OPERATION_NAME, "process"),
            KeyValue::new(name::MESSAGING_OPERATION_TYPE, "process"),
            KeyValue::new(
                name::MESSAGING_DESTINATION_NAME,
                message.subject.to_string(),
            ),
            KeyValue::new(name::MESSAGING_CONSUMER_GROUP_NAME, self.consumer.clone()),
            KeyValue::new(
                name::MESSAGING_MESSAGE_BODY_SIZE,
                count(message.payload.len()),
            ),
            KeyValue::new(name::STREAM, self.stream.clone()),
            KeyValue::new(name::STREAM_SEQUENCE, number(delivery.stream_sequence)),
            KeyValue::new(name::DELIVERIES, number(delivery.delivered)),
        ];
        if let Some(pattern) = pattern {
            let template = KeyValue::new(name::MESSAGING_DESTINATION_TEMPLATE, pattern.to_owned());
            attributes.push(template);
        }
        let headers = message.headers.as_ref();
        if let Some(id) = headers.and_then(|headers| headers.get("Nats-Msg-Id")) {
            let id = cut(id.as_str(), MESSAGE_ID_MAX_BYTES).to_owned();
            attributes.push(KeyValue::new(name::MESSAGING_MESSAGE_ID, id));
        }
        attributes
    }
}

/// What identifies an event, in the words of the conventions.
pub fn event_attributes(event: &Event) -> impl Iterator<Item = KeyValue> {
    let subject = event.subject.clone();
    [
        KeyValue::new(name::CLOUDEVENTS_EVENT_ID, event.id.clone()),
        KeyValue::new(name::CLOUDEVENTS_EVENT_SOURCE, event.source.clone()),
        KeyValue::new(name::CLOUDEVENTS_EVENT_SPEC_VERSION, "1.0"),
        KeyValue::new(name::CLOUDEVENTS_EVENT_TYPE, event.event_type.clone()),
    ]
    .into_iter()
    .chain(subject.map(|subject| KeyValue::new(name::CLOUDEVENTS_EVENT_SUBJECT, subject)))
}

fn stage(
    passage: &Passage<'_>,
    passed: &Passed,
    parent: &SpanContext,
    batch: Option<&SpanContext>,
) -> SpanData {
    let mut span = span(
        parent.trace_id().to_bytes(),
        passed.stage.as_str(),
        passed.began,
        passed.ended,
    );
    span.parent_span_id = parent.span_id();
    if passed.stage == Stage::Store {
        span.span_kind = SpanKind::Client;
        span.attributes = database_attributes();
    }
    if let Some(batch) = batch {
        span.links = link(batch.clone());
    }
    if let Some(failures) = passage.failures(passed.stage) {
        span.events = attempts(failures, &passage.moment);
    }
    if let Some(verdict) = passage.verdict
        && verdict.stage == passed.stage
    {
        fail(&mut span, verdict.error_type, verdict.detail);
    }
    span
}

/// The span of a batch as a whole, in a trace of its own: from a writer taking it to the
/// commit. It is named after the usual way of writing.
pub fn batch_span(batch: &BatchRecord, moment: &Moment) -> SpanData {
    let mut span = span(
        rand::random::<u128>().max(1).to_be_bytes(),
        "COPY events",
        moment.unix_nanos(batch.store_began),
        moment.unix_nanos(batch.durable),
    );
    span.span_kind = SpanKind::Client;
    span.attributes = database_attributes();
    span.attributes.push(KeyValue::new(
        name::DB_OPERATION_BATCH_SIZE,
        count(batch.events),
    ));
    span.events = attempts(&batch.failures, moment);
    span
}

/// A span of a trace, with an id of its own, from `began` to `ended` (nanoseconds since the
/// Unix epoch); the rest is for the caller to set.
pub fn span(
    trace_id: [u8; 16],
    name: impl Into<Cow<'static, str>>,
    began: u64,
    ended: u64,
) -> SpanData {
    // W3C trace context forbids the id of zeros.
    let span_id = rand::random::<u64>().max(1).to_be_bytes();
    SpanData {
        span_context: SpanContext::new(
            opentelemetry::TraceId::from_bytes(trace_id),
            SpanId::from_bytes(span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: system_time(began),
        end_time: system_time(ended),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("ganesh")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

/// Marks a span as failed.
pub fn fail(span: &mut SpanData, error_type: &'static str, detail: &str) {
    span.status = Status::error(cut(detail, DETAIL_MAX_BYTES).to_owned());
    span.attributes
        .push(KeyValue::new(name::ERROR_TYPE, error_type));
}

fn database_attributes() -> Vec<KeyValue> {
    vec![
        KeyValue::new(name::DB_SYSTEM_NAME, name::POSTGRESQL),
        KeyValue::new(name::DB_COLLECTION_NAME, name::EVENTS_TABLE),
    ]
}

fn attempts(failures: &Failures, moment: &Moment) -> SpanEvents {
    let mut events = SpanEvents::default();
    events.dropped_count = failures.left_out();
    events.events = failures
        .kept()
        .iter()
        .map(|attempt| {
            let attributes = vec![
                KeyValue::new(name::ERROR_TYPE, attempt.code.as_str()),
                KeyValue::new(name::EXCEPTION_MESSAGE, attempt.detail.clone()),
            ];
            let at = system_time(moment.unix_nanos(attempt.at));
            SpanEvent::new(name::ATTEMPT_FAILED, at, attributes, 0)
        })
        .collect();
    events
}

fn link(to: SpanContext) -> SpanLinks {
    let mut links = SpanLinks::default();
    links.links.push(Link::new(to, Vec::new(), 0));
    links
}

fn context_of(producer: &TraceContext) -> SpanContext {
    let flags = if producer.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    SpanContext::new(
        opentelemetry::TraceId::from_bytes(producer.trace_id),
        SpanId::from_bytes(producer.parent_id),
        flags,
        true,
        TraceState::default(),
    )
}

fn system_time(unix_nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_nanos)
}

fn count(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
