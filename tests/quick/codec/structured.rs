//! Structured mode: the rules of the JSON format.

use ganesh::event::Data;
use serde_json::json;

use super::{STRUCTURED, bytes_data, decode_message, decode_structured, json_data};

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
