//! Held messages stay ours: they are kept alive, whoever takes them, and what was delivered too
//! often is handled alone, then given up.

use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures::StreamExt;
use ganesh::messaging::InFlight;
use ganesh::messaging::in_flight::{Admission, Capacity};
use ganesh::telemetry::Metrics;
use sqlx::{Executor, Postgres, Transaction};

use crate::support::events::{event, events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};
use crate::support::proxy::{Manner, Proxy, Way};
use crate::support::{Ganesh, Stack, eventually};

const HELD: &str = "ganesh_in_flight_messages";
const OLDEST_HELD: &str = "ganesh_oldest_held_seconds";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";

/// All are stored when the lock goes, and none was delivered again until then.
async fn assert_stored_once(
    stack: &Stack,
    ganesh: &Ganesh,
    lock: Transaction<'static, Postgres>,
    count: i64,
) {
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, count);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

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
    assert_stored_once(&stack, &ganesh, lock, 300).await;
}

/// Progress is acknowledged some thousand messages at a time, as often as that takes.
#[tokio::test]
async fn tens_of_thousands_that_are_held_at_once_are_not_delivered_again() {
    let stack = Stack::start().await;
    // Above what is published: a pull needs room for a thousand.
    let settings = [("GANESH_ACK_WAIT", "2s"), ("GANESH_MAX_IN_FLIGHT", "22000")];
    let ganesh = stack.serve(&settings).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&stack.jetstream().await, &events("e", 20_000)).await;
    ganesh.wait_for_metric(HELD, 20_000.0).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_stored_once(&stack, &ganesh, lock, 20_000).await;
}

#[tokio::test]
async fn progress_that_was_lost_with_the_connection_is_sent_again_at_once() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let settings = [("GANESH_ACK_WAIT", "4s"), ("NATS_URL", url.as_str())];
    let ganesh = stack.serve(&settings).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&stack.jetstream().await, &events("e", 100)).await;
    ganesh.wait_for_metric(HELD, 100.0).await;
    // What is sent after two seconds never arrives, and before four the connection is new.
    proxy.behave_one_way(Way::ToServer, Manner::Swallow);
    ganesh
        .wait_for_metric("ganesh_progress_acks_total", 100.0)
        .await;
    proxy.behave_one_way(Way::ToServer, Manner::Pass);
    proxy.cut();
    tokio::time::sleep(Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

/// P12, and nothing else says it: Postgres answers, and nobody refuses anything.
#[tokio::test]
async fn messages_that_are_held_while_nothing_is_settled_make_it_not_ready() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&stack.jetstream().await, &events("e", 10)).await;
    ganesh.wait_for_metric(OLDEST_HELD, 5.0).await;
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    tokio::time::sleep(Duration::from_secs(50)).await;
    eventually("it is not ready", || async {
        ganesh.admin("/readyz").await.0 == 503
    })
    .await;
    assert!(ganesh.metric(OLDEST_HELD).await > 60.0);
    let (_, body) = ganesh.admin("/readyz").await;
    let reasons =
        "[\"messages are held for more than 60 s and none is settled: the log says why\"]";
    assert!(body.contains(reasons), "{body}");
    let postgres = ganesh
        .metric("ganesh_dependency_up{dependency=\"postgres\"}")
        .await;
    assert!((postgres - 1.0).abs() < f64::EPSILON);
    assert_stored_once(&stack, &ganesh, lock, 10).await;
    ganesh.wait_until_ready().await;
    eventually("nothing is held", || async {
        ganesh.metric(OLDEST_HELD).await < f64::EPSILON
    })
    .await;
}

