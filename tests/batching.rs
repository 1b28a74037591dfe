//! Sizes of batches, and what writers do to each other.

use crate::support::Stack;
use crate::support::events::{event, events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};

const COPIES: &str = "ganesh_batch_writes_total{method=\"copy\"}";
const QUEUED: &str = "ganesh_queue_depth{queue=\"writer\"}";

#[tokio::test]
async fn a_single_event_does_not_wait_for_company() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    for number in 0..10 {
        publish(&jetstream, &[event(&format!("single-{number}"))]).await;
        stack.wait_for_rows(number + 1).await;
    }
    stack.wait_until_drained().await;
    let waited = "ganesh_stage_seconds_sum{stage=\"queue\"}";
    let waited = ganesh.metric(waited).await;
    assert!(waited < 0.05, "ten events waited {waited} s for a writer");
    let inserts = ganesh
        .metric("ganesh_batch_writes_total{method=\"insert\"}")
        .await;
    assert!((inserts - 10.0).abs() < f64::EPSILON, "{inserts}");
}

/// What arrives while every writer is busy is one batch for the next free one.
#[tokio::test]
async fn a_flood_fills_batches() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let all = events("e", 10_001);
    // The only writer waits for this one's key.
    let first = hold_key(&stack, &all[0]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &all[..1]).await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "1")];
    let ganesh = stack.serve(&settings).await;
    wait_until_so_many_wait(&stack, 1).await;
    publish(&jetstream, &all[1..]).await;
    ganesh.wait_for_metric(QUEUED, 10_000.0).await;
    first.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10_001);
    let copies = ganesh.metric(COPIES).await;
    assert!((copies - 10.0).abs() < f64::EPSILON, "{copies} batches");
    assert!(ganesh.metric(QUEUED).await < f64::EPSILON);
}

#[tokio::test]
async fn batches_with_the_same_events_in_opposite_order_do_not_deadlock() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let forward = events("e", 1_000);
    let middle = hold_key(&stack, &forward[500]).await;
    let mut all = forward.clone();
    all.extend(forward.into_iter().rev());
    let settings = [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "2")];
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    // Both writers are busy until all are there.
    let mut busy = Vec::new();
    for (waiting, one) in (1..).zip(events("busy", 2)) {
        busy.push(hold_key(&stack, &one).await);
        publish(&jetstream, &[one]).await;
        wait_until_so_many_wait(&stack, waiting).await;
    }
    publish(&jetstream, &all).await;
    ganesh.wait_for_metric(QUEUED, 2_000.0).await;
    for key in busy {
        key.rollback().await.unwrap();
    }
    wait_until_so_many_wait(&stack, 2).await;
    middle.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1_002);
    let conflicts = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"conflict\"}";
    assert!(ganesh.metric(conflicts).await < f64::EPSILON);
}
