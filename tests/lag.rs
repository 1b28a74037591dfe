//! Lag in time: the age of the oldest message that is not acknowledged, held ones included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config;
use futures::StreamExt;
use sqlx::{Postgres, Transaction};

use crate::support::events::{event, events, publish};
use crate::support::{Ganesh, Stack, eventually};

const OLDEST: &str = "ganesh_consumer_oldest_pending_seconds";
const REMOVED: &str = "ganesh_consumer_removed_messages_total";

/// While this lives, nothing is stored: what is delivered stays held.
async fn storing_stopped(stack: &Stack) -> Transaction<'static, Postgres> {
    let mut lock = stack.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    lock
}

async fn wait_for_zero(ganesh: &Ganesh) {
    eventually("nothing is pending any more", || async {
        ganesh.metric(OLDEST).await < f64::EPSILON
    })
    .await;
}

#[tokio::test]
async fn the_age_of_the_oldest_held_message_grows_until_it_is_stored() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    assert!(ganesh.metric(OLDEST).await < f64::EPSILON);
    let lock = storing_stopped(&stack).await;
    let published = Instant::now();
    publish(&stack.jetstream().await, &events("old", 3)).await;
    // It is the oldest that counts, not what comes later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    publish(&stack.jetstream().await, &events("new", 3)).await;
    ganesh.wait_for_metric(OLDEST, 3.0).await;
    let age = ganesh.metric(OLDEST).await;
    assert!(age <= published.elapsed().as_secs_f64(), "{age}");
    ganesh.wait_for_metric(OLDEST, age + 1.0).await;
    lock.rollback().await.unwrap();
    wait_for_zero(&ganesh).await;
    assert_eq!(stack.rows().await, 6);
}

/// The event stream with foreign messages in it, and a consumer that takes events alone.
async fn make_filtered_consumer(stack: &Stack) -> async_nats::jetstream::Context {
    let jetstream = stack.jetstream().await;
    let stream = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned(), "foreign.>".to_owned()],
        max_messages: 2_000,
        ..Config::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    let consumer = pull::Config {
        durable_name: Some("ganesh".to_owned()),
        filter_subject: "events.>".to_owned(),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    let made = jetstream.create_consumer_on_stream(consumer, "EVENTS");
    made.await.unwrap();
    jetstream
}

async fn publish_foreign(jetstream: &async_nats::jetstream::Context, count: usize) {
    for _ in 0..count {
        let sent = jetstream.publish("foreign.x", "".into()).await.unwrap();
        sent.await.unwrap();
    }
}

#[tokio::test]
async fn foreign_messages_that_a_filter_passes_over_are_no_alarm() {
    let stack = Stack::start().await;
    let jetstream = make_filtered_consumer(&stack).await;
    let ganesh = stack.serve(&[]).await;
    publish(&jetstream, &events("before", 10)).await;
    publish_foreign(&jetstream, 1_000).await;
    publish(&jetstream, &events("after", 10)).await;
    stack.wait_for_rows(20).await;
    // The stream is full by now: foreign messages, and what is stored, drop out.
    publish_foreign(&jetstream, 2_500).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let removed = ganesh.metric(REMOVED).await;
    assert!(removed < f64::EPSILON, "{removed}");
    assert!(!ganesh.log().contains("they are not stored"));
    // A foreign message is not what waits, either.
    let lock = storing_stopped(&stack).await;
    let published = Instant::now();
    publish(&jetstream, &events("held", 1)).await;
    ganesh.wait_for_metric(OLDEST, 1.0).await;
    let age = ganesh.metric(OLDEST).await;
    assert!(age <= published.elapsed().as_secs_f64(), "{age}");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn what_a_filtered_consumer_loses_is_an_alarm() {
    let stack = Stack::start().await;
    let jetstream = make_filtered_consumer(&stack).await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT", "4"),
        ("GANESH_BATCH_MAX_EVENTS", "4"),
    ];
    let ganesh = stack.serve(&settings).await;
    let lock = storing_stopped(&stack).await;
    publish(&jetstream, &events("lost", 100)).await;
    ganesh
        .wait_for_metric("ganesh_consumer_pending_messages", 90.0)
        .await;
    publish_foreign(&jetstream, 2_100).await;
    ganesh.wait_for_metric(REMOVED, 90.0).await;
    let removed = ganesh.metric(REMOVED).await;
    assert!(removed <= 100.0, "{removed}");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn what_a_limit_removed_before_it_was_delivered_is_counted_and_said() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT", "4"),
        ("GANESH_BATCH_MAX_EVENTS", "4"),
    ];
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_messages = 100;
    jetstream.update_stream(config).await.unwrap();
    // Removed after they were stored: nobody misses them.
    publish(&jetstream, &events("stored", 150)).await;
    stack.wait_until_drained().await;
    let lock = storing_stopped(&stack).await;
    publish(&jetstream, &events("flood", 500)).await;
    // Up to four are held, and stored though the stream has them no more.
    ganesh.wait_for_metric(REMOVED, 396.0).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    // Counted once: not again when delivery passes them over.
    publish(&jetstream, &events("later", 10)).await;
    stack.wait_until_drained().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let removed = ganesh.metric(REMOVED).await;
    let rows = f64::from(i32::try_from(stack.rows().await).unwrap());
    assert!(
        (removed + rows - 660.0).abs() < f64::EPSILON,
        "{removed} {rows}"
    );
    assert!(ganesh.log().contains("the stream removed messages"));
}

