//! About how much memory spans take: what bounds the queue in bytes.

use opentelemetry::trace::Status;
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;

/// About what a span takes in memory, in bytes: its parts and their texts, without what an
/// allocator adds.
pub(super) fn of(span: &SpanData) -> usize {
    let events = span
        .events
        .events
        .iter()
        .map(|event| size_of_val(event) + event.name.len() + of_attributes(&event.attributes));
    let links = span.links.links.iter();
    let links = links.map(|link| size_of_val(link) + of_attributes(&link.attributes));
    let status = match &span.status {
        Status::Error { description } => description.len(),
        Status::Unset | Status::Ok => 0,
    };
    size_of_val(span)
        + span.name.len()
        + status
        + of_attributes(&span.attributes)
        + events.sum::<usize>()
        + links.sum::<usize>()
}

fn of_attributes(attributes: &[KeyValue]) -> usize {
    let of = |attribute: &KeyValue| {
        let text = match &attribute.value {
            Value::String(text) => text.as_str().len(),
            // No span of ours has an array.
            _ => 0,
        };
        size_of_val(attribute) + attribute.key.as_str().len() + text
    };
    attributes.iter().map(of).sum()
}
