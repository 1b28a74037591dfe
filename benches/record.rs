//! What a message costs beside its way: its timings, its settlement when no trace is kept,
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
use ganesh::message::Decoded;
use ganesh::message::timings::{Moment, Timings, now_nanos};
use ganesh::observe::Observer;
use ganesh::observe::settled_message::SettledMessage;
use ganesh::observe::slow_list::SlowList;
use ganesh::observe::spans::MessageSpans;
use ganesh::observe::stage_times::StageTimes;
use ganesh::telemetry::Metrics;

fn timings(criterion: &mut Criterion) {
    criterion.bench_function("timings: received and decoded", |bencher| {
        bencher.iter(|| {
            let mut timings = Timings::received();
            timings.mark_decoded(now_nanos());
            black_box(timings)
        });
    });
}

/// Per message: its histograms and the decision that nothing is kept.
fn unkept(criterion: &mut Criterion) {
    let config = config(&[
        ("GANESH_TRACE_SLOW_MS", "86400000"),
        ("GANESH_TRACE_BASELINE", "0"),
    ]);
    let metrics = Metrics::default();
    let (batch, cached) = batch(&metrics, &config);
    let mut observer = Observer::new(&config, metrics, None, SlowList::default());
    let mut group = criterion.benchmark_group("settlement");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("1,000 unkept messages", |bencher| {
        bencher.iter(|| observer.record_batch(black_box(&batch), &cached));
    });
    group.finish();
}

/// The spans of one message; exporting them comes on top, elsewhere.
fn kept(criterion: &mut Criterion) {
    let config = config(&[]);
    let metrics = Metrics::default();
    let (batch, cached) = batch(&metrics, &config);
    let spans = MessageSpans::new(&config);
    let Decoded { delivery, event } = &batch.messages[0];
    let batch = &batch.timings;
    criterion.bench_function("spans of a kept message", |bencher| {
        bencher.iter(|| {
            let moment = Moment::now();
            let marks = [
                delivery.timings.decode_began_at(),
                delivery.timings.decoded_at(),
                batch.taken_at,
                batch.durable_at,
                cached.ended,
                moment.monotonic(),
            ];
            let message = SettledMessage {
                delivery,
                event: Some(event),
                outcome: Outcome::Stored,
                times: StageTimes::new(delivery.published_at, &marks, &moment),
                moment,
                batch: Some(batch),
                cache_failures: Some(&cached.failures),
                settle_failures: None,
                failure: None,
            };
            black_box(spans.build(&message, Decision::Slow, None))
        });
    });
    criterion.bench_function("span of a batch", |bencher| {
        bencher.iter(|| black_box(spans.of_batch(batch, &Moment::now())));
    });
}

criterion_group!(benches, timings, unkept, kept);
criterion_main!(benches);
