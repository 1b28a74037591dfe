//! Held messages stay ours: they are kept alive, whoever takes them.

use std::time::Duration;

use crate::support::Stack;
use crate::support::events::{events, publish};
use crate::support::proxy::Proxy;

const HELD: &str = "ganesh_in_flight_messages";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";

#[tokio::test]
async fn messages_that_trickle_in_while_nothing_is_stored_are_not_delivered_again() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    let jetstream = stack.jetstream().await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    // One by one they fill the channels long before the limit.
    for event in events("e", 300) {
        publish(&jetstream, &[event]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ganesh.wait_for_metric(HELD, 300.0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 300);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn progress_that_was_lost_with_the_connection_is_sent_again_at_once() {
    let stack = Stack::start().await;
    let proxy = Proxy::before(stack.nats.port()).await;
    let url = proxy.nats_url();
    let settings = [("GANESH_ACK_WAIT", "4s"), ("NATS_URL", url.as_str())];
    let ganesh = stack.serve(&settings).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&stack.jetstream().await, &events("e", 100)).await;
    ganesh.wait_for_metric(HELD, 100.0).await;
    // What is sent after two seconds never arrives, and before four the connection is new.
    proxy.swallow_requests(true);
    ganesh
        .wait_for_metric("ganesh_progress_acks_total", 100.0)
        .await;
    proxy.swallow_requests(false);
    proxy.cut();
    tokio::time::sleep(Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}