#[tokio::test]
async fn a_message_that_the_stream_removed_is_not_the_oldest() {
    let stack = Stack::start().await;
    // Two are held, and the others not delivered: there is no room for them.
    let settings = [
        ("GANESH_MAX_IN_FLIGHT", "2"),
        ("GANESH_BATCH_MAX_EVENTS", "2"),
    ];
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let lock = storing_stopped(&stack).await;
    publish(&jetstream, &events("removed", 5)).await;
    ganesh.wait_for_metric(OLDEST, 4.0).await;
    let last_published = Instant::now();
    publish(&jetstream, &[event("last")]).await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    for sequence in 1..=5 {
        assert!(stream.delete_message(sequence).await.unwrap());
    }
    eventually("the last one is the oldest", || async {
        let age = ganesh.metric(OLDEST).await;
        age > 0.0 && age <= last_published.elapsed().as_secs_f64()
    })
    .await;
    // Nothing is left to wait for, though what was removed is still held.
    stream.purge().await.unwrap();
    wait_for_zero(&ganesh).await;
    lock.rollback().await.unwrap();
}

/// It reads a message from the server's disk, each time.
#[tokio::test]
async fn the_oldest_message_is_asked_for_every_two_seconds_at_most() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let client = async_nats::connect(stack.nats_url()).await.unwrap();
    let mut requests = client
        .subscribe("$JS.API.STREAM.MSG.GET.EVENTS")
        .await
        .unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        while requests.next().await.is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let lock = storing_stopped(&stack).await;
    publish(&stack.jetstream().await, &events("e", 3)).await;
    ganesh.wait_for_metric(OLDEST, 0.001).await;
    let before = asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(7)).await;
    let during = asked.load(Ordering::Relaxed) - before;
    assert!((1..=4).contains(&during), "{during} in 7 s");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn the_stream_and_its_limits_are_exported_as_the_server_has_them() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_STREAM_MAX_BYTES", "64MiB"),
        ("GANESH_STREAM_MAX_AGE", "2h"),
    ];
    let ganesh = stack.serve(&settings).await;
    publish(&stack.jetstream().await, &events("kept", 30)).await;
    stack.wait_until_drained().await;
    ganesh.wait_for_metric("ganesh_stream_messages", 30.0).await;
    let stream = stack.jetstream().await.get_stream("EVENTS").await.unwrap();
    let state = stream.cached_info().state.clone();
    #[allow(clippy::cast_precision_loss, reason = "a few")]
    let (bytes, messages) = (state.bytes as f64, state.messages as f64);
    let limit = f64::from(64 * 1_024 * 1_024);
    for (metric, expected) in [
        ("ganesh_stream_bytes", bytes),
        ("ganesh_stream_bytes_limit", limit),
        ("ganesh_stream_messages", messages),
        ("ganesh_stream_messages_limit", 0.0),
        ("ganesh_stream_age_limit_seconds", 7_200.0),
    ] {
        let exported = ganesh.metric(metric).await;
        assert!((exported - expected).abs() < 0.5, "{metric}: {exported}");
    }
    ganesh
        .wait_for_metric("ganesh_stream_age_seconds", 2.0)
        .await;
}
