//! What is not an event: each with its reason, none with a word of the payload.

use std::collections::HashSet;

use bytes::Bytes;
use ganesh::event::{
    DecodeReason, EXTENSION_NAME_MAX_BYTES, EXTENSIONS_MAX_BYTES, EXTENSIONS_MAX_COUNT,
    ID_MAX_BYTES, Message, decode,
};
use serde_json::json;
use strum::VariantArray as _;

use super::{
    BINARY, PUBLISHED_AT, STRUCTURED, decode_map, decode_message, decode_structured, header_map,
    refused_binary, refused_structured,
};

#[test]
fn required_attributes_are_required_and_not_empty() {
    for (missing, _) in BINARY.iter().skip(1) {
        let mut headers: Vec<_> = BINARY
            .iter()
            .copied()
            .filter(|(name, _)| name != missing)
            .collect();
        let error = decode_message(&headers, "").unwrap_err();
        assert_eq!(error.reason(), DecodeReason::MissingAttribute);
        assert!(error.to_string().contains(&missing[3..]), "{error}");

        headers.push((missing, ""));
        let error = decode_message(&headers, "").unwrap_err();
        assert_eq!(error.reason(), DecodeReason::InvalidAttribute, "{error}");
    }
    for name in ["specversion", "id", "source", "type"] {
        assert_eq!(
            refused_structured(&json!({name: null})),
            DecodeReason::MissingAttribute
        );
    }
}

#[test]
fn only_version_1_0_is_understood() {
    let headers = [&[("ce-specversion", "0.3")], &BINARY[1..]].concat();
    let error = decode_message(&headers, "").unwrap_err();
    assert_eq!(error.reason(), DecodeReason::UnsupportedSpecversion);
    assert!(error.to_string().contains("0.3"), "{error}");
    assert_eq!(
        refused_structured(&json!({"specversion": "1.1"})),
        DecodeReason::UnsupportedSpecversion
    );
}

#[test]
fn batches_and_other_formats_than_json_are_refused() {
    for (content_type, reason) in [
        (
            "application/cloudevents-batch+json",
            DecodeReason::UnsupportedBatch,
        ),
        (
            "application/CloudEvents-Batch+json; charset=utf-8",
            DecodeReason::UnsupportedBatch,
        ),
        (
            "application/cloudevents+xml",
            DecodeReason::UnsupportedFormat,
        ),
        (
            "application/cloudevents+protobuf",
            DecodeReason::UnsupportedFormat,
        ),
        ("application/cloudeventsé", DecodeReason::UnsupportedFormat),
    ] {
        let error = decode_message(&[("Content-Type", content_type)], "[]").unwrap_err();
        assert_eq!(error.reason(), reason, "{content_type}");
    }
}

#[test]
fn plain_messages_are_refused_where_they_are_not_accepted() {
    let error = decode_map(&header_map(&[]), &Bytes::new(), false).unwrap_err();
    assert_eq!(error.reason(), DecodeReason::PlainNotAccepted);
    let payload = Bytes::from_static(b"{}");
    let message = Message {
        subject: "events.a",
        headers: None,
        payload: &payload,
        stream: "EVENTS",
        stream_sequence: 1,
        published_at: PUBLISHED_AT,
    };
    assert!(decode(&message, false).is_err());
    assert_eq!(decode(&message, true).unwrap().id, "EVENTS:1");
}

#[test]
fn attributes_longer_than_their_limit_are_refused() {
    for (name, max_bytes) in [
        ("id", 1_024),
        ("source", 1_024),
        ("subject", 1_024),
        ("type", 1_024),
        ("time", 128),
        ("datacontenttype", 512),
        ("dataschema", 2_048),
    ] {
        let longest = match name {
            // A fraction may have any number of digits.
            "time" => format!("2018-04-05T17:31:00.{:0>1$}", "Z", max_bytes - 20),
            // Two bytes a character: the limit counts bytes.
            _ => "é".repeat(max_bytes / 2),
        };
        decode_structured(&json!({name: longest})).unwrap();
        let error = decode_structured(&json!({name: format!("{longest}.")})).unwrap_err();
        assert_eq!(error.reason(), DecodeReason::AttributeTooLong, "{name}");
        assert!(
            error.to_string().contains(&max_bytes.to_string()),
            "{error}"
        );
    }
    let long_id = "x".repeat(ID_MAX_BYTES + 1);
    let error = decode_message(&[("Nats-Msg-Id", &long_id)], "").unwrap_err();
    assert_eq!(error.reason(), DecodeReason::AttributeTooLong);
}

