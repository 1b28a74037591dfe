//! Histograms count what a naive model counts, and lose nothing under contention.

use std::sync::Barrier;

use ganesh::telemetry::histogram::{Histogram, Snapshot};
use proptest::collection::vec;
use proptest::prelude::*;

const BOUNDS: &[f64] = &[0.0001, 0.25, 1.0, 2.5, 60.0];

/// Buckets, count and sum by definition: a value belongs to the first bucket whose bound
/// it does not exceed.
fn naive(observations: &[(f64, u64)]) -> (Vec<u64>, f64) {
    let bounds: Vec<f64> = BOUNDS.iter().copied().chain([f64::INFINITY]).collect();
    let mut counts = vec![0; bounds.len()];
    let mut sum = 0.0;
    for (value, times) in observations {
        for _ in 0..*times {
            let bucket = bounds.iter().position(|bound| value <= bound);
            counts[bucket.unwrap()] += 1;
            sum += value;
        }
    }
    (counts, sum)
}

fn assert_counted(snapshot: &Snapshot, observations: &[(f64, u64)]) {
    let (counts, sum) = naive(observations);
    assert_eq!(snapshot.counts, counts);
    let error = (snapshot.sum - sum).abs();
    assert!(
        error <= 1e-9 * sum.abs().max(1.0),
        "{} for {sum}",
        snapshot.sum
    );
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..100.0,
        0.0..0.001,
        // Exactly on a bound, and right beside it.
        proptest::sample::select(BOUNDS.to_vec()),
        proptest::sample::select(BOUNDS.to_vec()).prop_map(f64::next_up),
        Just(0.0),
        Just(1e12),
    ]
}

proptest! {
    #[test]
    fn it_counts_what_a_naive_model_counts(observations in vec((value(), 0u64..5), 0..200)) {
        let histogram = Histogram::new(BOUNDS);
        for (value, times) in &observations {
            match times {
                1 => histogram.record(*value),
                _ => histogram.record_many(*value, *times),
            }
        }
        assert_counted(&histogram.snapshot(), &observations);
    }
}

#[test]
fn threads_that_record_at_once_lose_nothing() {
    const THREADS: u32 = 4;
    const EACH: u32 = 1_000_000;
    let histogram = Histogram::new(BOUNDS);
    // All at once, and long enough that the scheduler makes them meet.
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (histogram, start) = (&histogram, &start);
            // Whole numbers: their sum is exact in any order.
            let value = f64::from(thread);
            scope.spawn(move || {
                start.wait();
                (0..EACH).for_each(|_| histogram.record(value));
            });
        }
    });
    let each = (0..THREADS).map(|thread| (f64::from(thread), u64::from(EACH)));
    assert_counted(&histogram.snapshot(), &each.collect::<Vec<_>>());
}

#[test]
fn what_is_no_number_does_not_spoil_the_sum() {
    let histogram = Histogram::new(BOUNDS);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5] {
        histogram.record(value);
    }
    assert_counted(&histogram.snapshot(), &[(0.5, 1)]);
}
