//! What a message costs beside its way: its timings, its settlement when no trace is kept,
//! and the trace when one is.
//!
//! `cargo bench --bench record`

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic, and shows figures"
)]

mod batch;

use std::hint::black_box;
use std::time::Instant;

use batch::{BATCH, batch, config};
use ganesh::labels::{Decision, Outcome};
use ganesh::message::Decoded;
use ganesh::message::timings::{Moment, Timings, now_nanos};
use ganesh::observe::Observer;
use ganesh::observe::settled_message::SettledMessage;
use ganesh::observe::slow_list::SlowList;
use ganesh::observe::spans::MessageSpans;
use ganesh::observe::stage_times::StageTimes;
use ganesh::telemetry::Metrics;

/// Rounds, whose median is shown.
const ROUNDS: usize = 31;
const TIMES_A_ROUND: u32 = 1_000;

fn main() {
    timings();
    unkept();
    kept();
}

/// Prints how long one of `parts` in `work` takes.
fn measure(what: &str, parts: u64, mut work: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..TIMES_A_ROUND {
                work();
            }
            began.elapsed().as_secs_f64()
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let nanos = rounds[ROUNDS / 2] * 1e9 / f64::from(TIMES_A_ROUND) / parts as f64;
    println!("{what:<40} {nanos:8.1} ns");
}

fn timings() {
    measure("timings of a message", 1, || {
        let mut timings = Timings::received();
        timings.mark_decoded(now_nanos());
        black_box(timings);
    });
}

/// Per message: its histograms and the decision that nothing is kept.
fn unkept() {
    let config = config(&[
        ("GANESH_TRACE_SLOW_MS", "86400000"),
        ("GANESH_TRACE_BASELINE", "0"),
    ]);
    let metrics = Metrics::default();
    let (batch, cached) = batch(&metrics, &config);
    let mut observer = Observer::new(&config, metrics, None, SlowList::default());
    measure("settlement of a message without a trace", BATCH, || {
        observer.record_batch(black_box(&batch), &cached);
    });
}

/// The spans of one message; exporting them comes on top, elsewhere.
fn kept() {
    let config = config(&[]);
    let metrics = Metrics::default();
    let (batch, cached) = batch(&metrics, &config);
    let spans = MessageSpans::new(&config);
    let Decoded { delivery, event } = &batch.messages[0];
    let batch = &batch.timings;
    measure("spans of a kept message", 1, || {
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
        black_box(spans.build(&message, Decision::Slow, None));
    });
    measure("span of a batch", 1, || {
        black_box(spans.of_batch(batch, &Moment::now()));
    });
}
