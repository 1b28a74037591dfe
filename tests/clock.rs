//! The wall clock of ganesh is set, forward and back, under load.

use std::time::Duration;

use ganesh::event::{Event, Timestamp};

use crate::support::clock::Clock;
use crate::support::events::{events, publish};
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::{Ganesh, Stack};

const AHEAD: &str = "ganesh_clock_skew_seconds";
const LATENCY: &str = "ganesh_end_to_end_seconds_sum";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";
const HOUR_SECS: i64 = 3_600;
const DAY_SECS: i64 = 24 * HOUR_SECS;

/// So that a step is known to have had its effect.
async fn assert_is_seen(ganesh: &Ganesh, step: i64) {
    if step < 0 {
        // The stream's timestamps are ahead by what it was set back.
        ganesh.wait_for_metric(AHEAD, 3_500.0).await;
    }
    if step > 0 {
        // Each of them seems to have waited for an hour.
        ganesh.wait_for_metric(LATENCY, 3_500.0).await;
    }
}

/// What is asked for is what Postgres says, whatever the time is.
async fn assert_is_newest(ganesh: &Ganesh, newest: &Event) {
    let subject = newest.subject.as_deref().unwrap();
    let url = format!("{}/v1/subjects/{subject}/latest", ganesh.api);
    for _ in 0..2 {
        let answer = reqwest::get(&url).await.unwrap();
        let event: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(event["id"], newest.id.as_str());
    }
}

#[tokio::test]
async fn steps_of_the_wall_clock_cost_no_event_and_no_redelivery() {
    let stack = Stack::start().await;
    let clock = Clock::build();
    let settings = [clock.settings().as_slice(), &[("GANESH_ACK_WAIT", "3s")]].concat();
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let mut all = Vec::new();
    for (round, step) in [HOUR_SECS, -HOUR_SECS, 0].into_iter().enumerate() {
        // Held while the clock is set, and for longer than `ack_wait`.
        let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
        let held = events(&format!("held-{round}"), 300);
        publish(&jetstream, &held).await;
        ganesh
            .wait_for_metric("ganesh_in_flight_messages", 300.0)
            .await;
        clock.step(step);
        tokio::time::sleep(Duration::from_secs(4)).await;
        lock.rollback().await.unwrap();
        let behind = events(&format!("behind-{round}"), 300);
        publish(&jetstream, &behind).await;
        stack.wait_until_drained().await;
        assert_is_seen(&ganesh, step).await;
        all.extend(held.into_iter().chain(behind));
        assert_is_newest(&ganesh, all.last().unwrap()).await;
    }
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
    assert!(ganesh.terminate().await.success());
}

#[tokio::test]
async fn a_replica_whose_clock_is_days_ahead_drops_no_partition_before_its_time() {
    let stack = Stack::start().await;
    let first = stack.serve(&[]).await;
    let mut all = events("today", 100);
    all[0].time = Timestamp::from_micros(all[0].time.micros() - DAY_SECS * 1_000_000);
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    assert!(first.terminate().await.success());

    let clock = Clock::build();
    clock.step(5 * DAY_SECS);
    let settings = [
        clock.settings().as_slice(),
        &[("GANESH_RETENTION_DAYS", "2")],
    ]
    .concat();
    // It looks after partitions as it starts.
    let ganesh = stack.serve(&settings).await;
    let behind = events("behind", 100);
    publish(&stack.jetstream().await, &behind).await;
    stack.wait_until_drained().await;
    all.extend(behind);
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(ganesh.terminate().await.success());
}
