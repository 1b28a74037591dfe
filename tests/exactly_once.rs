//! P1: one row for each event, however often and by whomever it is delivered.

use std::process::Stdio;
use std::time::Duration;

use crate::support::events::{event, events, publish, publish_as_producers_do, publish_invalid};
use crate::support::ganesh::command;
use crate::support::reads::latest_by_cache;
use crate::support::{Stack, eventually};

#[tokio::test]
async fn every_event_becomes_one_row_and_is_acknowledged() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("e", 5_000)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 5_000);
    let stored = "ganesh_messages_settled_total{outcome=\"stored\"}";
    ganesh
        .wait_for_metric("ganesh_postgres_connections{state=\"idle\"}", 1.0)
        .await;
    ganesh.wait_for_metric(stored, 5_000.0).await;
    assert!(ganesh.terminate().await.success());
}

#[tokio::test]
async fn duplicates_within_a_batch_and_across_batches_add_no_row() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    stack.make_streams().await;
    let mut all = events("e", 1_000);
    all.extend(all.clone()); // across batches of 300, and once more within one:
    all.insert(0, all[0].clone());
    publish(&jetstream, &all).await;
    let ganesh = stack.serve(&[("GANESH_BATCH_MAX_EVENTS", "300")]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1_000);
    let duplicate = "ganesh_messages_settled_total{outcome=\"duplicate\"}";
    ganesh.wait_for_metric(duplicate, 1_001.0).await;
}

#[tokio::test]
async fn two_processes_share_the_work_and_add_no_second_row() {
    let stack = Stack::start().await;
    let one = stack.serve(&[]).await;
    let two = stack.serve(&[]).await;
    let all = events("e", 10_000);
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &all).await;
    publish(&jetstream, &all).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10_000);
    let received = "ganesh_messages_received_total";
    assert!(
        one.metric(received).await > 0.0,
        "the first one had no share"
    );
    assert!(
        two.metric(received).await > 0.0,
        "the second one had no share"
    );
}

#[tokio::test]
async fn a_kill_between_commit_and_acknowledgement_adds_no_second_row() {
    let stack = Stack::start().await;
    let short = [("GANESH_ACK_WAIT", "2s")];
    let ganesh = stack.serve(&short).await;
    // Until then a batch advances the epoch in its own transaction, and would wait for the lock below.
    latest_by_cache(&ganesh, "none").await;
    // Held between the two: whoever acknowledges has to read the epoch after the commit.
    let rows = stack.lock("events", "SHARE").await;
    publish(&stack.jetstream().await, &events("e", 500)).await;
    ganesh
        .wait_for_metric("ganesh_in_flight_messages", 500.0)
        .await;
    stack.wait_until_writers_wait().await;
    let epoch = stack.lock("cache_epoch", "ACCESS EXCLUSIVE").await;
    rows.rollback().await.unwrap();
    eventually("rows are committed", || async { stack.rows().await > 0 }).await;
    // Each writer commits its batch, and goes no further.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let committed = stack.rows().await;
    assert_eq!(stack.backlog().await, 500, "acknowledged before its time");
    ganesh.kill();
    epoch.rollback().await.unwrap();

    let again = stack.serve(&short).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 500);
    let duplicates = "ganesh_messages_settled_total{outcome=\"duplicate\"}";
    let committed = f64::from(i32::try_from(committed).unwrap());
    again.wait_for_metric(duplicates, committed).await;
}

#[tokio::test]
async fn a_producer_of_duplicates_a_kill_and_a_sigterm_leave_the_distinct_events_as_rows() {
    const COUNT: &str = "100000";
    let stack = Stack::start().await;
    let short = [("GANESH_ACK_WAIT", "2s")];
    let first = stack.serve(&short).await;
    let arguments = [
        "produce",
        "--count",
        COUNT,
        "--rate",
        "0",
        "--duplicates",
        "1",
    ];
    let producer = command(Some(&stack), &arguments, &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    stack.wait_for_rows(2_000).await;
    first.kill();
    assert!(
        stack.backlog().await > 0,
        "killed too late to prove anything"
    );

    let second = stack.serve(&short).await;
    stack.wait_for_rows(stack.rows().await + 2_000).await;
    assert!(second.terminate().await.success());
    assert!(
        stack.backlog().await > 0,
        "stopped too late to prove anything"
    );

    let _third = stack.serve(&short).await;
    let report = tokio::task::spawn_blocking(|| producer.wait_with_output().unwrap());
    let report = String::from_utf8(report.await.unwrap().stdout).unwrap();
    let distinct = report.lines().find_map(|line| {
        let number = line.strip_prefix("distinct events")?;
        number.trim().parse::<i64>().ok()
    });
    let distinct = distinct.unwrap_or_else(|| panic!("no count in {report}"));
    assert!((98_000..100_000).contains(&distinct), "{report}");
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, distinct);
}

#[tokio::test]
async fn republishing_beyond_the_duplicate_window_adds_no_second_row() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    let mut config = jetstream
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.duplicate_window = Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();
    let _ganesh = stack.serve(&[]).await;
    let event = event("once");
    for _ in 0..3 {
        publish_as_producers_do(&jetstream, std::slice::from_ref(&event)).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1);
}

#[tokio::test]
async fn what_cannot_be_decoded_becomes_a_dead_letter_and_costs_only_itself() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("before", 10)).await;
    publish_invalid(&jetstream).await;
    publish(&jetstream, &events("after", 10)).await;
    // Only now, so that one pull delivers the bad one among the good ones.
    let ganesh = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 20);
    assert_eq!(stack.dead_letters().await, 1);
    let letter = jetstream
        .get_stream("EVENTS_DLQ")
        .await
        .unwrap()
        .get_last_raw_message_by_subject("dlq.events.test")
        .await
        .unwrap();
    let header = |name: &str| letter.headers.get(name).map(ToString::to_string);
    assert_eq!(
        header("ganesh-dlq-reason").as_deref(),
        Some("missing_attribute")
    );
    assert_eq!(header("ce-source").as_deref(), Some("/test"));
    assert_eq!(header("ganesh-dlq-stream-sequence").as_deref(), Some("11"));
    let series = "ganesh_dead_letters_total{reason=\"missing_attribute\"}";
    ganesh.wait_for_metric(series, 1.0).await;
}

#[tokio::test]
async fn a_flood_of_dead_letters_is_counted_in_full_and_logged_in_part() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    for _ in 0..300 {
        publish_invalid(&jetstream).await;
    }
    let ganesh = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 300);
    let lines = ganesh.log().matches("\"message\":\"dead letter\"").count();
    assert!((1..=100).contains(&lines), "{lines} lines");
}
