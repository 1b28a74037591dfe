//! The consumer, deleted or edited underneath us.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::{Config, RetentionPolicy};

use super::{HELD, RECEIVED};
use crate::support::events::{events, publish};
use crate::support::proxy::{Manner, Proxy};
use crate::support::{Stack, eventually};

#[tokio::test]
async fn a_consumer_that_is_deleted_is_made_again_from_the_last_floor() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("before", 1_000)).await;
    stack.wait_until_drained().await;
    // The floor is asked for every second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, &events("held", 100)).await;
    ganesh.wait_for_metric(HELD, 100.0).await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.delete_consumer("ganesh").await.unwrap();
    eventually("the consumer is there again", || async {
        stream.consumer_info("ganesh").await.is_ok()
    })
    .await;
    lock.rollback().await.unwrap();
    publish(&jetstream, &events("behind", 100)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1_200);
    let info = stream.consumer_info("ganesh").await.unwrap();
    let start = DeliverPolicy::ByStartSequence {
        start_sequence: 1_001,
    };
    assert_eq!(info.config.deliver_policy, start);
    assert_eq!(info.config.max_deliver, -1);
    // What was held, twice.
    let received = ganesh.metric(RECEIVED).await;
    assert!((received - 1_300.0).abs() < f64::EPSILON, "{received}");
    assert!(ganesh.log().contains("the consumer was deleted"));
}

#[tokio::test]
async fn a_consumer_of_a_work_queue_that_is_deleted_is_made_again_too() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let work_queue = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        retention: RetentionPolicy::WorkQueue,
        ..Config::default()
    };
    jetstream.create_stream(work_queue).await.unwrap();
    let mut ganesh = stack.serve(&[]).await;
    for round in 1..=2 {
        publish(&jetstream, &events(&format!("e-{round}"), 100)).await;
        stack.wait_for_rows(100 * round).await;
        stack.wait_until_drained().await;
        // Seen by the task that watches the lag: the floor is not 0 any more.
        tokio::time::sleep(Duration::from_secs(2)).await;
        jetstream
            .delete_consumer_from_stream("ganesh", "EVENTS")
            .await
            .unwrap();
        eventually("it is made again", || async {
            let stream = jetstream.get_stream("EVENTS").await.unwrap();
            stream.consumer_info("ganesh").await.is_ok()
        })
        .await;
    }
    assert_eq!(ganesh.ended(), None);
}

#[tokio::test]
async fn a_consumer_that_is_gone_when_the_connection_stands_again_is_made_again_too() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let ganesh = stack.serve(&[("NATS_URL", &url)]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("before", 50)).await;
    stack.wait_until_drained().await;
    // A cut by a server that runs on looks like a message that cannot be read, which is looked for.
    proxy.behave(Manner::Hold);
    let deleted = jetstream.delete_consumer_from_stream("ganesh", "EVENTS");
    assert!(deleted.await.unwrap().success);
    proxy.cut();
    proxy.behave(Manner::Pass);
    publish(&jetstream, &events("behind", 50)).await;
    stack.wait_for_rows(100).await;
    ganesh.wait_until_ready().await;
}

#[tokio::test]
async fn a_consumer_that_is_edited_so_that_it_breaks_a_promise_ends_the_service_which_says_why() {
    let stack = Stack::start().await;
    let mut ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.consumer_info("ganesh").await.unwrap().config;
    config.description = Some("edited, and as fit as before".to_owned());
    stream.update_consumer(config.clone()).await.unwrap();
    publish(&jetstream, &events("before", 10)).await;
    stack.wait_for_rows(10).await;
    // It is asked for every second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(ganesh.ended(), None);
    // What is held is still stored: given back, it would never be delivered again.
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, &events("held", 100)).await;
    ganesh.wait_for_metric(HELD, 100.0).await;
    config.max_deliver = 1;
    stream.update_consumer(config).await.unwrap();
    eventually("it is noticed", || async {
        ganesh.log().contains("shutting down")
    })
    .await;
    lock.rollback().await.unwrap();
    assert_eq!(ganesh.wait().await.code(), Some(1));
    assert!(ganesh.log().contains("max_deliver is 1"));
    assert!(ganesh.log().contains("set max_deliver to -1"));
    assert_eq!(stack.rows().await, 110);
    assert_eq!(stack.backlog().await, 0);
}
