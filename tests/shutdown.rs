//! P10: SIGTERM stops fetching, stores and acknowledges what is held, releases the
//! rest for at-once redelivery, and exits 0 within the grace period.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::collector::{Collector, Manner};
use crate::support::events::{events, publish, publish_invalid};
use crate::support::keys::wait_until_so_many_wait;
use crate::support::servers::send_signal;
use crate::support::{Stack, eventually};

const REDELIVERED: &str = "ganesh_messages_redelivered_total";

#[tokio::test]
async fn sigterm_under_load_loses_and_doubles_nothing_and_leaves_nothing_held() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("e", 30_000)).await;
    let ganesh = stack.serve(&[]).await;
    eventually("some rows are committed", || async {
        stack.rows().await > 0
    })
    .await;
    let began = Instant::now();
    assert!(ganesh.terminate().await.success());
    assert!(began.elapsed() < Duration::from_secs(10));

    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let info = stream.consumer_info("ganesh").await.unwrap();
    assert!(info.num_pending > 0, "stopped too late to prove anything");
    // A busy server takes a moment for the last ones; by itself it forgets none.
    eventually("no message is held by nobody", || async {
        let info = stream.consumer_info("ganesh").await.unwrap();
        info.num_ack_pending == 0
    })
    .await;

    let again = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 30_000);
    assert!(again.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn what_cannot_be_stored_within_the_grace_is_released_for_at_once_redelivery() {
    let stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[("GANESH_SHUTDOWN_GRACE", "4s")]).await;
    let jetstream = stack.jetstream().await;
    stack.postgres.as_ref().unwrap().pause();
    publish(&jetstream, &events("e", 500)).await;
    ganesh
        .wait_for_metric("ganesh_in_flight_messages", 500.0)
        .await;
    let began = Instant::now();
    assert!(ganesh.terminate().await.success());
    assert!(began.elapsed() < Duration::from_secs(5));
    stack.postgres.as_ref().unwrap().resume();

    // Far below GANESH_ACK_WAIT, which is 30 s: they come back because they were released.
    let restarted = Instant::now();
    let again = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert!(restarted.elapsed() < Duration::from_secs(15));
    assert_eq!(stack.rows().await, 500);
    assert!(again.metric(REDELIVERED).await >= 500.0);
}

#[tokio::test]
async fn sigterm_while_idle_ends_within_two_seconds() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let began = Instant::now();
    assert!(ganesh.terminate().await.success());
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn reads_are_answered_until_the_last_message_is_stored_and_readyz_says_no_first() {
    let stack = Stack::start().await;
    let mut ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("before", 1)).await;
    stack.wait_until_drained().await;
    // Holds up writes, not reads.
    let lock = stack.lock("events", "SHARE").await;
    publish(&jetstream, &events("held", 100)).await;
    ganesh
        .wait_for_metric("ganesh_in_flight_messages", 100.0)
        .await;
    send_signal(ganesh.pid(), Signal::TERM);
    let began = Instant::now();
    while ganesh.admin("/readyz").await.0 != 503 {
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert!(ganesh.admin("/readyz").await.1.contains("shutting down"));
    while began.elapsed() < Duration::from_secs(3) {
        // Each on a connection of its own.
        let answer = reqwest::get(format!("{}/v1/events/before-0", ganesh.api)).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    lock.rollback().await.unwrap();
    assert!(ganesh.wait().await.success());
    assert_eq!(stack.rows().await, 101);
}

#[tokio::test]
async fn a_read_that_runs_at_the_end_of_a_shutdown_is_answered() {
    let stack = Stack::start().await;
    let mut ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("e", 1)).await;
    stack.wait_until_drained().await;
    let lock = stack.lock("events_default", "ACCESS EXCLUSIVE").await;
    let read = tokio::spawn(reqwest::get(format!("{}/v1/events/e-0", ganesh.api)));
    wait_until_so_many_wait(&stack, 1).await;
    send_signal(ganesh.pid(), Signal::TERM);
    eventually("/readyz says no", || async {
        ganesh.admin("/readyz").await.0 == 503
    })
    .await;
    // Longer than the last acknowledgements may take, shorter than a read may.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    lock.rollback().await.unwrap();
    assert_eq!(read.await.unwrap().unwrap().status(), 200);
    assert!(ganesh.wait().await.success());
}

/// Postgres, NATS and the collector hang; returns how long the end took, and the log's line
/// about the spans.
async fn end_while_all_hangs(grace: &str) -> (Duration, Value) {
    let stack = Stack::start_with_own_postgres().await;
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = collector.settings_with(&[
        ("GANESH_SHUTDOWN_GRACE", grace),
        ("GANESH_LOG_DIR", folder.path().to_str().unwrap()),
    ]);
    let mut ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    collector.behave(Manner::Hang);
    publish_invalid(&jetstream).await;
    eventually("the collector is asked", || async { collector.was_asked() }).await;
    publish_invalid(&jetstream).await;
    let settled = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
    ganesh.wait_for_metric(settled, 2.0).await;
    stack.postgres.as_ref().unwrap().pause();
    publish(&jetstream, &events("e", 500)).await;
    ganesh
        .wait_for_metric("ganesh_in_flight_messages", 500.0)
        .await;
    stack.nats.pause();
    let began = Instant::now();
    send_signal(ganesh.pid(), Signal::TERM);
    assert!(ganesh.wait().await.success());
    let took = began.elapsed();
    let log = std::fs::read_to_string(folder.path().join("app.log")).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("some spans were not exported"));
    let line = line.unwrap_or_else(|| panic!("no line about spans: {log}"));
    (took, serde_json::from_str(line).unwrap())
}

#[tokio::test]
async fn whatever_hangs_the_whole_end_is_within_the_grace_and_every_span_is_accounted_for() {
    for grace in [1, 4] {
        let (took, line) = end_while_all_hangs(&format!("{grace}s")).await;
        let limit = Duration::from_secs(grace) + Duration::from_millis(300);
        assert!(took < limit, "{grace} s: {took:?}");
        let count = |name: &str| line[name].as_u64().unwrap();
        // Of two traces of four spans, one was under way and the other one waited.
        assert_eq!(count("built"), 8, "{line}");
        assert_eq!(count("failed"), 4, "{line}");
        assert_eq!(count("dropped"), 4, "{line}");
    }
}
