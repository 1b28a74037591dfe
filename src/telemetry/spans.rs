//! Spans with explicit times and ids of our own.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::semconv as name;
use crate::event::Event;
use crate::message::timings::DETAIL_MAX_BYTES;
use crate::text::cut;

/// A span of a trace, with an id of its own, from `began` to `ended` (nanoseconds since the
/// Unix epoch); the rest is for the caller to set.
pub(crate) fn span(
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

pub(crate) fn fail(span: &mut SpanData, error_type: &'static str, detail: &str) {
    span.status = Status::error(cut(detail, DETAIL_MAX_BYTES).to_owned());
    span.attributes
        .push(KeyValue::new(name::ERROR_TYPE, error_type));
}

/// About what a span takes in memory: its parts and their texts, without what an allocator adds.
pub(super) fn size_bytes(span: &SpanData) -> usize {
    let events = span.events.events.iter();
    let events = events
        .map(|event| size_of_val(event) + event.name.len() + size_of_attributes(&event.attributes));
    let links = span.links.links.iter();
    let links = links.map(|link| size_of_val(link) + size_of_attributes(&link.attributes));
    let status = match &span.status {
        Status::Error { description } => description.len(),
        Status::Unset | Status::Ok => 0,
    };
    size_of_val(span)
        + span.name.len()
        + status
        + size_of_attributes(&span.attributes)
        + events.sum::<usize>()
        + links.sum::<usize>()
}

fn size_of_attributes(attributes: &[KeyValue]) -> usize {
    let size = |attribute: &KeyValue| {
        let text = match &attribute.value {
            Value::String(text) => text.as_str().len(),
            // No span of ours has an array.
            _ => 0,
        };
        size_of_val(attribute) + attribute.key.as_str().len() + text
    };
    attributes.iter().map(size).sum()
}

/// The attributes that identify an event.
pub(crate) fn event_attributes(event: &Event) -> impl Iterator<Item = KeyValue> {
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

/// A point of time, from nanoseconds since the Unix epoch.
pub(crate) fn system_time(unix_nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_nanos)
}