#[test]
fn a_specversion_that_an_error_cannot_quote_is_too_long() {
    let refused = |bytes| decode_structured(&json!({"specversion": "1".repeat(bytes)}));
    let other_version = refused(32).unwrap_err();
    let reason = other_version.reason();
    assert_eq!(reason, DecodeReason::UnsupportedSpecversion);
    assert!(other_version.to_string().contains(&"1".repeat(32)));
    let too_long = refused(33).unwrap_err();
    assert_eq!(too_long.reason(), DecodeReason::AttributeTooLong);
    let sentence = too_long.to_string();
    assert!(
        sentence.contains("specversion") && sentence.contains("at most 32"),
        "{sentence}"
    );
}

#[test]
fn a_nats_subject_longer_than_its_limit_is_refused_in_every_mode() {
    let event = r#"{"specversion":"1.0","id":"A","source":"s","type":"t"}"#;
    let payload = Bytes::from(event);
    for headers in [BINARY, STRUCTURED, &[]] {
        let headers = header_map(headers);
        let decode_on = |subject: &str| {
            let message = Message {
                subject,
                headers: Some(&headers),
                payload: &payload,
                stream: "EVENTS",
                stream_sequence: 42,
                published_at: PUBLISHED_AT,
            };
            decode(&message, true)
        };
        let longest = format!("events.{}", "x".repeat(1_017));
        decode_on(&longest).unwrap();
        let error = decode_on(&format!("{longest}x")).unwrap_err();
        assert_eq!(error.reason(), DecodeReason::AttributeTooLong);
        assert_eq!(
            error.to_string(),
            "the NATS subject has 1025 bytes: at most 1024 are accepted"
        );
    }
}

#[test]
fn extensions_are_limited_in_number_and_size() {
    let extensions = |count: usize| (0..count).map(|n| (format!("x{n}"), json!(n))).collect();
    let at_limit = serde_json::Value::Object(extensions(EXTENSIONS_MAX_COUNT));
    assert_eq!(
        decode_structured(&at_limit).unwrap().extensions.len(),
        EXTENSIONS_MAX_COUNT
    );
    let above = serde_json::Value::Object(extensions(EXTENSIONS_MAX_COUNT + 1));
    assert_eq!(refused_structured(&above), DecodeReason::TooManyExtensions);

    let headers: Vec<_> = (0..=EXTENSIONS_MAX_COUNT)
        .map(|n| format!("ce-x{n}"))
        .collect();
    let headers: Vec<_> = headers.iter().map(|name| (name.as_str(), "v")).collect();
    assert_eq!(
        refused_binary(&headers, ""),
        DecodeReason::TooManyExtensions
    );

    let half = "v".repeat(EXTENSIONS_MAX_BYTES / 2);
    assert_eq!(
        refused_structured(&json!({"a": half, "b": half})),
        DecodeReason::TooManyExtensions
    );
    let name = "n".repeat(EXTENSION_NAME_MAX_BYTES + 1);
    assert_eq!(
        refused_structured(&json!({name: "v"})),
        DecodeReason::AttributeTooLong
    );
}

#[test]
fn nul_is_refused_in_every_text() {
    for name in [
        "id",
        "source",
        "type",
        "subject",
        "datacontenttype",
        "dataschema",
        "myextension",
    ] {
        assert_eq!(
            refused_structured(&json!({name: "a\0b"})),
            DecodeReason::InvalidAttribute,
            "{name}"
        );
    }
    assert_eq!(
        refused_binary(&[("ce-subject", "a%00")], ""),
        DecodeReason::InvalidAttribute
    );
    let error = decode_message(&[("Nats-Msg-Id", "a\0")], "").unwrap_err();
    assert_eq!(error.reason(), DecodeReason::InvalidAttribute);
    // Other control characters harm nobody.
    let event = decode_structured(&json!({"subject": "a\u{1}b\n"})).unwrap();
    assert_eq!(event.subject.as_deref(), Some("a\u{1}b\n"));
}

