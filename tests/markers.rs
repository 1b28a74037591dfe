//! NATS's own markers are no events: counted, acknowledged, neither stored nor lettered. Only they are.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use ganesh::event::encode_binary;
use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Stack, eventually};

const MARKERS: &str = "ganesh_messages_settled_total{outcome=\"marker\"}";
const STORED: &str = "ganesh_messages_settled_total{outcome=\"stored\"}";
/// The least that the server takes, for messages and for markers.
const TTL: Duration = Duration::from_secs(1);

/// The event stream, with messages that may say when they expire, and markers in their place.
async fn make_stream(jetstream: &Context) {
    let config = json!({
        "name": "EVENTS",
        "subjects": ["events.>"],
        "storage": "file",
        "retention": "limits",
        "allow_msg_ttl": true,
        "subject_delete_marker_ttl": u64::try_from(TTL.as_nanos()).unwrap(),
        "allow_direct": true,
    });
    let answer: Value = jetstream
        .request("STREAM.CREATE.EVENTS", &config)
        .await
        .unwrap();
    assert_eq!(answer["config"]["allow_rollup_hdrs"], true, "{answer}");
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, *value);
    }
    headers
}

async fn publish(jetstream: &Context, subject: String, headers: HeaderMap, body: &'static str) {
    let sent = jetstream.publish_with_headers(subject, headers, body.into());
    sent.await.unwrap().await.unwrap();
}

#[tokio::test]
async fn markers_of_expired_subjects_are_no_events() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_stream(&jetstream).await;
    let ganesh = stack.serve(&[]).await;
    for number in 0..3 {
        let (mut headers, body) = encode_binary(&event(&format!("e-{number}")));
        headers.insert("Nats-TTL", "1s");
        let subject = format!("events.test.{number}");
        let sent = jetstream.publish_with_headers(subject, headers, body);
        sent.await.unwrap().await.unwrap();
    }
    ganesh.wait_for_metric(STORED, 3.0).await;
    ganesh.wait_for_metric(MARKERS, 3.0).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 3);
    assert_eq!(stack.dead_letters().await, 0);
    assert_eq!(
        ganesh.metric("ganesh_in_flight_messages").await.to_string(),
        "0"
    );
}

const MARKER: [(&str, &str); 3] = [
    ("Nats-Marker-Reason", "MaxAge"),
    ("Nats-TTL", "never"),
    ("Nats-Rollup", "sub"),
];

#[tokio::test]
async fn a_message_that_says_more_than_a_marker_is_an_event() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_stream(&jetstream).await;
    let ganesh = stack.serve(&[]).await;
    let with = |more: (&'static str, &'static str)| headers(&[&MARKER[..], &[more]].concat());
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/test"),
        ("ce-type", "com.example.test"),
    ];
    let mut other = headers(&MARKER);
    other.insert("Nats-Marker-Reason", "Other");
    let events = [
        (headers(&MARKER), "body"),
        (headers(&[&MARKER[..], &binary].concat()), ""),
        (with(("Nats-Msg-Id", "id")), ""),
        (
            with((
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )),
            "",
        ),
        (headers(&MARKER[..2]), ""),
        (headers(&[MARKER[0], MARKER[2]]), ""),
        (headers(&MARKER[1..]), ""),
        (headers(&[]), ""),
        (other, ""),
    ];
    let count = events.len();
    for (number, (headers, body)) in events.into_iter().enumerate() {
        publish(&jetstream, format!("events.test.{number}"), headers, body).await;
    }
    // Who sends nothing but a marker has sent a marker.
    publish(&jetstream, "events.marker".to_owned(), headers(&MARKER), "").await;
    let rows = i64::try_from(count).unwrap();
    stack.wait_for_rows(rows).await;
    ganesh.wait_for_metric(MARKERS, 1.0).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, rows);
    assert_eq!(stack.dead_letters().await, 0);
    assert_eq!(ganesh.metric(MARKERS).await.to_string(), "1");
}

#[tokio::test]
async fn markers_need_no_postgres() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_stream(&jetstream).await;
    let ganesh = stack.serve(&[("GANESH_ACCEPT_PLAIN", "false")]).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, "events.marker".to_owned(), headers(&MARKER), "").await;
    ganesh.wait_for_metric(MARKERS, 1.0).await;
    eventually("it is acknowledged", || async {
        stack.backlog().await == 0
    })
    .await;
    lock.rollback().await.unwrap();
    assert_eq!(stack.dead_letters().await, 0);
}
