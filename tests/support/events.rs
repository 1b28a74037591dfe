//! Events to publish, and the publishing.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use bytes::Bytes;
use futures::StreamExt;
use ganesh::event::{self, Data, Event, Timestamp};

/// An event of this id, that happened now.
pub fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        source: "/test".to_owned(),
        event_type: "com.example.test".to_owned(),
        subject: Some(format!("subject-{}", id.len())),
        time: Timestamp::now(),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: BTreeMap::new(),
        data: Data::Json(Bytes::from(format!("{{\"id\":\"{id}\"}}"))),
    }
}

/// Events `<prefix>-0` to `<prefix>-<count - 1>`.
pub fn events(prefix: &str, count: usize) -> Vec<Event> {
    (0..count)
        .map(|i| event(&format!("{prefix}-{i}")))
        .collect()
}

/// Publishes in binary mode, each under a `Nats-Msg-Id` of its own, so that the stream
/// drops no duplicate before ganesh sees it. Returns when all are acknowledged. The
/// order in the stream is the given one.
pub async fn publish(jetstream: &Context, events: &[Event]) {
    publish_with(jetstream, events, |headers| {
        headers.insert("Nats-Msg-Id", format!("{:032x}", rand::random::<u128>()));
    })
    .await;
}

/// Publishes each under a `Nats-Msg-Id` of so many bytes.
pub async fn publish_with_long_ids(jetstream: &Context, events: &[Event], bytes: usize) {
    publish_with(jetstream, events, |headers| {
        let id = format!("{:032x}", rand::random::<u128>());
        headers.insert("Nats-Msg-Id", id.clone() + &"x".repeat(bytes - id.len()));
    })
    .await;
}

/// Publishes as a producer does: the same event has the same `Nats-Msg-Id`.
pub async fn publish_as_producers_do(jetstream: &Context, events: &[Event]) {
    publish_with(jetstream, events, |_| {}).await;
}

async fn publish_with(jetstream: &Context, events: &[Event], edit: impl Fn(&mut HeaderMap)) {
    let acknowledgements = futures::stream::iter(events)
        .then(|event| async {
            let (mut headers, body) = event::encode_binary(event);
            edit(&mut headers);
            jetstream
                .publish_with_headers("events.test", headers, body)
                .await
                .unwrap()
        })
        .map(|acknowledgement| async { acknowledgement.await.map(|_| ()) })
        .buffered(1_000);
    acknowledgements
        .for_each(|acknowledged| async { acknowledged.unwrap() })
        .await;
}

/// Publishes a message that is no CloudEvent anyone can decode.
pub async fn publish_invalid(jetstream: &Context) {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-source", "/test");
    headers.insert("ce-type", "com.example.test");
    let acknowledgement = jetstream
        .publish_with_headers("events.test", headers, "{}".into())
        .await
        .unwrap();
    acknowledgement.await.unwrap();
}
