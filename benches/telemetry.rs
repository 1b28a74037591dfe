//! What one observation costs: alone, for a batch at once, from two threads at a time, and,
//! to compare, through the exporter's own histogram, which buffers.

#![allow(missing_docs, reason = "criterion's macros make items without them")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use ganesh::telemetry::histogram::Histogram;
use ganesh::telemetry::metrics::STAGE_SECONDS;
use metrics::with_local_recorder;
use metrics_exporter_prometheus::PrometheusBuilder;

/// Values all over the buckets, so that no branch is learnt.
fn values() -> impl Iterator<Item = f64> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) * 0.3
    })
}

fn observations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("observation");
    let histogram = Histogram::new(STAGE_SECONDS);
    let mut next = values();
    group.bench_function("the values alone", |b| b.iter(|| next.next()));
    group.bench_function("record", |b| {
        b.iter(|| histogram.record(black_box(next.next().unwrap_or(0.0))));
    });
    group.bench_function("record_many, a whole batch", |b| {
        b.iter(|| histogram.record_many(black_box(next.next().unwrap_or(0.0)), 1_000));
    });
    group.bench_function("snapshot", |b| b.iter(|| histogram.snapshot()));
    group.finish();
}

fn contended(criterion: &mut Criterion) {
    let histogram = Arc::new(Histogram::new(STAGE_SECONDS));
    let stop = Arc::new(AtomicBool::new(false));
    let other = std::thread::spawn({
        let (histogram, stop) = (histogram.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                histogram.record(0.01);
            }
        }
    });
    let mut next = values();
    criterion.bench_function("observation/record, another thread too", |b| {
        b.iter(|| histogram.record(black_box(next.next().unwrap_or(0.0))));
    });
    stop.store(true, Ordering::Relaxed);
    other.join().expect("it only records");
}

fn buffered(criterion: &mut Criterion) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let histogram = with_local_recorder(&recorder, || metrics::histogram!("seconds"));
    let mut next = values();
    criterion.bench_function("observation/the exporter's own, upkeep included", |b| {
        b.iter_custom(|times| {
            let began = std::time::Instant::now();
            for _ in 0..times {
                histogram.record(black_box(next.next().unwrap_or(0.0)));
            }
            handle.run_upkeep();
            began.elapsed()
        });
    });
}

criterion_group!(benches, observations, contended, buffered);
criterion_main!(benches);
