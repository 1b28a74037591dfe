//! The codec's rules: `CloudEvents` 1.0, its JSON format and NATS binding, and what real SDKs make of them.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod binary;
mod corpus;
mod data;
mod encode;
mod properties;
mod refusals;
mod structured;
mod time;
mod trace_context;

use async_nats::HeaderMap;
use bytes::Bytes;
use ganesh::event::{Data, DecodeError, DecodeReason, Event, Message, Timestamp, decode};
use serde_json::json;

const PUBLISHED_AT: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);
const STRUCTURED: &[(&str, &str)] = &[("content-type", "application/cloudevents+json")];
const BINARY: &[(&str, &str)] = &[
    ("ce-specversion", "1.0"),
    ("ce-id", "A234"),
    ("ce-source", "/mycontext"),
    ("ce-type", "com.example.someevent"),
];

fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    map
}

fn decode_map(
    headers: &HeaderMap,
    payload: &Bytes,
    accept_plain: bool,
) -> Result<Event, DecodeError> {
    let message = Message {
        subject: "events.orders",
        headers: Some(headers),
        payload,
        stream: "EVENTS",
        stream_sequence: 42,
        published_at: PUBLISHED_AT,
    };
    decode(&message, accept_plain)
}

fn decode_message(
    headers: &[(&str, &str)],
    payload: impl AsRef<[u8]>,
) -> Result<Event, DecodeError> {
    let payload = Bytes::copy_from_slice(payload.as_ref());
    decode_map(&header_map(headers), &payload, true)
}

/// A binary message with more headers than the required ones.
fn decode_binary(more: &[(&str, &str)], payload: &str) -> Result<Event, DecodeError> {
    decode_message(&[BINARY, more].concat(), payload)
}

/// A structured event with the given members over the required ones.
fn decode_structured(more: &serde_json::Value) -> Result<Event, DecodeError> {
    let mut event =
        json!({"specversion": "1.0", "id": "A234", "source": "/mycontext", "type": "t"});
    for (name, value) in more.as_object().expect("members") {
        event[name] = value.clone();
    }
    decode_message(STRUCTURED, event.to_string())
}

fn refused_binary(more: &[(&str, &str)], payload: &str) -> DecodeReason {
    decode_binary(more, payload).expect_err("refused").reason()
}

fn refused_structured(members: &serde_json::Value) -> DecodeReason {
    decode_structured(members).expect_err("refused").reason()
}

fn json_data(text: &str) -> Data {
    Data::Json(Bytes::copy_from_slice(text.as_bytes()))
}

fn bytes_data(bytes: &[u8]) -> Data {
    Data::Binary(Bytes::copy_from_slice(bytes))
}

fn micros(rfc3339: &str) -> Timestamp {
    Timestamp::parse_rfc3339(rfc3339).expect("a timestamp")
}

#[test]
fn a_message_without_the_marks_of_an_event_is_plain() {
    let event = decode_message(&[("Nats-Msg-Id", "m 1"), ("ce-id", "ignored")], "[1]").unwrap();
    let expected = Event {
        id: "m 1".into(),
        source: "nats://EVENTS".into(),
        event_type: "events.orders".into(),
        subject: None,
        time: PUBLISHED_AT,
        datacontenttype: None,
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data: json_data("[1]"),
    };
    assert_eq!(event, expected);

    assert_eq!(decode_message(&[], "[1").unwrap().id, "EVENTS:42");
    assert_eq!(decode_message(&[], "[1").unwrap().data, bytes_data(b"[1"));
    assert_eq!(
        decode_message(&[("nats-msg-id", "")], "").unwrap().id,
        "EVENTS:42"
    );
    let text = decode_message(&[("Content-Type", "text/plain")], "1").unwrap();
    assert_eq!(
        (text.datacontenttype.as_deref(), text.data),
        (Some("text/plain"), bytes_data(b"1"))
    );
}

#[test]
fn a_structured_body_without_its_content_type_falls_to_plain() {
    let body = r#"{"specversion":"1.0","id":"A","source":"s","type":"t"}"#;
    let event = decode_message(&[("content-type", "application/json")], body).unwrap();
    assert_eq!(
        (event.id.as_str(), event.data),
        ("EVENTS:42", json_data(body))
    );
}

#[test]
fn an_event_without_time_gets_the_time_at_which_the_stream_stored_it() {
    assert_eq!(decode_binary(&[], "").unwrap().time, PUBLISHED_AT);
    assert_eq!(
        decode_structured(&json!({"time": null})).unwrap().time,
        PUBLISHED_AT
    );
}

#[test]
fn empty_optional_attributes_are_as_absent() {
    let headers = [
        ("ce-subject", ""),
        ("ce-dataschema", " "),
        ("ce-datacontenttype", ""),
    ];
    let event = decode_binary(&headers, "{}").unwrap();
    assert_eq!(
        (event.subject, event.dataschema, event.datacontenttype),
        (None, None, None)
    );
    assert_eq!(
        decode_structured(&json!({"subject": ""})).unwrap().subject,
        None
    );
}
