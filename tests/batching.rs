//! Size of batches, and what writers do to each other.

use std::time::Duration;

use ganesh::pipeline::batch::{Batcher, Limits};
use proptest::prelude::*;

use crate::support::Stack;
use crate::support::events::{events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};

const COPIES: &str = "ganesh_batch_writes_total{method=\"copy\"}";

#[tokio::test]
async fn a_flood_fills_batches() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    publish(&stack.jetstream().await, &events("e", 10_000)).await;
    let ganesh = stack.serve(&[("GANESH_BATCH_MAX_EVENTS", "1000")]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10_000);
    let copies = ganesh.metric(COPIES).await;
    assert!((copies - 10.0).abs() < f64::EPSILON, "{copies} batches");
}

proptest! {
    #[test]
    fn a_batch_keeps_order_and_limits(
        sizes in prop::collection::vec(1usize..500, 0..200),
        max_events in 1usize..50,
        max_bytes in 1usize..2_000,
    ) {
        let linger = Duration::from_secs(1);
        let limits = Limits { events: max_events, bytes: max_bytes, linger };
        let mut batcher = Batcher::new(limits);
        let began = tokio::time::Instant::now();
        let arrival = |i: usize| began + Duration::from_millis(i as u64);
        let mut closed = Vec::new();
        for (i, bytes) in sizes.iter().enumerate() {
            closed.extend(batcher.push((i, *bytes), *bytes, arrival(i)));
            // The first event of the open batch sets its deadline; later ones do not.
            let first: usize = closed.iter().map(Vec::len).sum();
            let deadline = (!batcher.is_empty()).then(|| arrival(first) + linger);
            prop_assert_eq!(batcher.deadline(), deadline);
        }
        closed.extend(batcher.take());
        prop_assert!(batcher.take().is_none());
        for batch in &closed {
            let bytes: usize = batch.iter().map(|(_, bytes)| bytes).sum();
            prop_assert!(batch.len() <= max_events);
            prop_assert!(bytes <= max_bytes || batch.len() == 1);
        }
        let order: Vec<usize> = closed.into_iter().flatten().map(|(i, _)| i).collect();
        prop_assert_eq!(order, (0..sizes.len()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn batches_with_the_same_events_in_opposite_order_do_not_deadlock() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let forward = events("e", 1_000);
    let middle = hold_key(&stack, &forward[500]).await;
    let mut all = forward.clone();
    all.extend(forward.into_iter().rev());
    publish(&stack.jetstream().await, &all).await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "2")];
    let ganesh = stack.serve(&settings).await;
    wait_until_so_many_wait(&stack, 2).await;
    middle.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1_000);
    let conflicts = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"conflict\"}";
    assert!(ganesh.metric(conflicts).await < f64::EPSILON);
}
