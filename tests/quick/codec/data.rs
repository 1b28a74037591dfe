//! Data that is refused, and JSON that only Postgres refuses.

use ganesh::event::{DecodeReason, JSON_DEPTH_MAX_LEVELS};
use serde_json::json;

use super::{
    BINARY, STRUCTURED, bytes_data, decode_binary, decode_message, json_data, refused_binary,
    refused_structured,
};

#[test]
fn what_is_not_utf_8_or_base64_is_refused() {
    for sent in ["%C0%A0", "%FF", "ok%E2%82"] {
        assert_eq!(
            refused_binary(&[("ce-subject", sent)], ""),
            DecodeReason::InvalidEncoding,
            "{sent}"
        );
        assert_eq!(
            refused_binary(&[("ce-x", sent)], ""),
            DecodeReason::InvalidEncoding,
            "{sent}"
        );
    }
    let json = [BINARY, &[("ce-datacontenttype", "application/json")]].concat();
    let error = decode_message(&json, b"\"\xff\"").unwrap_err();
    assert_eq!(error.reason(), DecodeReason::InvalidEncoding);
    let error = decode_message(STRUCTURED, b"{\"id\":\"\xff\"}").unwrap_err();
    assert_eq!(error.reason(), DecodeReason::InvalidEncoding);
    for text in ["AP8=\n", "A", "_-8=", "ü"] {
        assert_eq!(
            refused_structured(&json!({"data_base64": text})),
            DecodeReason::InvalidEncoding,
            "{text}"
        );
    }
}

#[test]
fn data_that_says_it_is_json_must_be() {
    for body in ["{", "{}}", " ", "{'a':1}", "nul", "[1,]", "\"\u{1}\""] {
        let json = [("ce-datacontenttype", "application/json")];
        assert_eq!(
            refused_binary(&json, body),
            DecodeReason::InvalidJson,
            "{body}"
        );
        let plain = [("content-type", "application/json")];
        let error = decode_message(&plain, body).unwrap_err();
        assert_eq!(error.reason(), DecodeReason::InvalidJson, "{body}");
    }
    let members = json!({"data_base64": "ew==", "datacontenttype": "application/json"});
    assert_eq!(refused_structured(&members), DecodeReason::InvalidJson);
    for body in [
        "",
        "[]",
        "null",
        "\"x\"",
        "{\"id\":\"A\"",
        "{\"id\":\"A\"} x",
        "{1:2}",
    ] {
        let error = decode_message(STRUCTURED, body).unwrap_err();
        assert_eq!(error.reason(), DecodeReason::InvalidJson, "{body}");
    }
}

#[test]
fn json_that_nests_too_deep_is_refused() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let json = [("ce-datacontenttype", "application/json")];
    let deepest = nested(JSON_DEPTH_MAX_LEVELS);
    assert_eq!(
        decode_binary(&json, &deepest).unwrap().data,
        json_data(&deepest)
    );
    let too_deep = nested(JSON_DEPTH_MAX_LEVELS + 1);
    let error = decode_binary(&json, &too_deep).unwrap_err();
    assert_eq!(error.reason(), DecodeReason::InvalidJson);
    assert!(error.to_string().contains("too deep"), "{error}");
    let event = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"A","source":"s","type":"t","data":{data}}}"#)
    };
    decode_message(STRUCTURED, event(&deepest)).unwrap();
    assert!(decode_message(STRUCTURED, event(&too_deep)).is_err());
    // A stack does not limit the parser, and brackets in strings are not levels.
    assert!(decode_message(STRUCTURED, event(&nested(500_000))).is_err());
    let wide = format!(
        "[{}\"\\\"{}\"]",
        "[\"{\"],".repeat(JSON_DEPTH_MAX_LEVELS),
        "[".repeat(JSON_DEPTH_MAX_LEVELS + 1)
    );
    decode_binary(&json, &wide).unwrap();
}

#[test]
fn a_number_that_is_far_longer_without_its_exponent_is_refused() {
    let json = [("ce-datacontenttype", "application/json")];
    let event = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"A","source":"s","type":"t","data":{data}}}"#)
    };
    for number in [
        "1e131071",
        "-1E+1001",
        "0e-16383",
        "1.5e-1001",
        "1e0001001",
        "1e99999999999999999999999",
    ] {
        for data in [number.to_owned(), format!(r#"{{"a":["1e1",{number}]}}"#)] {
            assert_eq!(
                refused_binary(&json, &data),
                DecodeReason::InvalidJson,
                "{data}"
            );
            let error = decode_message(STRUCTURED, event(&data)).unwrap_err();
            assert_eq!(error.reason(), DecodeReason::InvalidJson, "{data}");
            assert!(
                error.to_string().contains("exponent beyond 1000"),
                "{error}"
            );
            assert!(!error.to_string().contains(number), "{error}");
            // Of a message that does not say what it is, they are bytes.
            assert_eq!(
                decode_binary(&[], &data).unwrap().data,
                bytes_data(data.as_bytes())
            );
        }
    }
    for data in [
        "1e1000",
        "-1E-1000",
        "0.1e0001000",
        r#""1e131071""#,
        r#"{"1e9999":"\"2e9999","b\\":"3E9999\\"}"#,
        r#""7e9999""#,
        "[true,false,1e5]",
    ] {
        assert_eq!(decode_binary(&json, data).unwrap().data, json_data(data));
        assert_eq!(
            decode_message(STRUCTURED, event(data)).unwrap().data,
            json_data(data)
        );
    }
}

#[test]
fn what_only_postgres_refuses_in_json_passes() {
    for body in [
        r#"{"a":"\u0000"}"#,
        r#""\ud800""#,
        "1e999",
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
