//! When Postgres refuses most rows, something else is wrong than they.

use std::time::{Duration, Instant};

use ganesh::event::Event;

use crate::support::events::{events, publish, publish_invalid};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::{Ganesh, Stack, eventually};

const PAUSED: &str = "ganesh_rejection_pause";
const HELD: &str = "ganesh_in_flight_messages";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";
const PROGRESS: &str = "ganesh_progress_acks_total";
const COPIES: &str = "ganesh_batch_writes_total{method=\"copy\"}";
const STILL: &str = "still pausing";

/// A release of somebody's schema: none of our events fits any more.
async fn break_schema(stack: &Stack) {
    alter(
        stack,
        "ADD CONSTRAINT no_test CHECK (type <> 'com.example.test')",
    )
    .await;
}

async fn repair_schema(stack: &Stack) {
    alter(stack, "DROP CONSTRAINT no_test").await;
}

async fn alter(stack: &Stack, what: &str) {
    sqlx::query(&format!("ALTER TABLE events {what}"))
        .execute(&stack.pool)
        .await
        .unwrap();
}

async fn refuse_poisons(stack: &Stack) {
    alter(stack, "ADD CONSTRAINT no_poison CHECK (type <> 'poison')").await;
}

fn poisons(prefix: &str, count: usize) -> Vec<Event> {
    let mut poisons = events(prefix, count);
    for poison in &mut poisons {
        "poison".clone_into(&mut poison.event_type);
    }
    poisons
}

async fn until_it_goes_on(ganesh: &Ganesh) {
    eventually("it goes on", || async { ganesh.metric(PAUSED).await < 0.5 }).await;
}

#[tokio::test]
async fn a_broken_schema_empties_nothing_into_the_dead_letters_and_loses_nothing() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_BATCH_MAX_EVENTS", "500"),
        ("GANESH_MAX_IN_FLIGHT", "2000"),
        ("GANESH_WRITERS", "1"),
        ("GANESH_ACK_WAIT", "4s"),
    ];
    let ganesh = stack.serve(&settings).await;
    break_schema(&stack).await;
    let mut all = events("e", 6_000);
    // The first batch is so large that not one of its rows becomes a letter.
    let busy = publish_in_one_batch(&stack, &ganesh, &all[..600]).await;
    publish(&stack.jetstream().await, &all[600..]).await;
    all.push(busy);
    ganesh.wait_for_metric(PAUSED, 1.0).await;
    let (status, body) = ganesh.admin("/readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("postgres rejected half of the last 1000 rows"),
        "{body}"
    );
    // Longer than the server waits before it delivers again.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(ganesh.metric(HELD).await <= 2_000.0);
    assert!(stack.backlog().await >= 6_000, "something was settled");
    assert!(ganesh.metric(PROGRESS).await > 0.0);
    assert_eq!(stack.dead_letters().await, 0);
    repair_schema(&stack).await;
    until_it_goes_on(&ganesh).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 6_001);
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn while_it_pauses_one_batch_is_tried_every_ten_seconds() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_BATCH_MAX_EVENTS", "100")]).await;
    refuse_poisons(&stack).await;
    publish(&stack.jetstream().await, &poisons("bad", 2_000)).await;
    ganesh.wait_for_metric(PAUSED, 1.0).await;
    let began = Instant::now();
    // What was under way.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let writes = ganesh.metric(COPIES).await;
    let settled = stack.backlog().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!((ganesh.metric(COPIES).await - writes).abs() < f64::EPSILON);
    eventually("a batch is tried", || async {
        ganesh.log().contains(STILL)
    })
    .await;
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(9), "tried after {waited:?}");
    assert!(waited < Duration::from_secs(16), "tried after {waited:?}");
    assert_eq!(ganesh.log().matches(STILL).count(), 1);
    assert!(ganesh.metric(COPIES).await > writes);
    // Its rejected rows are held.
    assert_eq!(stack.backlog().await, settled);
}

#[tokio::test]
async fn rows_that_are_bad_themselves_become_dead_letters_after_a_better_batch() {
    let stack = Stack::start().await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "100"), ("GANESH_WRITERS", "1")];
    let ganesh = stack.serve(&settings).await;
    refuse_poisons(&stack).await;
    let jetstream = stack.jetstream().await;
    let mut all = poisons("bad", 500);
    let busy = publish_in_one_batch(&stack, &ganesh, &all).await;
    all.push(busy);
    ganesh.wait_for_metric(PAUSED, 1.0).await;
    // The batch with which it became too many is parked.
    eventually("four batches are letters", || async {
        stack.dead_letters().await == 400
    })
    .await;
    let good = events("good", 50);
    publish(&jetstream, &good).await;
    all.extend(good);
    until_it_goes_on(&ganesh).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 51);
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
}

#[tokio::test]
async fn without_new_messages_what_is_held_shows_that_the_cause_has_gone() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    break_schema(&stack).await;
    publish_in_one_batch(&stack, &ganesh, &events("e", 500)).await;
    ganesh.wait_for_metric(PAUSED, 1.0).await;
    repair_schema(&stack).await;
    until_it_goes_on(&ganesh).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 501);
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
async fn a_stop_during_the_pause_gives_everything_back_at_once() {
    let stack = Stack::start().await;
    let settings = [("GANESH_SHUTDOWN_GRACE", "6s"), ("GANESH_WRITERS", "1")];
    let ganesh = stack.serve(&settings).await;
    break_schema(&stack).await;
    let mut all = events("e", 8_000);
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    ganesh.wait_for_metric(PAUSED, 1.0).await;
    let began = Instant::now();
    assert!(ganesh.terminate().await.success());
    assert!(
        began.elapsed() < Duration::from_secs(7),
        "{:?}",
        began.elapsed()
    );
    repair_schema(&stack).await;
    // Far below GANESH_ACK_WAIT, which is 30 s.
    let restarted = Instant::now();
    let _again = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert!(restarted.elapsed() < Duration::from_secs(20));
    assert_eq!(stack.rows().await, 8_001);
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
}

#[tokio::test]
async fn messages_that_are_no_events_pause_nothing() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    for _ in 0..1_200 {
        publish_invalid(&jetstream).await;
    }
    publish(&jetstream, &events("good", 100)).await;
    let ganesh = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 1_200);
    assert_eq!(stack.rows().await, 100);
    assert!(ganesh.metric(PAUSED).await < f64::EPSILON);
}
