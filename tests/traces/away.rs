//! P6, P8: a collector that hangs, refuses, or is not there changes nothing for the pipeline.

use std::time::{Duration, Instant};

use super::flood::assert_every_span_is_accounted_for;
use crate::support::collector::{Collector, Manner};
use crate::support::events::{events, publish};
use crate::support::servers::free_port;
use crate::support::{Ganesh, Stack, eventually};

const EVENTS: usize = 20_000;
/// Everything is kept, so that the queue is always full.
const KEEP_ALL: [(&str, &str); 2] = [
    ("GANESH_TRACE_SLOW_MS", "0"),
    ("GANESH_TRACE_MAX_PER_SEC", "1000000"),
];
const MIB: u64 = 1 << 20;

/// By how much memory may grow over three times so many events, for what is held and how the allocator
/// keeps it. Their traces have about 3 KiB each, more than twice that.
const GROWTH_MAX_BYTES: u64 = 80 * MIB;

/// Publishes and waits; returns how long that took.
async fn work(stack: &Stack, prefix: &str) -> Duration {
    let began = Instant::now();
    publish(&stack.jetstream().await, &events(prefix, EVENTS)).await;
    stack.wait_until_drained().await;
    began.elapsed()
}

fn assert_has_not_grown(ganesh: &Ganesh, before: u64) {
    let grown = ganesh.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX_BYTES, "grew by {grown} bytes");
}

#[tokio::test]
async fn a_collector_that_is_slow_hangs_or_refuses_costs_neither_time_nor_memory() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let ganesh = stack.serve(&collector.settings_with(&KEEP_ALL)).await;
    // Fills what is filled once: buffers, connections, the queue.
    work(&stack, "warm-up").await;
    let accepting = work(&stack, "accepted").await;
    let resident = ganesh.resident_bytes();
    let manners = [
        (Manner::Slow(Duration::from_secs(3)), "slow"),
        (Manner::Hang, "hang"),
        (Manner::Refuse, "refuse"),
    ];
    for (manner, prefix) in manners {
        collector.behave(manner);
        publish(
            &stack.jetstream().await,
            &events(&format!("first-{prefix}"), 10),
        )
        .await;
        eventually("the collector is asked", || async { collector.was_asked() }).await;
        let took = work(&stack, prefix).await;
        let limit = accepting * 3 / 2 + Duration::from_secs(1);
        assert!(
            took < limit,
            "{manner:?}: {took:?}, accepting {accepting:?}"
        );
    }
    assert_has_not_grown(&ganesh, resident);
    collector.behave(Manner::Accept);
    assert_every_span_is_accounted_for(&ganesh).await;
    let lines = ganesh.log().matches("collector").count();
    assert!(
        (1..=6).contains(&lines),
        "{lines} lines about the collector"
    );
}

#[tokio::test]
async fn without_a_collector_the_log_stays_quiet_and_memory_flat() {
    let stack = Stack::start().await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let mut settings = vec![
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere.as_str()),
    ];
    settings.extend(KEEP_ALL);
    let ganesh = stack.serve(&settings).await;
    work(&stack, "warm-up").await;
    let resident = ganesh.resident_bytes();
    for round in 0..3 {
        work(&stack, &format!("round-{round}")).await;
    }
    assert_has_not_grown(&ganesh, resident);
    ganesh
        .wait_for_metric("ganesh_spans_total{result=\"failed\"}", 1.0)
        .await;
    let lines = ganesh.log().matches("collector").count();
    assert!(
        (1..=2).contains(&lines),
        "{lines} lines about the collector"
    );
    let began = Instant::now();
    assert!(ganesh.terminate().await.success());
    assert!(began.elapsed() < Duration::from_secs(10));
}
