//! What a message costs beside its way: its record, its settlement when no trace is kept,
//! and the trace when one is.
//!
//! `cargo bench --bench record`

#![allow(missing_docs, reason = "criterion makes public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ganesh::config::{Config, Reader};
use ganesh::event::{self, Timestamp};
use ganesh::messaging::delivery::Arrived;
use ganesh::messaging::held::{Arrival, Held, Limits};
use ganesh::pipeline::decode::Decoded;
use ganesh::pipeline::observe::Observer;
use ganesh::pipeline::settle::Cached;
use ganesh::pipeline::store::Committed;
use ganesh::telemetry::batch::BatchRecord;
use ganesh::telemetry::catalogue::{Decision, Outcome};
use ganesh::telemetry::passage::Passage;
use ganesh::telemetry::record::{Failures, Moment, Record, now_nanos};
use ganesh::telemetry::slow::SlowLog;
use ganesh::telemetry::spans::{MessageSpans, batch_span};
use ganesh::telemetry::stages::StageTimes;
use ganesh::telemetry::{Histograms, Metrics};

const BATCH: u64 = 1_000;

fn config(settings: &[(&'static str, &str)]) -> Config {
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

fn decoded(held: &Arc<Held>, sequence: u64) -> Decoded {
    let arrived = Arrived::read(message(sequence)).unwrap();
    let ids = held.hold(std::iter::once(Arrival {
        reply: arrived.reply.clone(),
        bytes: 300,
    }));
    let mut delivery = arrived.into_delivery("EVENTS", ids[0], held);
    let event = event::decode(
        &event::Message {
            subject: &delivery.message.subject,
            headers: delivery.message.headers.as_ref(),
            payload: &delivery.message.payload,
            stream: "EVENTS",
            stream_sequence: sequence,
            stored_at: delivery.published_at,
        },
        true,
    )
    .unwrap();
    delivery.record.mark_taken(now_nanos());
    delivery.record.mark_decoded(now_nanos());
    Decoded { delivery, event }
}

fn batch(metrics: &Metrics, config: &Config) -> Cached {
    let limits = Limits::of(&config.pipeline);
    let (held, _) = Held::new(limits, Duration::from_secs(30), metrics.clone());
    let messages: Vec<Decoded> = (1..=BATCH).map(|seq| decoded(&held, seq)).collect();
    let outcomes = vec![Outcome::Stored; messages.len()];
    let (closed, began, durable) = (now_nanos(), now_nanos(), now_nanos());
    let failures = Failures::default();
    let record = BatchRecord::new(closed, began, durable, messages.len(), failures);
    Cached {
        committed: Committed {
            messages,
            outcomes,
            epoch_advanced: false,
            record: Arc::new(record),
        },
        cached_at: now_nanos(),
        failures: Failures::default(),
        done_without: None,
    }
}

fn record(criterion: &mut Criterion) {
    criterion.bench_function("record: received and decoded", |bencher| {
        bencher.iter(|| {
            let mut record = Record::received();
            record.mark_decoded(now_nanos());
            black_box(record)
        });
    });
}

/// Per message: its histograms and the decision that nothing is kept.
fn unkept(criterion: &mut Criterion) {
    let config = config(&[
        ("GANESH_TRACE_SLOW_MS", "86400000"),
        ("GANESH_TRACE_BASELINE", "0"),
    ]);
    let metrics = Metrics::register(&Histograms::default());
    let cached = batch(&metrics, &config);
    let mut observer = Observer::new(&config, metrics, None, SlowLog::default());
    let mut group = criterion.benchmark_group("settlement");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("1,000 unkept messages", |bencher| {
        bencher.iter(|| observer.rows(black_box(&cached)));
    });
    group.finish();
}

/// The spans of one message; exporting them comes on top, elsewhere.
fn kept(criterion: &mut Criterion) {
    let config = config(&[]);
    let metrics = Metrics::register(&Histograms::default());
    let cached = batch(&metrics, &config);
    let spans = MessageSpans::new(&config.nats);
    let Decoded { delivery, event } = &cached.committed.messages[0];
    let batch = &cached.committed.record;
    criterion.bench_function("spans of a kept message", |bencher| {
        bencher.iter(|| {
            let moment = Moment::now();
            let marks = [
                delivery.record.taken_at(),
                delivery.record.decoded_at(),
                batch.closed,
                batch.durable,
                cached.cached_at,
                moment.monotonic(),
            ];
            let passage = Passage {
                delivery,
                event: Some(event),
                outcome: Outcome::Stored,
                times: StageTimes::new(delivery.published_at, &marks, &moment),
                moment,
                batch: Some(batch),
                cache_failures: Some(&cached.failures),
                settle_failures: None,
                verdict: None,
            };
            black_box(spans.build(&passage, Decision::Slow, None))
        });
    });
    criterion.bench_function("span of a batch", |bencher| {
        bencher.iter(|| black_box(batch_span(batch, &Moment::now())));
    });
}

criterion_group!(benches, record, unkept, kept);
criterion_main!(benches);
