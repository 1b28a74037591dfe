//! A message that waits, is held, was removed, or is not in the stream yet.

use async_nats::jetstream::Context;

use super::{explain, told};
use crate::support::Stack;
use crate::support::events::{event, events, publish};

async fn limit_messages(jetstream: &Context, max_messages: i64) {
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_messages = max_messages;
    jetstream.update_stream(config).await.unwrap();
}

#[tokio::test]
async fn a_waiting_message_says_how_many_are_before_it() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    publish(&stack.jetstream().await, &events("e", 3)).await;
    let answer = explain(&stack, &["3"]);
    assert_eq!(answer["outcome"], "waiting", "{answer:#}");
    assert_eq!(answer["waiting"]["before"], 2);
    assert_eq!(answer["waiting"]["before_is_exact"], true);
    assert_eq!(answer["waiting"]["rate_per_second"], 0.0);
    assert_eq!(answer["event"]["id"], "e-2");
    let told_of_it = told(&answer);
    assert!(
        told_of_it.contains("2 messages are before it; nothing was delivered"),
        "{told_of_it}"
    );
    let answer = explain(&stack, &["4"]);
    assert_eq!(answer["outcome"], "not_in_stream_yet", "{answer:#}");
    assert_eq!(answer["stream"]["last_sequence"], 3);
}

#[tokio::test]
async fn a_held_message_is_delivered_and_not_acknowledged() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    // Writers wait, and readers do not.
    let lock = stack.lock("events", "SHARE").await;
    publish(&stack.jetstream().await, &[event("e")]).await;
    stack.wait_until_writers_wait().await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "held", "{answer:#}");
    assert_eq!(answer["stream"]["consumer"]["acknowledged"], false);
    assert_eq!(answer["stream"]["consumer"]["ack_pending"], 1);
    // A mirror's message has the sequence and the time of its origin's, and an end of its own.
    let fate = "INSERT INTO fates (stream, stream_seq, published_at, fate, detail) \
         VALUES ('MIRROR', 1, $1::text::timestamptz, 'rejected_row', '')";
    let published_at = answer["stream"]["stored_at"].as_str().unwrap();
    let fate = sqlx::query(fate).bind(published_at).execute(&stack.pool);
    fate.await.unwrap();
    assert_eq!(explain(&stack, &["1"])["outcome"], "held");
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    ganesh
        .wait_for_metric("ganesh_messages_settled_total{outcome=\"stored\"}", 1.0)
        .await;
    assert_eq!(explain(&stack, &["1"])["outcome"], "stored");
}

#[tokio::test]
async fn what_a_limit_removed_before_it_was_delivered_has_no_row() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("e", 3)).await;
    limit_messages(&jetstream, 1).await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "removed", "{answer:#}");
    assert_eq!(answer["stream"]["holds"], false);
    assert_eq!(answer["stream"]["first_sequence"], 3);
    let told_of_it = told(&answer);
    assert!(
        told_of_it.contains("removed it before it was delivered"),
        "{told_of_it}"
    );
    // Once the consumer has passed over it, no place tells before from after.
    let _ganesh = stack.serve(&[]).await;
    stack.wait_for_rows(1).await;
    stack.wait_until_drained().await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "removed", "{answer:#}");
    let summary = answer["summary"].as_str().unwrap();
    assert!(
        summary.contains("neither a row nor a dead letter"),
        "{summary}"
    );
    assert!(
        !told(&answer).contains("before it was delivered"),
        "{answer:#}"
    );
}

#[tokio::test]
async fn what_a_limit_removed_after_it_was_stored_is_found_by_its_row() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("e", 3)).await;
    stack.wait_until_drained().await;
    limit_messages(&jetstream, 1).await;
    for question in ["1", "e-0"] {
        let answer = explain(&stack, &[question]);
        assert_eq!(answer["outcome"], "stored", "{answer:#}");
        assert_eq!(answer["row"]["id"], "e-0");
        assert_eq!(answer["stream"]["holds"], false);
        let told = told(&answer);
        assert!(told.contains("removed it after it was stored"), "{told}");
    }
}

#[tokio::test]
async fn a_stream_that_was_made_anew_has_another_message_of_that_sequence() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &[event("before")]).await;
    stack.wait_until_drained().await;
    ganesh.terminate().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    stack.make_streams().await;
    publish(&jetstream, &[event("after")]).await;
    let answer = explain(&stack, &["before"]);
    assert_eq!(answer["outcome"], "stored", "{answer:#}");
    assert_eq!(answer["stream"], serde_json::Value::Null);
    let not_known = answer["not_known"].to_string();
    assert!(not_known.contains("deleted and made again"), "{not_known}");
    assert_eq!(explain(&stack, &["1"])["event"]["id"], "after");
}