#[test]
fn names_and_types_of_attributes_follow_the_specification() {
    for name in [
        "Subject",
        "dataContentType",
        "my_extension",
        "my-extension",
        "",
        "é",
    ] {
        assert_eq!(
            refused_structured(&json!({name: "v"})),
            DecodeReason::InvalidAttribute,
            "{name}"
        );
    }
    for name in ["ce-my-extension", "ce-data", "ce-", "ce-my_extension"] {
        assert_eq!(
            refused_binary(&[(name, "v")], ""),
            DecodeReason::InvalidAttribute,
            "{name}"
        );
    }
    for value in [json!(1.5), json!([]), json!({}), json!(1e3)] {
        assert_eq!(
            refused_structured(&json!({"x": value})),
            DecodeReason::InvalidAttribute,
            "{value}"
        );
    }
    for name in ["id", "subject", "time"] {
        assert_eq!(
            refused_structured(&json!({name: 5})),
            DecodeReason::InvalidAttribute,
            "{name}"
        );
    }
    let lone_surrogate = r#"{"specversion":"1.0","id":"\ud800","source":"s","type":"t"}"#;
    let error = decode_message(STRUCTURED, lone_surrogate).unwrap_err();
    assert_eq!(error.reason(), DecodeReason::InvalidAttribute);
    let millis = decode_structured(&json!({"x": 1_700_000_000_123_u64, "y": -1})).unwrap();
    assert_eq!(
        (
            millis.extensions["x"].as_str(),
            millis.extensions["y"].as_str()
        ),
        ("1700000000123", "-1")
    );
}

#[test]
fn what_is_given_twice_is_refused_in_every_spelling() {
    for repeated in [
        [("ce-subject", "a"), ("CE-Subject", "a")],
        [("ce-subject", "a"), ("ce-subject", "b")],
        [("ce-x", "a"), ("Ce-X", "b")],
        [
            ("content-type", "text/plain"),
            ("Content-Type", "application/json"),
        ],
    ] {
        assert_eq!(
            refused_binary(&repeated, ""),
            DecodeReason::RepeatedAttribute,
            "{repeated:?}"
        );
    }
    for repeated in [
        r#""id":"B""#,
        r#""data":1,"data":2"#,
        r#""x":1,"x":1"#,
        r#""data":1,"data_base64":"AA==""#,
    ] {
        let event =
            format!(r#"{{"specversion":"1.0","id":"A","source":"s","type":"t",{repeated}}}"#);
        let error = decode_message(STRUCTURED, event).unwrap_err();
        assert_eq!(
            error.reason(),
            DecodeReason::RepeatedAttribute,
            "{repeated}"
        );
    }
    for headers in [
        [("Nats-Msg-Id", "a"), ("nats-msg-id", "b")],
        [
            ("content-type", "application/cloudevents+json"),
            ("Content-Type", "application/cloudevents+xml"),
        ],
    ] {
        let error = decode_message(&headers, "{}").unwrap_err();
        assert_eq!(
            error.reason(),
            DecodeReason::RepeatedAttribute,
            "{headers:?}"
        );
    }
    // By the same mode at every delivery: a hash map shows its headers in another order each time.
    let headers = [
        ("ce-datacontenttype", "text/plain"),
        ("content-type", "text/plain"),
        ("Content-Type", "application/cloudevents+json"),
    ];
    for _ in 0..50 {
        assert_eq!(
            refused_binary(&headers, ""),
            DecodeReason::RepeatedAttribute
        );
    }
    // The ce- headers of a structured event are not its attributes.
    let body = r#"{"specversion":"1.0","id":"A","source":"s","type":"t"}"#;
    decode_message(
        &[STRUCTURED, &[("ce-id", "a"), ("ce-id", "b")]].concat(),
        body,
    )
    .unwrap();
}

#[test]
fn errors_are_sentences_without_the_payload() {
    let json = [BINARY, &[("ce-datacontenttype", "application/json")]].concat();
    let refusals = [
        decode_message(&json, "{\"password\": hunter2}"),
        decode_message(STRUCTURED, "\"hunter2\""),
        decode_message(STRUCTURED, "{\"id\": hunter2}"),
        decode_structured(&json!({"data_base64": "hunter2!"})),
    ];
    for refusal in refusals {
        let sentence = refusal.unwrap_err().to_string();
        assert!(!sentence.contains("hunter2"), "{sentence}");
        assert!(sentence.contains(' '), "{sentence}");
    }
    let long_name = "\u{1b}[31m".repeat(1_000);
    let sentence = decode_structured(&json!({long_name: 1}))
        .unwrap_err()
        .to_string();
    assert!(
        sentence.len() < 400 && !sentence.contains('\u{1b}'),
        "{sentence}"
    );
}

#[test]
fn reasons_are_a_closed_list_of_distinct_labels() {
    let labels: HashSet<&str> = DecodeReason::VARIANTS
        .iter()
        .map(DecodeReason::into_str)
        .collect();
    assert_eq!(labels.len(), DecodeReason::VARIANTS.len());
    for label in labels {
        assert!(
            label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{label}"
        );
    }
}
