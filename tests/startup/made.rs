//! What is missing is made as the documents say; what is fit is used as it is.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, RetentionPolicy, StorageType,
};
use ganesh::messaging::streams::bucket_stream;

use super::{consumer_config, inventory, stream_config};
use crate::support::Stack;
use crate::support::ganesh::run;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn missing_streams_and_consumer_are_made_with_the_documented_settings() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;

    let events = stream_config(&jetstream, "EVENTS").await;
    assert_eq!(events.subjects, ["events.>"]);
    assert_eq!(events.retention, RetentionPolicy::Limits);
    assert_eq!(events.discard, DiscardPolicy::Old);
    assert_eq!(events.storage, StorageType::File);
    assert_eq!(events.max_age, 7 * DAY);
    assert_eq!(events.max_bytes, 10 << 30);
    assert!(!events.no_ack);

    let letters = stream_config(&jetstream, "EVENTS_DLQ").await;
    assert_eq!(letters.subjects, ["dlq.>"]);
    assert_eq!(letters.retention, RetentionPolicy::Limits);
    assert_eq!(letters.discard, DiscardPolicy::New);
    assert_eq!(letters.storage, StorageType::File);
    assert_eq!(letters.duplicate_window, DAY);
    assert_eq!(letters.max_age, Duration::ZERO);

    let bucket = stream_config(&jetstream, "OBJ_EVENTS_DLQ").await;
    assert_eq!(bucket.subjects, ["$O.EVENTS_DLQ.C.>", "$O.EVENTS_DLQ.M.>"]);
    assert_eq!(bucket.discard, DiscardPolicy::New);
    assert_eq!(bucket.storage, StorageType::File);
    assert_eq!(bucket.num_replicas, letters.num_replicas);
    assert_eq!(bucket.max_age, Duration::ZERO);
    assert_eq!(bucket.max_bytes, -1, "nothing is reserved");

    let consumer = consumer_config(&jetstream, "EVENTS", "ganesh").await;
    assert_eq!(consumer.durable_name.as_deref(), Some("ganesh"));
    assert_eq!(consumer.deliver_subject, None);
    assert_eq!(consumer.deliver_policy, DeliverPolicy::All);
    assert_eq!(consumer.ack_policy, AckPolicy::Explicit);
    assert_eq!(consumer.ack_wait, Duration::from_secs(30));
    assert_eq!(consumer.max_deliver, -1);
    assert_eq!(consumer.max_ack_pending, 16 * 16_384);
}

#[tokio::test]
async fn what_is_made_follows_the_configuration() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_STREAM", "ORDERS"),
        ("GANESH_SUBJECTS", "orders.>,returns"),
        ("GANESH_STREAM_MAX_AGE", "90s"),
        ("GANESH_STREAM_MAX_BYTES", "1MiB"),
        ("GANESH_DLQ_STREAM", "LOST"),
        ("GANESH_CONSUMER", "lander"),
        ("GANESH_ACK_WAIT", "10s"),
        ("GANESH_MAX_IN_FLIGHT", "5000"),
    ];
    assert!(stack.serve(&settings).await.terminate().await.success());
    let jetstream = stack.jetstream().await;
    let orders = stream_config(&jetstream, "ORDERS").await;
    assert_eq!(orders.subjects, ["orders.>", "returns"]);
    assert_eq!(orders.max_age, Duration::from_secs(90));
    assert_eq!(orders.max_bytes, 1 << 20);
    assert_eq!(stream_config(&jetstream, "LOST").await.subjects, ["dlq.>"]);
    let bucket = stream_config(&jetstream, "OBJ_LOST").await;
    assert_eq!(bucket.subjects, ["$O.LOST.C.>", "$O.LOST.M.>"]);
    let consumer = consumer_config(&jetstream, "ORDERS", "lander").await;
    assert_eq!(consumer.ack_wait, Duration::from_secs(10));
    assert_eq!(consumer.max_ack_pending, 16 * 5_000);
}

#[tokio::test]
async fn fit_streams_and_consumer_with_other_settings_are_used_untouched() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let events = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["elsewhere.*".to_owned()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::Memory,
        max_age: DAY,
        max_messages: 12_345,
        ..Config::default()
    };
    let letters = Config {
        name: "EVENTS_DLQ".to_owned(),
        subjects: vec!["dlq.>".to_owned(), "more.letters".to_owned()],
        discard: DiscardPolicy::New,
        duplicate_window: 2 * DAY,
        max_bytes: 1 << 20,
        ..Config::default()
    };
    let consumer = pull::Config {
        durable_name: Some("ganesh".to_owned()),
        description: Some("made by an operator".to_owned()),
        ack_wait: Duration::from_mins(2),
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    jetstream.create_stream(events).await.unwrap();
    let bucket = Config {
        max_bytes: 1 << 20,
        compression: Some(Compression::S2),
        ..bucket_stream(&letters)
    };
    jetstream.create_stream(letters).await.unwrap();
    jetstream.create_stream(bucket).await.unwrap();
    jetstream
        .create_consumer_on_stream(consumer, "EVENTS")
        .await
        .unwrap();
    let before = inventory(&jetstream).await;
    assert_eq!(before.len(), 4);
    assert!(stack.serve(&[]).await.terminate().await.success());
    assert_eq!(inventory(&jetstream).await, before);
}

#[tokio::test]
async fn migrate_can_run_again_and_serve_needs_no_migrating_then() {
    let stack = Stack::start().await;
    let tables = async || {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
        )
        .fetch_all(&stack.pool)
        .await
        .unwrap();
        tables
    };
    assert_eq!(tables().await.len(), 0);
    let first = run(Some(&stack), &["migrate"], &[]);
    assert!(first.status.success(), "{first:?}");
    assert!(String::from_utf8_lossy(&first.stdout).contains("5 migrations applied"));
    let made = tables().await;
    assert!(made.contains(&"events".to_owned()));
    let again = run(Some(&stack), &["migrate"], &[]);
    assert!(again.status.success(), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("0 migrations applied"));
    assert_eq!(tables().await, made);
    let settings = [("GANESH_MIGRATE_ON_START", "false")];
    assert!(stack.serve(&settings).await.terminate().await.success());
}