/// Has the oldest message delivered so often to somebody who gives it back.
async fn wear_out(stack: &Stack, deliveries: usize) {
    let jetstream = stack.jetstream().await;
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream("ganesh", "EVENTS")
        .await
        .unwrap();
    for _ in 0..deliveries {
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        let message = messages.next().await.unwrap().unwrap();
        message.double_ack_with(AckKind::Nak(None)).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_was_delivered_too_often_is_stored_alone() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    publish(&stack.jetstream().await, &events("e", 20)).await;
    wear_out(&stack, 2).await;
    let ganesh = stack.serve(&[("GANESH_MAX_DELIVERIES", "2")]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 20);
    assert_eq!(stack.dead_letters().await, 0);
    // Nineteen others came with it.
    let batches = ganesh.metric("ganesh_batch_events_count").await;
    assert!((2.0..20.0).contains(&batches), "{batches} batches");
    let of_one = ganesh
        .metric("ganesh_batch_events_bucket{le=\"1.0\"}")
        .await;
    assert!(of_one >= 1.0, "{of_one} of one");
}

/// The third delivery is more than twice as often.
const ONE_DELIVERY: [(&str, &str); 2] = [("GANESH_MAX_DELIVERIES", "1"), ("GANESH_ACK_WAIT", "2s")];

async fn trials(stack: &Stack) -> Vec<i32> {
    sqlx::query_scalar("SELECT begun FROM trials")
        .fetch_all(&stack.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_message_that_was_delivered_twice_as_often_is_stored_all_the_same() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    publish(&stack.jetstream().await, &events("e", 5)).await;
    wear_out(&stack, 9).await;
    let _ganesh = stack.serve(&ONE_DELIVERY).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 5);
    assert_eq!(stack.dead_letters().await, 0);
    assert!(trials(&stack).await.is_empty());
}

/// Each start uses up one delivery of every message that it held.
#[tokio::test]
async fn a_service_that_cannot_write_and_is_started_again_and_again_makes_no_letters() {
    let stack = Stack::start().await;
    assert!(stack.serve(&ONE_DELIVERY).await.terminate().await.success());
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE 'permission denied' USING ERRCODE = '42501'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.pool.execute(refuse).await.unwrap();
    let all = events("e", 20);
    publish(&stack.jetstream().await, &all).await;
    for _ in 0..5 {
        let mut ganesh = Ganesh::serve(&stack, &ONE_DELIVERY);
        let status = ganesh.wait().await;
        assert_eq!(status.code(), Some(1), "{}", ganesh.log());
    }
    let repair = "DROP TRIGGER refuse ON events";
    stack.pool.execute(repair).await.unwrap();
    let _ganesh = stack.serve(&ONE_DELIVERY).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 20);
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
async fn a_message_whose_write_ends_three_processes_is_a_dead_letter() {
    let stack = Stack::start().await;
    assert!(stack.serve(&ONE_DELIVERY).await.terminate().await.success());
    let jetstream = stack.jetstream().await;
    let all = events("e", 5);
    publish(&jetstream, &all).await;
    wear_out(&stack, 2).await;
    let key = hold_key(&stack, &all[0]).await;
    for begun in 1..=3 {
        let ganesh = stack.serve(&ONE_DELIVERY).await;
        eventually("its write has begun", || async {
            trials(&stack).await == [begun]
        })
        .await;
        wait_until_so_many_wait(&stack, 1).await;
        ganesh.kill();
        wait_until_so_many_wait(&stack, 0).await;
    }
    let ganesh = stack.serve(&ONE_DELIVERY).await;
    stack.wait_until_drained().await;
    key.rollback().await.unwrap();
    assert_eq!(stack.rows().await, 4);
    assert_eq!(stack.dead_letters().await, 1);
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = letters.get_raw_message(1).await.unwrap();
    let header = |name: &str| letter.headers.get(name).map(ToString::to_string).unwrap();
    assert_eq!(header("ganesh-dlq-reason"), "max_deliveries");
    assert_eq!(header("ganesh-dlq-deliveries"), "6");
    let counted = "ganesh_dead_letters_total{reason=\"max_deliveries\"}";
    ganesh.wait_for_metric(counted, 1.0).await;
}

/// The note of a write that a shutdown broke off says nothing against its message.
#[tokio::test]
async fn shutdowns_in_the_middle_of_its_write_make_no_letter_of_a_message() {
    let settings = [&ONE_DELIVERY[..], &[("GANESH_SHUTDOWN_GRACE", "2s")]].concat();
    let stack = Stack::start().await;
    assert!(stack.serve(&settings).await.terminate().await.success());
    let all = events("e", 1);
    publish(&stack.jetstream().await, &all).await;
    wear_out(&stack, 2).await;
    let key = hold_key(&stack, &all[0]).await;
    for _ in 0..4 {
        let ganesh = stack.serve(&settings).await;
        eventually("its write has begun", || async {
            trials(&stack).await == [1]
        })
        .await;
        wait_until_so_many_wait(&stack, 1).await;
        assert!(ganesh.terminate().await.success());
        assert_eq!(trials(&stack).await, [0]);
        wait_until_so_many_wait(&stack, 0).await;
    }
    key.rollback().await.unwrap();
    let _ganesh = stack.serve(&settings).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1);
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
async fn a_message_that_was_delivered_twice_as_often_and_has_a_row_is_a_duplicate() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let stored = event("stored");
    let ganesh = stack.serve(&[]).await;
    publish(&jetstream, std::slice::from_ref(&stored)).await;
    stack.wait_until_drained().await;
    ganesh.terminate().await;
    publish(&jetstream, &[stored]).await;
    wear_out(&stack, 2).await;
    let ganesh = stack.serve(&[("GANESH_MAX_DELIVERIES", "1")]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 1);
    assert_eq!(stack.dead_letters().await, 0);
    let duplicates = "ganesh_messages_settled_total{outcome=\"duplicate\"}";
    ganesh.wait_for_metric(duplicates, 1.0).await;
}

/// Or the look for messages that nobody can read would pass over one that the new consumer delivered.
#[test]
fn what_a_consumer_delivered_that_was_deleted_is_not_what_its_successor_did() {
    let limits = Capacity {
        messages: 10,
        bytes: 10,
    };
    let metrics = Metrics::default();
    let (in_flight, _releases) = InFlight::new(limits, Duration::from_secs(30), metrics);
    let arrive = |sequence: u64| {
        let reply = format!("$JS.ACK.EVENTS.ganesh.1.{sequence}.1.1764000000000000000.0");
        let ack_subject = Subject::from(reply);
        in_flight.admit(
            std::iter::once(Admission {
                ack_subject,
                bytes: 1,
            }),
            in_flight.consumer_generation(),
        )
    };
    let _old = arrive(17);
    in_flight.disown();
    let _new = arrive(18);
    assert_eq!(in_flight.sequences().into_iter().collect::<Vec<_>>(), [18]);
    assert_eq!(in_flight.count(), 2, "and yet both are held");
}
