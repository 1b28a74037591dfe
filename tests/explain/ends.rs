//! A message that is a row, a duplicate, skipped, or no event.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::Executor;

use super::{explain, in_words, not_asked, told};
use crate::support::events::{event, publish};
use crate::support::reads::{ago, latest_by_cache, of};
use crate::support::{Stack, eventually};

#[tokio::test]
async fn a_stored_message_is_found_by_whatever_is_known_of_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let all = [
        of("kitchen", "older", ago(2_000)),
        of("kitchen", "newer", ago(1_000)),
    ];
    publish(&jetstream, &all).await;
    stack.wait_until_drained().await;
    let (trace_id, partition): (String, String) =
        sqlx::query_as("SELECT trace_id, tableoid::regclass::text FROM events WHERE id = 'newer'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    let time = all[1].time.to_string();
    let questions: [&[&str]; 9] = [
        &["2"],
        &["--sequence", "2"],
        &["newer"],
        &["--id", "newer"],
        &["newer", "--source", "/test", "--time", &time],
        &[&trace_id],
        &["--trace-id", &trace_id],
        &["kitchen"],
        &["--subject", "kitchen"],
    ];
    for question in questions {
        let answer = explain(&stack, question);
        assert_eq!(answer["outcome"], "stored", "{question:?} {answer:#}");
        assert_eq!(answer["sequence"], 2, "{question:?} {answer:#}");
        assert_eq!(answer["row"]["id"], "newer");
        assert_eq!(answer["row"]["partition"], partition.as_str());
        assert_eq!(answer["stream"]["holds"], true);
        assert_eq!(answer["stream"]["subject"], "events.test");
        assert_eq!(answer["stream"]["consumer"]["acknowledged"], true);
        assert_eq!(answer["trace"]["id"], trace_id.as_str());
        assert_eq!(answer["newest_of_subject"]["is_this"], true);
        // The cache is not filled by a question.
        assert_eq!(answer["cache"]["holds"], "nothing", "{answer:#}");
        assert_eq!(not_asked(&answer), ["jaeger", "replica"], "{answer:#}");
    }
    let older = explain(&stack, &["older"]);
    assert_eq!(older["newest_of_subject"]["is_this"], false, "{older:#}");
    assert_eq!(older["newest_of_subject"]["newest"]["id"], "newer");
    eventually("the cache has it", || async {
        latest_by_cache(&ganesh, "kitchen")
            .await
            .cache
            .contains("hit")
    })
    .await;
    let answer = explain(&stack, &["2"]);
    assert_eq!(answer["cache"]["holds"], "state", "{answer:#}");
    assert_eq!(answer["cache"]["is_newest"], true, "{answer:#}");
    let words = in_words(&stack, &["2"]);
    for expected in [
        "message 2 of EVENTS is stored\n",
        "the stream        took message 2 under events.test\n",
        "Postgres          stored it in ",
        "the cache         answers for its subject with the newest event: id newer",
        "not asked         Jaeger: JAEGER_URL is not set\n",
    ] {
        assert!(words.contains(expected), "{expected:?} in {words}");
    }
}

#[tokio::test]
async fn a_duplicate_names_the_row_and_other_events_of_an_id_are_named() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let first = event("twice");
    publish(&jetstream, std::slice::from_ref(&first)).await;
    stack.wait_until_drained().await;
    let mut other = event("twice");
    other.source = "/other".to_owned();
    publish(&jetstream, &[first, other]).await;
    stack.wait_until_drained().await;
    let answer = explain(&stack, &["2"]);
    assert_eq!(answer["outcome"], "duplicate", "{answer:#}");
    assert_eq!(answer["duplicate_of"]["stream_seq"], 1);
    assert_eq!(answer["duplicate_of"]["source"], "/test");
    assert_eq!(answer["row"], Value::Null);
    let told = told(&answer);
    assert!(
        told.contains("from message 1 (the same source, id and time)"),
        "{told}"
    );
    let answer = explain(&stack, &["twice"]);
    assert_eq!(answer["sequence"], 3, "the newest: {answer:#}");
    assert_eq!(answer["same_id"][0]["source"], "/test");
    let answer = explain(&stack, &["twice", "--source", "/test"]);
    assert_eq!(answer["sequence"], 1, "{answer:#}");
    assert_eq!(answer["same_id"], json!([]));
}

/// Has the consumer deliver one message, and gives it back.
async fn deliver_once(stack: &Stack) {
    let jetstream = stack.jetstream().await;
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream("ganesh", "EVENTS")
        .await
        .unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    message.double_ack_with(AckKind::Nak(None)).await.unwrap();
}

#[tokio::test]
async fn a_message_whose_row_a_trigger_skipped_says_so_as_far_as_it_is_written_down() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let skip = "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER skip_all BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION skip()";
    stack.pool.execute(skip).await.unwrap();
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &[event("redelivered")]).await;
    deliver_once(&stack).await;
    let ganesh = stack.serve(&[]).await;
    publish(&jetstream, &[event("delivered-once")]).await;
    stack.wait_until_drained().await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "skipped", "{answer:#}");
    assert_eq!(answer["fate"]["fate"], "skipped");
    assert_eq!(answer["event"]["id"], "redelivered");
    assert_eq!(answer["row"], Value::Null);
    let subject = event("redelivered").subject.unwrap();
    // The process learns of the epoch that its start made within a second.
    eventually("the cache has it that there is none", || async {
        latest_by_cache(&ganesh, &subject).await;
        explain(&stack, &["1"])["cache"]["holds"] == "no_event"
    })
    .await;
    let words = told(&explain(&stack, &["1"]));
    assert!(words.contains("that there is no event"), "{words}");
    // Of a first delivery nothing is written down: no guess, but what can be the reason.
    let answer = explain(&stack, &["2"]);
    assert_eq!(answer["outcome"], "settled_without_row", "{answer:#}");
    let told = told(&answer);
    assert!(told.contains("can leave a row out: skip_all"), "{told}");
    let not_known = answer["not_known"].to_string();
    assert!(
        not_known.contains("a trigger skipped its row"),
        "{not_known}"
    );
}

#[tokio::test]
async fn a_marker_of_nats_is_no_event() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let ttl = u64::try_from(Duration::from_secs(1).as_nanos()).unwrap();
    let config = json!({
        "name": "EVENTS", "subjects": ["events.>"], "storage": "file", "retention": "limits",
        "allow_msg_ttl": true, "subject_delete_marker_ttl": ttl, "allow_direct": true,
    });
    let _: Value = jetstream
        .request("STREAM.CREATE.EVENTS", &config)
        .await
        .unwrap();
    let ganesh = stack.serve(&[]).await;
    let mut marker = async_nats::HeaderMap::new();
    for (name, value) in [
        ("Nats-Marker-Reason", "MaxAge"),
        ("Nats-TTL", "never"),
        ("Nats-Rollup", "sub"),
    ] {
        marker.insert(name, value);
    }
    let sent = jetstream.publish_with_headers("events.test", marker, "".into());
    sent.await.unwrap().await.unwrap();
    let markers = "ganesh_messages_settled_total{outcome=\"marker\"}";
    ganesh.wait_for_metric(markers, 1.0).await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "marker", "{answer:#}");
    assert_eq!(answer["event"], Value::Null);
}
