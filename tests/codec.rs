//! The codec's rules: `CloudEvents` 1.0, its JSON format and NATS binding, and what real SDKs make of them.

mod properties;
mod refusals;
mod time;

use async_nats::HeaderMap;
use bytes::Bytes;
use ganesh::event::{
    Data, DecodeError, Event, Message, Timestamp, TraceContext, decode, encode_binary,
    encode_structured, message_id, to_json, trace_context,
};
use serde_json::json;

const STORED_AT: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);
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
    payload: Bytes,
    accept_plain: bool,
) -> Result<Event, DecodeError> {
    let message = Message {
        subject: "events.orders",
        headers: Some(headers),
        payload: &payload,
        stream: "EVENTS",
        stream_sequence: 42,
        stored_at: STORED_AT,
    };
    decode(&message, accept_plain)
}

fn decode_message(
    headers: &[(&str, &str)],
    payload: impl AsRef<[u8]>,
) -> Result<Event, DecodeError> {
    let payload = Bytes::copy_from_slice(payload.as_ref());
    decode_map(&header_map(headers), payload, true)
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
fn the_binary_example_of_the_nats_binding_is_read() {
    let event = decode_message(
        &[
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("ce-time", "2018-04-05T03:56:24Z"),
            ("ce-id", "1234-1234-1234"),
            ("ce-source", "/mycontext/subcontext"),
            ("ce-datacontenttype", "application/json"),
            ("ce-comexampleextension1", "value"),
        ],
        "{ \"a\": 1 }",
    )
    .unwrap();
    assert_eq!(event.id, "1234-1234-1234");
    assert_eq!(event.source, "/mycontext/subcontext");
    assert_eq!(event.event_type, "com.example.someevent");
    assert_eq!(event.time, micros("2018-04-05T03:56:24Z"));
    assert_eq!(event.datacontenttype.as_deref(), Some("application/json"));
    assert_eq!(event.extensions["comexampleextension1"], "value");
    assert_eq!(event.data, json_data("{ \"a\": 1 }"));
}

#[test]
fn the_structured_example_of_the_json_format_is_read() {
    let event = decode_message(
        STRUCTURED,
        r#"{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","subject":null,
            "id":"C234-1234-1234","time":"2018-04-05T17:31:00Z","comexampleextension1":"value",
            "comexampleothervalue":5,"flag":true,"unsetextension":null,"dataschema":"urn:x",
            "datacontenttype":"application/json",
            "data":{"appinfoA":"abc", "appinfoB":123,"appinfoC":true}}"#,
    )
    .unwrap();
    assert_eq!(event.id, "C234-1234-1234");
    assert_eq!(event.subject, None);
    assert_eq!(event.dataschema.as_deref(), Some("urn:x"));
    let extensions: Vec<(&str, &str)> = event
        .extensions
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        extensions,
        [
            ("comexampleextension1", "value"),
            ("comexampleothervalue", "5"),
            ("flag", "true")
        ]
    );
    assert_eq!(
        event.data,
        json_data(r#"{"appinfoA":"abc", "appinfoB":123,"appinfoC":true}"#)
    );
}

#[test]
fn the_content_type_decides_for_structured_whatever_its_case_and_parameters() {
    for content_type in [
        "application/cloudevents+json",
        "Application/CloudEvents+JSON; charset=UTF-8",
        "application/cloudevents",
    ] {
        for name in ["Content-Type", "content-type", "CONTENT-TYPE"] {
            let headers = [
                (name, content_type),
                ("ce-specversion", "1.0"),
                ("ce-id", "header"),
            ];
            let body = r#"{"specversion":"1.0","id":"body","source":"s","type":"t"}"#;
            assert_eq!(
                decode_message(&headers, body).unwrap().id,
                "body",
                "{name}: {content_type}"
            );
        }
    }
}

#[test]
fn header_names_match_in_any_case() {
    let headers = [
        ("CE-SpecVersion", "1.0"),
        ("Ce-Id", "A"),
        ("cE-SOURCE", "s"),
        ("Ce-Type", "t"),
        ("CE-Subject", "x"),
        ("Ce-MyExtension", "v"),
    ];
    let event = decode_message(&headers, "").unwrap();
    assert_eq!(
        (event.id.as_str(), event.subject.as_deref()),
        ("A", Some("x"))
    );
    assert_eq!(event.extensions["myextension"], "v");
}

#[test]
fn binary_attributes_are_percent_decoded_once() {
    for (sent, read) in [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("100%2525", "100%25"),
        ("%41bc", "Abc"),
    ] {
        let event = decode_binary(&[("ce-subject", sent)], "").unwrap();
        assert_eq!(event.subject.as_deref(), Some(read), "{sent}");
    }
}

