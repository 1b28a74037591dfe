//! More traces than the budget, or the queue, has room for.

use std::time::Duration;

use super::shape::{PROCESS, traces, wait_for_traces};
use crate::support::collector::{Collector, Manner};
use crate::support::events::{events, publish, publish_invalid, publish_with_long_ids};
use crate::support::{Ganesh, Stack, eventually};

fn decision(name: &str) -> String {
    format!("ganesh_traces_total{{decision=\"{name}\"}}")
}

async fn spans(ganesh: &Ganesh, result: &str) -> f64 {
    ganesh
        .metric(&format!("ganesh_spans_total{{result=\"{result}\"}}"))
        .await
}

/// Waits until every span that was built has come to its end.
pub async fn assert_every_span_is_accounted_for(ganesh: &Ganesh) {
    eventually("the queue is empty and no request under way", || async {
        let results = ["exported", "dropped", "failed"];
        let mut ended = 0.0;
        for result in results {
            ended += spans(ganesh, result).await;
        }
        let built = ganesh.metric("ganesh_spans_built_total").await;
        assert!(ended <= built, "{ended} ended of {built} built");
        (ended - built).abs() < f64::EPSILON
    })
    .await;
    let waiting = ganesh.metric("ganesh_queue_depth{queue=\"export\"}").await;
    assert!(waiting.abs() < f64::EPSILON);
}

#[tokio::test]
async fn slow_ones_beyond_the_budget_are_counted_and_failed_ones_still_get_through() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", "40"),
        ("GANESH_BATCH_MAX_EVENTS", "200"),
    ]);
    let jetstream = stack.jetstream().await;
    // A backlog, all of it slow; the failed ones stand at its end.
    publish(&jetstream, &events("slow", 3_000)).await;
    for _ in 0..15 {
        publish_invalid(&jetstream).await;
    }
    publish(&jetstream, &events("more", 3_000)).await;
    let began = std::time::Instant::now();
    let ganesh = stack.serve(&settings).await;
    stack.wait_until_drained().await;
    let took = began.elapsed().as_secs_f64();
    ganesh
        .wait_for_metric("ganesh_messages_settled_total{outcome=\"stored\"}", 6_000.0)
        .await;

    let failed = ganesh.metric(&decision("failed")).await;
    assert!((failed - 15.0).abs() < f64::EPSILON, "{failed}");
    let slow = ganesh.metric(&decision("slow")).await;
    let over = ganesh.metric(&decision("over_budget")).await;
    assert!(over > 0.0);
    assert!(
        (slow + over - 6_000.0).abs() < f64::EPSILON,
        "{slow} + {over}"
    );
    assert!(slow + failed <= 40.0 * (took + 1.0), "{slow} in {took} s");
    assert_every_span_is_accounted_for(&ganesh).await;
    assert!(spans(&ganesh, "dropped").await < f64::EPSILON);
    assert!(spans(&ganesh, "failed").await < f64::EPSILON);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let arrived = wait_for_traces(&collector, (slow + failed) as usize).await;
    let failed = arrived
        .iter()
        .filter(|whole| whole.keep_reason() == "failed");
    assert_eq!(failed.count(), 15);
}

#[tokio::test]
async fn a_queue_that_overflows_drops_whole_traces_and_counts_every_span() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", "1000000"),
    ]);
    let ganesh = stack.serve(&settings).await;
    collector.behave(Manner::Hang);
    publish(&stack.jetstream().await, &events("e", 4_000)).await;
    stack.wait_until_drained().await;
    eventually("the queue overflows", || async {
        spans(&ganesh, "dropped").await > 0.0
    })
    .await;
    let depth = ganesh.metric("ganesh_queue_depth{queue=\"export\"}").await;
    let capacity = ganesh
        .metric("ganesh_queue_capacity{queue=\"export\"}")
        .await;
    assert!(
        depth <= capacity && depth > capacity - 8.0,
        "{depth} of {capacity}"
    );
    collector.behave(Manner::Accept);
    assert_every_span_is_accounted_for(&ganesh).await;
    // The request that hung has failed; the rest of the queue arrived, all of it whole.
    assert!(spans(&ganesh, "failed").await > 0.0);
    let arrived = traces(&collector);
    assert_eq!(arrived.len(), collector.named(PROCESS).len());
    assert!((800..1_300).contains(&arrived.len()), "{}", arrived.len());
    assert!(arrived.iter().all(|whole| whole.names().len() == 6));
}

#[tokio::test]
async fn message_ids_as_long_as_headers_may_be_do_not_fill_the_memory_of_one_whose_collector_hangs()
{
    // JetStream stores headers of 64 KiB at most. What the queue holds of traces would be 66 MB.
    const ID_BYTES: usize = 60_000;
    // With what is held and what the allocator keeps, mostly less than 48 MiB were seen, and 53 once.
    const GROWTH_MAX_BYTES: u64 = 64 << 20;
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", "1000000"),
        // What is held anyway is little beside what is measured.
        ("GANESH_MAX_IN_FLIGHT_BYTES", "8MiB"),
    ]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    // Fills what is filled once: buffers, connections.
    publish_with_long_ids(&jetstream, &events("warm-up", 50), ID_BYTES).await;
    stack.wait_until_drained().await;
    assert_every_span_is_accounted_for(&ganesh).await;
    collector.behave(Manner::Hang);
    let before = ganesh.resident_bytes();
    publish_with_long_ids(&jetstream, &events("hang", 1_500), ID_BYTES).await;
    stack.wait_until_drained().await;
    let grown = ganesh.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX_BYTES, "grew by {grown} bytes");
    let waiting = ganesh.metric("ganesh_queue_depth{queue=\"export\"}").await;
    assert!(waiting > 0.0, "nothing waited");
    let arrived = wait_for_traces(&collector, 50).await;
    for whole in &arrived {
        let id = whole.process.attribute("messaging.message.id");
        assert_eq!(id.len(), 1_024);
    }
}

#[tokio::test]
async fn the_traces_of_all_settled_messages_are_exported_at_sigterm() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", "1000000"),
    ]);
    let ganesh = stack.serve(&settings).await;
    collector.behave(Manner::Slow(Duration::from_millis(100)));
    let all = events("e", 500);
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    let before = collector.named(PROCESS).len();
    assert!(ganesh.terminate().await.success());
    assert!(before < all.len(), "stopped too late to prove anything");
    assert_eq!(traces(&collector).len(), all.len());
}
