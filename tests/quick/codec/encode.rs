//! What is written.

use ganesh::event::{Data, encode_binary, encode_structured, message_id, to_json};

use super::{bytes_data, decode_binary};

#[test]
fn encoded_events_have_lowercase_headers_in_printable_ascii() {
    let mut event = decode_binary(&[("ce-subject", "Zürich %22 \u{7f}")], "{}").unwrap();
    event.extensions.insert("line".into(), "a\r\nb~!".into());
    for not_a_name in ["not a name:", "id", "data", ""] {
        event
            .extensions
            .insert(not_a_name.into(), "left out".into());
    }
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
    for not_a_name in ["a\"b", "id", "data", ""] {
        event
            .extensions
            .insert(not_a_name.into(), "left out".into());
    }
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
