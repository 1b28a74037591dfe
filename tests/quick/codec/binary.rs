//! Binary mode: the rules of the NATS binding, section 3.1, and what SDKs make of them.

use ganesh::event::Data;

use super::{bytes_data, decode_binary, decode_message, json_data, micros};

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
