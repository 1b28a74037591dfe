//! Dead letters: written whole before the message is acknowledged, listed, shown, replayed, deleted.

mod identity;
mod many;
mod objects;
mod purged;
mod read;
mod refused;
mod replayed;
mod swept;
mod written;

use std::process::Output;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use bytes::Bytes;
use ganesh::event::{Timestamp, TraceId};
use ganesh::messaging::letters::bucket::Bucket;
use ganesh::messaging::letters::publish::publish;
use ganesh::messaging::letters::write::Original;
use ganesh::messaging::streams::{DLQ_DUPLICATE_WINDOW, bucket_stream};
use serde_json::Value;

use crate::support::Stack;
use crate::support::ganesh::run;

/// `ganesh dlq`, run to its end.
fn dlq(stack: &Stack, arguments: &[&str]) -> Output {
    run(Some(stack), &[&["dlq"], arguments].concat(), &[])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The letters that `ganesh dlq list --json` finds.
fn listed(stack: &Stack, arguments: &[&str]) -> Vec<Value> {
    let output = dlq(stack, &[&["list", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let letters: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    letters
}

fn sequences(letters: &[Value]) -> Vec<u64> {
    letters
        .iter()
        .map(|letter| letter["sequence"].as_u64().unwrap())
        .collect()
}

/// The streams that `serve` makes, for tests that need no `serve`.
async fn make_streams(jetstream: &Context) {
    for (name, subject, duplicate_window) in [
        ("EVENTS", "events.>", std::time::Duration::from_secs(120)),
        ("EVENTS_DLQ", "dlq.>", DLQ_DUPLICATE_WINDOW),
    ] {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            duplicate_window,
            allow_direct: true,
            ..Config::default()
        };
        if name == "EVENTS_DLQ" {
            let bucket = bucket_stream(&config);
            jetstream.create_stream(bucket).await.unwrap();
        }
        jetstream.create_stream(config).await.unwrap();
    }
}

/// A message, as its letter needs it.
struct Buried<'a> {
    subject: &'a str,
    sequence: u64,
    headers: &'a [(&'a str, &'a str)],
    body: Bytes,
    reason: &'a str,
    detail: &'a str,
}

impl Default for Buried<'_> {
    fn default() -> Self {
        Self {
            subject: "events.test",
            sequence: 1,
            headers: &[],
            body: Bytes::from_static(b"{}"),
            reason: "invalid_json",
            detail: "the data is not valid JSON",
        }
    }
}

impl Buried<'_> {
    /// Has something done with the message.
    async fn with_original<R>(&self, act: impl AsyncFnOnce(&Original<'_>) -> R) -> R {
        let headers: HeaderMap = self
            .headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let published_at = Timestamp::from_micros(1_800_000_000_000_000);
        let original = Original {
            subject: self.subject,
            headers: Some(&headers),
            body: &self.body,
            stream: "EVENTS",
            sequence: self.sequence,
            published_at,
            deliveries: 1,
            trace_id: TraceId::of_message(None, "EVENTS", self.sequence, published_at),
        };
        act(&original).await
    }

    /// Writes its letter as `serve` does.
    async fn write(&self, jetstream: &Context) {
        let bucket = Bucket::new(jetstream.clone(), "EVENTS_DLQ");
        let why = (self.reason, self.detail);
        self.with_original(async |original| publish(&bucket, original, why, &mut None).await)
            .await
            .unwrap();
    }
}

/// Writes the letters of these many plain messages with the ids `m-1`, `m-2` and so on.
async fn write_many(jetstream: &Context, count: u64, body: &Bytes) {
    use futures::StreamExt;
    let numbers: Vec<u64> = (1..=count).collect();
    futures::stream::iter(numbers)
        .map(|sequence| async move {
            let id = format!("m-{sequence}");
            let letter = Buried {
                sequence,
                headers: &[("Nats-Msg-Id", &id)],
                body: body.clone(),
                ..Buried::default()
            };
            letter.write(jetstream).await;
        })
        .buffered(256)
        .for_each(|()| async {})
        .await;
}

/// A message with these headers, stored.
async fn publish_message(jetstream: &Context, headers: &[(&str, &str)], body: Bytes) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let acknowledgement = jetstream
        .publish_with_headers("events.test", map, body)
        .await
        .unwrap();
    acknowledgement.await.unwrap();
}

/// A binary event without its id, and the bytes of its headers.
const NO_EVENT: [(&str, &str); 3] = [
    ("ce-specversion", "1.0"),
    ("ce-source", "/test"),
    ("ce-type", "t"),
];

fn wire_bytes(headers: &[(&str, &str)]) -> usize {
    let lines = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4);
    12 + lines.sum::<usize>()
}

/// Bytes that show where they are.
fn body_of(bytes: usize) -> Bytes {
    (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// Messages in a stream.
async fn messages_in(jetstream: &Context, stream: &str) -> u64 {
    let stream = jetstream.get_stream(stream).await.unwrap();
    stream.cached_info().state.messages
}