#[test]
fn attributes_that_an_sdk_did_not_encode_are_taken_as_they_are() {
    for sent in [
        "a b",
        "100%",
        "50% of %zz",
        "Zürich",
        "%2",
        "say \"hi\" twice",
        "\"open",
    ] {
        let event = decode_binary(&[("ce-subject", sent)], "").unwrap();
        assert_eq!(event.subject.as_deref(), Some(sent));
    }
}

#[test]
fn quoted_strings_are_unquoted_before_percent_decoding() {
    for (sent, read) in [
        (r#""Euro \"\\ %20€""#, "Euro \"\\  €"),
        (r#""plain""#, "plain"),
        (r#""a\""#, r#""a\""#),
        (r#"  "padded"  "#, "padded"),
    ] {
        let event = decode_binary(&[("ce-subject", sent)], "").unwrap();
        assert_eq!(event.subject.as_deref(), Some(read), "{sent}");
    }
}

#[test]
fn the_data_type_of_a_binary_event_may_stand_in_the_plain_content_type() {
    let event = decode_binary(&[("Content-Type", "text/plain")], "{}").unwrap();
    assert_eq!(event.datacontenttype.as_deref(), Some("text/plain"));
    assert_eq!(event.data, bytes_data(b"{}"));

    let both = [
        ("content-type", "text/plain"),
        ("ce-datacontenttype", "application/json"),
    ];
    assert_eq!(decode_binary(&both, "{}").unwrap().data, json_data("{}"));
}

#[test]
fn binary_data_is_json_when_its_type_says_so_or_when_nothing_is_said_and_it_is() {
    for (content_type, body, data) in [
        (
            Some("application/vnd.x+JSON; v=1"),
            " {\"a\":1}\n",
            json_data("{\"a\":1}"),
        ),
        (Some("text/json"), "null", json_data("null")),
        (Some("application/jsonish"), "{}", bytes_data(b"{}")),
        (None, "{\"a\":1}", json_data("{\"a\":1}")),
        (None, "{\"a\":1", bytes_data(b"{\"a\":1")),
        (Some("application/json"), "", Data::None),
        (None, "", Data::None),
    ] {
        let headers: Vec<_> = content_type
            .map(|value| ("ce-datacontenttype", value))
            .into_iter()
            .collect();
        assert_eq!(
            decode_binary(&headers, body).unwrap().data,
            data,
            "{content_type:?} {body}"
        );
    }
}

#[test]
fn structured_data_follows_the_json_format() {
    for (members, data) in [
        (json!({"data": {"a": [1]}}), json_data(r#"{"a":[1]}"#)),
        (json!({"data": "<x/>"}), json_data("\"<x/>\"")),
        (
            json!({"data": "<x/>", "datacontenttype": "application/xml"}),
            bytes_data(b"<x/>"),
        ),
        (
            json!({"data": "{}", "datacontenttype": "application/json"}),
            json_data("\"{}\""),
        ),
        (json!({"data": null}), json_data("null")),
        (
            json!({"data": null, "datacontenttype": "text/plain"}),
            Data::None,
        ),
        (
            json!({"data": 5, "datacontenttype": "text/plain"}),
            bytes_data(b"5"),
        ),
        (
            json!({"data": "", "datacontenttype": "text/plain"}),
            Data::None,
        ),
        (json!({"data_base64": "AP8="}), bytes_data(&[0, 255])),
        (json!({"data_base64": "AP8"}), bytes_data(&[0, 255])),
        (json!({"data_base64": null, "data": 1}), json_data("1")),
        (
            json!({"data_base64": "eyJhIjoxfQ==", "datacontenttype": "application/json"}),
            json_data("{\"a\":1}"),
        ),
        (
            json!({"data_base64": "eyJhIjoxfQ=="}),
            bytes_data(b"{\"a\":1}"),
        ),
        (json!({}), Data::None),
    ] {
        assert_eq!(decode_structured(&members).unwrap().data, data, "{members}");
    }
}

#[test]
fn what_only_postgres_refuses_in_json_passes() {
    for body in [
        r#"{"a":"\u0000"}"#,
        r#""\ud800""#,
        "1e400000",
        r#"{"a":1,"a":2}"#,
    ] {
        assert_eq!(decode_binary(&[], body).unwrap().data, json_data(body));
        let event =
            format!(r#"{{"specversion":"1.0","id":"i","source":"s","type":"t","data":{body}}}"#);
        assert_eq!(
            decode_message(STRUCTURED, event).unwrap().data,
            json_data(body)
        );
    }
}

#[test]
fn a_message_without_the_marks_of_an_event_is_plain() {
    let event = decode_message(&[("Nats-Msg-Id", "m 1"), ("ce-id", "ignored")], "[1]").unwrap();
    let expected = Event {
        id: "m 1".into(),
        source: "nats://EVENTS".into(),
        event_type: "events.orders".into(),
        subject: None,
        time: STORED_AT,
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
    assert_eq!(decode_binary(&[], "").unwrap().time, STORED_AT);
    assert_eq!(
        decode_structured(&json!({"time": null})).unwrap().time,
        STORED_AT
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

#[test]
fn encoded_events_have_lowercase_headers_in_printable_ascii() {
    let mut event = decode_binary(&[("ce-subject", "Zürich %22 \u{7f}")], "{}").unwrap();
    event.extensions.insert("line".into(), "a\r\nb~!".into());
    event.extensions.insert("not a name:".into(), "x".into());
    let (headers, body) = encode_binary(&event);
    let mut sent: Vec<String> = headers
        .iter()
        .map(|(name, values)| format!("{name}: {}", values[0]))
        .collect();
    sent.sort();
    let message_id = format!("Nats-Msg-Id: {}", message_id(&event));
    assert_eq!(
        sent,
        [
            message_id.as_str(),
            "ce-datacontenttype: application/json",
            "ce-id: A234",
            "ce-line: a%0D%0Ab~!",
            "ce-source: /mycontext",
            "ce-specversion: 1.0",
            "ce-subject: Z%C3%BCrich%20%22%20%7F",
            "ce-time: 2023-11-14T22:13:20.123456Z",
            "ce-type: com.example.someevent",
        ]
    );
    assert_eq!(body, "{}");
}

#[test]
fn an_event_in_json_has_json_data_inline_and_bytes_in_base64() {
    let mut event =
        decode_binary(&[("ce-subject", "a\"b"), ("ce-x", "5")], "{ \"a\": 1 }").unwrap();
    let start = r#"{"specversion":"1.0","id":"A234","source":"/mycontext","type":"com.example.someevent","time":"2023-11-14T22:13:20.123456Z","subject":"a\"b","x":"5""#;
    assert_eq!(to_json(&event), format!(r#"{start},"data":{{ "a": 1 }}}}"#));
    event.data = bytes_data(&[0, 255]);
    assert_eq!(
        to_json(&event),
        format!(r#"{start},"data_base64":"AP8="}}"#)
    );
    event.data = Data::None;
    let (headers, body) = encode_structured(&event);
    assert_eq!(body, format!("{start}}}"));
    assert_eq!(
        headers.get("content-type").unwrap().as_str(),
        "application/cloudevents+json"
    );
}

#[test]
fn message_ids_differ_when_source_or_id_do() {
    let mut event = decode_binary(&[], "").unwrap();
    let mut id_of = |source: &str, id: &str| {
        (event.source, event.id) = (source.into(), id.into());
        message_id(&event)
    };
    assert_eq!(id_of("a", "bc"), id_of("a", "bc"));
    assert_ne!(id_of("a", "bc"), id_of("ab", "c"));
    assert_eq!(id_of("a", "bc").len(), 32);
}

#[test]
fn trace_context_is_read_as_w3c_defines_it() {
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let context = TraceContext::parse(VALID).unwrap();
    assert_eq!(context.trace_id[..2], [0x0a, 0xf7]);
    assert_eq!(context.parent_id[6..], [0x33, 0x31]);
    assert!(context.sampled);
    assert!(
        !TraceContext::parse(&VALID.replace("-01", "-02"))
            .unwrap()
            .sampled
    );
    for later in [
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        &format!("{VALID}-x").replace("00-0", "01-0"),
    ] {
        assert_eq!(TraceContext::parse(later), Some(context), "{later}");
    }
    for invalid in [
        "",
        &format!("{VALID}-x"),
        &VALID.replace("00-0", "ff-0"),
        &VALID.replace("00-0", "01-0").replace("-01", "-01x"),
        &VALID.to_uppercase(),
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(TraceContext::parse(invalid), None, "{invalid}");
    }
}

#[test]
fn the_plain_traceparent_header_goes_before_the_attribute() {
    const PLAIN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const ATTRIBUTE: &str = "00-11111111111111111111111111111111-2222222222222222-00";
    let of = |headers: &[(&str, &str)]| trace_context(Some(&header_map(headers)));
    assert_eq!(
        of(&[("ce-traceparent", ATTRIBUTE), ("Traceparent", PLAIN)]),
        TraceContext::parse(PLAIN)
    );
    assert_eq!(
        of(&[("Ce-TraceParent", ATTRIBUTE)]),
        TraceContext::parse(ATTRIBUTE)
    );
    assert_eq!(
        of(&[("traceparent", PLAIN), ("TRACEPARENT", ATTRIBUTE)]),
        None
    );
    assert_eq!(trace_context(None), None);
    let event = decode_structured(&json!({"traceparent": PLAIN})).unwrap();
    assert_eq!(event.trace_context(), TraceContext::parse(PLAIN));
}
