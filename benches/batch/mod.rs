//! A batch as it comes to settlement, without servers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use ganesh::config::{Config, Reader};
use ganesh::event::{self, Timestamp};
use ganesh::labels::{Outcome, WriteMethod};
use ganesh::message::timings::{Failures, now_nanos};
use ganesh::message::{BatchTimings, CacheWrite, Decoded, StoredBatch};
use ganesh::messaging::delivery::ParsedDelivery;
use ganesh::messaging::in_flight::{Admission, Capacity, InFlight};
use ganesh::telemetry::Metrics;

/// Messages in it.
pub(crate) const BATCH: u64 = 1_000;

/// The defaults, but for these.
pub(crate) fn config(settings: &[(&'static str, &str)]) -> Config {
    let mut reader = Reader::default();
    for (variable, value) in settings {
        reader.set(variable, (*value).to_owned());
    }
    Config::read(reader).unwrap()
}

fn message(sequence: u64) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", format!("event-{sequence}"));
    headers.insert("ce-source", "/bench");
    headers.insert("ce-type", "com.example.bench");
    headers.insert("ce-subject", "bench");
    headers.insert("Nats-Msg-Id", format!("{sequence:032x}"));
    let nanos = i128::from(Timestamp::now().micros()) * 1_000;
    let reply = format!("$JS.ACK.EVENTS.ganesh.1.{sequence}.{sequence}.{nanos}.0");
    Message {
        subject: Subject::from("events.bench"),
        reply: Some(reply.into()),
        payload: Bytes::from_static(b"{\"value\":1}"),
        headers: Some(headers),
        status: None,
        description: None,
        length: 300,
    }
}

fn decoded(in_flight: &Arc<InFlight>, sequence: u64) -> Decoded {
    let parsed = ParsedDelivery::read(message(sequence)).unwrap();
    let admission = Admission {
        ack_subject: parsed.ack_subject.clone(),
        bytes: 300,
    };
    let place = in_flight
        .admit(std::iter::once(admission), 0)
        .pop()
        .unwrap();
    let mut delivery = parsed.into_delivery("EVENTS", place);
    let event = event::decode(
        &event::Message {
            subject: &delivery.message.subject,
            headers: delivery.message.headers.as_ref(),
            payload: &delivery.message.payload,
            stream: "EVENTS",
            stream_sequence: sequence,
            published_at: delivery.published_at,
        },
        true,
    )
    .unwrap();
    delivery.timings.mark_decode_began(now_nanos());
    delivery.timings.mark_decoded(now_nanos());
    Decoded { delivery, event }
}

/// A batch of messages that were all stored.
pub(crate) fn batch(metrics: &Metrics, config: &Config) -> (StoredBatch, CacheWrite) {
    let limits = Capacity::in_flight(&config.pipeline);
    let (in_flight, _) = InFlight::new(limits, Duration::from_secs(30), metrics.clone());
    let messages: Vec<Decoded> = (1..=BATCH).map(|seq| decoded(&in_flight, seq)).collect();
    let outcomes = vec![Outcome::Stored; messages.len()];
    let timings = BatchTimings {
        taken_at: now_nanos(),
        durable_at: now_nanos(),
        events: messages.len(),
        method: WriteMethod::Copy,
        failures: Failures::default(),
        observed: OnceLock::new(),
    };
    let batch = StoredBatch {
        messages,
        outcomes,
        epoch_advanced: false,
        timings: Arc::new(timings),
    };
    let cached = CacheWrite {
        ended: now_nanos(),
        failures: Failures::default(),
        cache_error: None,
    };
    (batch, cached)
}
