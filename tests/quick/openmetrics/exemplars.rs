//! One exemplar for each bucket, the newest; Prometheus refuses those that go back in time.

use std::collections::BTreeMap;

use ganesh::event::Timestamp;
use ganesh::event::TraceId;
use ganesh::telemetry::histogram::{Exemplar, Histogram};
use proptest::collection::vec;
use proptest::prelude::*;

const BOUNDS: &[f64] = &[0.25, 1.0];

fn exemplar(value: f64, micros: i64, sequence: u64) -> Exemplar {
    let at = Timestamp::from_micros(micros);
    Exemplar {
        trace_id: TraceId::of_message(None, "EVENTS", sequence, at),
        value,
        at,
    }
}

#[test]
fn an_exemplar_stands_in_the_bucket_of_its_value() {
    let histogram = Histogram::new(BOUNDS);
    let (on_the_bound, beyond_all) = (exemplar(0.25, 1, 1), exemplar(1.5, 1, 2));
    histogram.attach_exemplar(on_the_bound);
    histogram.attach_exemplar(beyond_all);
    histogram.attach_exemplar(exemplar(f64::NAN, 1, 3));
    let snapshot = histogram.snapshot();
    assert_eq!(
        snapshot.exemplars,
        [Some(on_the_bound), None, Some(beyond_all)]
    );
    // Attaching is not observing.
    assert_eq!(snapshot.counts, [0; 3]);
}

proptest! {
    #[test]
    fn the_newest_of_each_bucket_wins_and_time_never_goes_back(
        attached in vec((0.0..2.0, 0i64..20), 1..60)
    ) {
        let histogram = Histogram::new(BOUNDS);
        let mut newest: BTreeMap<usize, Exemplar> = BTreeMap::new();
        let mut shown_before = vec![None; BOUNDS.len() + 1];
        for (sequence, (value, micros)) in attached.into_iter().enumerate() {
            let exemplar = exemplar(value, micros, sequence as u64);
            histogram.attach_exemplar(exemplar);
            let bucket = BOUNDS.iter().position(|bound| value <= *bound);
            let slot = newest.entry(bucket.unwrap_or(BOUNDS.len())).or_insert(exemplar);
            if exemplar.at > slot.at {
                *slot = exemplar;
            }
            let shown = histogram.snapshot().exemplars;
            for (now, before) in shown.iter().zip(&shown_before) {
                let at = |exemplar: &Option<Exemplar>| exemplar.map(|exemplar| exemplar.at);
                prop_assert!(at(now) >= at(before));
            }
            shown_before = shown;
        }
        for (bucket, shown) in shown_before.iter().enumerate() {
            prop_assert_eq!(shown.as_ref(), newest.get(&bucket));
        }
    }
}
