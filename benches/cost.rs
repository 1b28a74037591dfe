//! P8 and P6 by measurement: what telemetry costs the pipeline, in turn with a run without it, and
//! what it does to memory while nobody scrapes and no collector listens. Prints what it found, and
//! fails when that is more than was promised.
//!
//! `make measure`; `MESSAGES=1000000 make measure` drains longer.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a measurement may panic, and shows figures"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "what the tests share has more than is used here"
)]

mod batch;
mod drain;
#[path = "../tests/support/mod.rs"]
mod support;

use ::ganesh::observe::Observer;
use ::ganesh::observe::slow_list::SlowList;
use ::ganesh::telemetry::{Metrics, traces};
use drain::{Cost, compare, drain, produce};
use support::collector::Collector;
use support::{Stack, ganesh as command};

/// Drained in each run.
const MESSAGES: u64 = 200_000;
const PAIRS: usize = 4;
/// P8: of throughput, and of processor time per message.
const COST_MAX: f64 = 0.05;
/// Ten minutes at 20,000 a second.
const OBSERVED: u64 = 12_000_000;
/// Fifty times the rate at which traces are kept otherwise, as time passes that much faster here.
const TRACES_PER_SECOND: &str = "10000";
const GROWTH_MAX_BYTES: u64 = 8 << 20;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        memory_stays_flat().await;
        telemetry_is_cheap().await;
    });
}

/// Settles messages of a batch again and again; the spans of kept ones go to nobody.
async fn memory_stays_flat() {
    let metrics = Metrics::default();
    let nowhere = format!("http://127.0.0.1:{}", support::servers::free_port());
    let config = batch::config(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere.leak()),
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", TRACES_PER_SECOND),
    ]);
    let tracing = traces::start(&config.telemetry, metrics.clone())
        .unwrap()
        .unwrap();
    let mut observer = Observer::new(
        &config,
        metrics.clone(),
        Some(tracing.queue.clone()),
        SlowList::default(),
    );
    let (batch, cached) = batch::batch(&metrics, &config);
    let mut resident = Vec::new();
    let rounds = OBSERVED / batch::BATCH;
    for round in 1..=rounds {
        observer.record_batch(&batch, &cached);
        if round % (rounds / 12) == 0 {
            resident.push(command::resident_bytes(std::process::id()));
        }
        tokio::task::yield_now().await;
    }
    let mebibytes: Vec<u64> = resident.iter().map(|bytes| bytes >> 20).collect();
    println!("memory: {OBSERVED} messages observed, nobody scrapes, no collector");
    println!("  resident after each twelfth, MiB: {mebibytes:?}");
    // The first twelfth fills what is filled once: the queue, the lists, the allocator's pages.
    let grown = resident[resident.len() - 1].saturating_sub(resident[0]);
    assert!(grown <= GROWTH_MAX_BYTES, "grew by {grown} bytes");
}

async fn telemetry_is_cheap() {
    let messages = std::env::var("MESSAGES").map_or(MESSAGES, |text| text.parse().unwrap());
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let on = collector.settings();
    let off = collector.settings_with(&[("OTEL_SDK_DISABLED", "true")]);
    fill(&stack, messages).await;
    println!("cost: {messages} messages drained in each run; on, off, on again");
    println!("  messages/s, µs of processor time per message");
    let (mut costs, mut controls) = (Vec::new(), Vec::new());
    // The first run finds cold files.
    drain(&stack, &on, messages, messages).await;
    for pair in 0..PAIRS {
        let first = drain(&stack, &on, messages, messages).await;
        let without = drain(&stack, &off, messages, messages).await;
        let again = drain(&stack, &on, messages, messages).await;
        println!("  {first}   {without}   {again}");
        // In turn, so that what a machine does over time falls on both alike.
        let with = if pair % 2 == 0 { first } else { again };
        costs.push(with.cost_over(without));
        controls.push(first.cost_over(again));
    }
    judge("throughput lost to telemetry", &costs, &controls, |cost| {
        cost.throughput
    });
    judge("processor time for telemetry", &costs, &controls, |cost| {
        cost.cpu
    });
}

/// Against the promise, and what two equal runs differ by.
fn judge(name: &str, costs: &[Cost], controls: &[Cost], of: impl Fn(&Cost) -> f64) {
    let (cost, spread) = compare(name, costs, controls, of);
    assert!(cost <= COST_MAX + spread, "{name}: {costs:?}");
}

/// A stream full of messages; each run reads it from the start.
async fn fill(stack: &Stack, messages: u64) {
    stack.make_streams().await;
    let count = messages.to_string();
    produce(stack, &["--rate", "0", "--seed", "1", "--count", &count]);
}
