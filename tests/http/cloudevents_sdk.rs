//! The CloudEvents SDK for Python (PyPI `cloudevents`) reads the answers.

use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ganesh::event::{Data, Event};
use serde_json::{Value, json};

use super::client::{Answer, get, store};
use super::python::{ROOT, python_with};
use crate::support::Stack;
use crate::support::events::event;

/// What the SDK makes of answers: of each a list of events.
fn read(answers: &[Answer]) -> Vec<Value> {
    let mut python = python_with("cloudevents")
        .arg(format!("{ROOT}/tests/http/read_events.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = answers.iter().map(|answer| {
        let content_type = answer.header("content-type").unwrap();
        json!({ "content_type": content_type, "body": answer.body }).to_string() + "\n"
    });
    let lines: String = lines.collect();
    let mut stdin = python.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).unwrap();
    let events = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    events.collect()
}

/// What it should make of an event.
fn expected(event: &Event) -> Value {
    let data = match &event.data {
        Data::Json(json) => serde_json::from_slice(json).unwrap(),
        Data::Binary(bytes) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
        Data::None => Value::Null,
    };
    json!({
        "id": event.id, "source": event.source, "type": event.event_type, "specversion": "1.0",
        "subject": event.subject, "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema, "extensions": event.extensions,
        "time": event.time.micros(), "data": data,
    })
}

fn all_kinds() -> Vec<Event> {
    let mut bytes = event("bytes");
    bytes.data = Data::Binary(Bytes::from_static(&[0, 159, 146, 150]));
    bytes.datacontenttype = Some("application/octet-stream".to_owned());
    let mut none = event("none");
    none.data = Data::None;
    none.datacontenttype = None;
    none.subject = None;
    let mut extended = Event {
        source: "urn:example:a/b?c=d".to_owned(),
        ..event("extended \u{e9}\u{1f600}\"\\")
    };
    extended.dataschema = Some("https://example.com/schema".to_owned());
    extended
        .extensions
        .insert("partitionkey".to_owned(), "kitchen \u{20ac}".to_owned());
    extended.data = Data::Json(Bytes::from_static(
        b"{\"a\":[1,2.5,null,true,\"\\u20ac\"],\"b\":{}}",
    ));
    vec![event("json"), bytes, none, extended]
}

#[tokio::test]
async fn an_sdk_reads_single_events_newest_states_and_searches() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let events = all_kinds();
    store(&stack, &events).await;
    let mut answers = Vec::new();
    for event in &events {
        let id =
            percent_encoding::utf8_percent_encode(&event.id, percent_encoding::NON_ALPHANUMERIC);
        answers.push(get(&ganesh, &format!("/v1/events/{id}")).await);
    }
    answers.push(get(&ganesh, "/v1/subjects/subject-4/latest").await);
    answers.push(get(&ganesh, "/v1/events").await);
    let read = read(&answers);
    for (event, read) in events.iter().zip(&read) {
        assert_eq!(*read, json!([expected(event)]));
    }
    assert_eq!(read[4], json!([expected(&events[0])]));
    // A search is newest first.
    let mut newest_first = events.clone();
    newest_first.sort_by_key(|event| std::cmp::Reverse(event.time));
    let newest_first: Vec<Value> = newest_first.iter().map(expected).collect();
    assert_eq!(read[5], json!(newest_first));
}
