//! Dead letters: written whole before the message is acknowledged, listed, shown, replayed, deleted.

mod identity;
mod many;
mod purged;
mod read;
mod replayed;
mod written;

use std::process::Output;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, StorageType};
use bytes::Bytes;
use ganesh::event::Timestamp;
use ganesh::event::TraceId;
use ganesh::messaging::letters::write::{self, Original, Outgoing};
use ganesh::messaging::streams::DLQ_DUPLICATE_WINDOW;
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
            duplicate_window,
            allow_direct: true,
            ..Config::default()
        };
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
    fn outgoing(&self, payload_max_bytes: usize) -> Outgoing {
        let headers: HeaderMap = self
            .headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let stored_at = Timestamp::from_micros(1_800_000_000_000_000);
        let original = Original {
            subject: self.subject,
            headers: Some(&headers),
            body: &self.body,
            stream: "EVENTS",
            sequence: self.sequence,
            stored_at,
            deliveries: 1,
            trace_id: TraceId::of_message(None, "EVENTS", self.sequence, stored_at),
        };
        write::outgoing(&original, self.reason, self.detail, payload_max_bytes)
    }

    /// Writes its letter as `serve` does; the sequence of the letter.
    async fn write(&self, jetstream: &Context) -> u64 {
        let subject = write::letter_subject(self.subject);
        let publish = async |part: write::Part| {
            let acknowledgement = jetstream
                .publish_with_headers(subject.clone(), part.headers, part.body)
                .await
                .unwrap();
            acknowledgement.await.unwrap().sequence
        };
        match self.outgoing(jetstream.client().max_payload()) {
            Outgoing::Whole(part) => publish(part).await,
            Outgoing::Halves(first, second) => {
                let first = publish(first).await;
                publish(second.follow(first)).await
            }
        }
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
            letter.write(jetstream).await
        })
        .buffered(256)
        .for_each(|_| async {})
        .await;
}

/// Messages in a stream.
async fn messages_in(jetstream: &Context, stream: &str) -> u64 {
    let stream = jetstream.get_stream(stream).await.unwrap();
    stream.cached_info().state.messages
}
