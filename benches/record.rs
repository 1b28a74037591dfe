//! What a message costs beside its way: its record, its settlement when no trace is kept,
//! and the trace when one is.
//!
//! `cargo bench --bench record`

#![allow(missing_docs, reason = "criterion makes public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

mod batch;

use std::hint::black_box;

use batch::{BATCH, batch, config};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ganesh::labels::{Decision, Outcome};
use ganesh::pipeline::decode::Decoded;
use ganesh::pipeline::observe::Observer;
use ganesh::telemetry::passage::Passage;
use ganesh::telemetry::record::{Moment, Record, now_nanos};
use ganesh::telemetry::slow::SlowLog;
use ganesh::telemetry::spans::{MessageSpans, batch_span};
use ganesh::telemetry::stages::StageTimes;
use ganesh::telemetry::{Histograms, Metrics};

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
