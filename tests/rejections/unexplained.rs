//! Rows that Postgres refuses for a reason that says nothing of who is to blame: P0001 of a trigger,
//! say. A row is, when others are taken meanwhile; until then the server may be.

use std::time::{Duration, Instant};

use ganesh::event::Event;
use sqlx::Executor;

use crate::support::events::{events, publish};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::{assert_each_is_one_row_or_one_letter, letters};
use crate::support::{Ganesh, Stack, eventually};

const REDELIVERED: &str = "ganesh_messages_redelivered_total";
/// More batches than there are writers.
const GUILTY: usize = 5;
/// Each event is a batch of its own, and comes back soon if nobody keeps it.
const SETTINGS: [(&str, &str); 2] = [("GANESH_WRITERS", "2"), ("GANESH_ACK_WAIT", "2s")];

/// From now on rows with such an id are refused.
async fn refuse(stack: &Stack, ids: &str) {
    let refuse = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.id LIKE '{ids}' THEN RAISE EXCEPTION 'not today'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    stack.pool.execute(refuse.as_str()).await.unwrap();
}

async fn publish_one_by_one(stack: &Stack, ganesh: &Ganesh, events: &[Event]) {
    let jetstream = stack.jetstream().await;
    for (count, event) in (1_i32..).zip(events) {
        publish(&jetstream, std::slice::from_ref(event)).await;
        let held = f64::from(count);
        ganesh
            .wait_for_metric("ganesh_in_flight_messages", held)
            .await;
    }
}

#[tokio::test]
async fn alone_they_are_kept_until_others_are_stored_and_then_become_letters() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&SETTINGS).await;
    refuse(&stack, "guilty%").await;
    let guilty = events("guilty", GUILTY);
    publish_one_by_one(&stack, &ganesh, &guilty).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stack.backlog().await, GUILTY as u64);
    assert_eq!(stack.dead_letters().await, 0);

    let good = events("good", 10);
    publish(&stack.jetstream().await, &good).await;
    stack.wait_for_rows(10).await;
    stack.wait_until_drained().await;
    let found = letters(&stack).await;
    assert_eq!(found.len(), GUILTY);
    for letter in found {
        assert_eq!(letter.reason, "rejected_row");
        assert_eq!(letter.detail, "not today (SQLSTATE P0001)");
    }
    assert_each_is_one_row_or_one_letter(&stack, &[guilty, good].concat()).await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn a_server_that_refuses_everything_for_a_while_costs_no_row() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&SETTINGS).await;
    refuse(&stack, "%").await;
    let all = events("e", GUILTY);
    publish_one_by_one(&stack, &ganesh, &all).await;
    let more = events("more", 100);
    publish(&stack.jetstream().await, &more).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stack.backlog().await, 105);
    let end = "DROP TRIGGER refuse ON events";
    stack.pool.execute(end).await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 105);
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn duplicates_that_are_taken_meanwhile_prove_nothing() {
    let stack = Stack::start().await;
    let alone = ("GANESH_BATCH_MAX_EVENTS", "1");
    let ganesh = stack.serve(&[SETTINGS.as_slice(), &[alone]].concat()).await;
    let jetstream = stack.jetstream().await;
    let stored = events("stored", 20);
    publish(&jetstream, &stored).await;
    stack.wait_until_drained().await;
    // Only what is a new row gets so far that this refuses it.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'not today'; END $$; \
         CREATE TRIGGER refuse AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.pool.execute(refuse).await.unwrap();
    let all = events("e", GUILTY);
    publish_one_by_one(&stack, &ganesh, &all).await;
    for duplicate in &stored {
        publish(&jetstream, std::slice::from_ref(duplicate)).await;
    }
    ganesh
        .wait_for_metric("ganesh_messages_settled_total{outcome=\"duplicate\"}", 20.0)
        .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(stack.dead_letters().await, 0);
    let end = "DROP TRIGGER refuse ON events";
    stack.pool.execute(end).await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 20 + i64::try_from(GUILTY).unwrap());
    assert_eq!(stack.dead_letters().await, 0);
}

/// So many in one batch that a pause begins.
const TOO_MANY: usize = 600;
const LARGE_BATCHES: [(&str, &str); 2] =
    [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "1")];

async fn is_ready(ganesh: &Ganesh) -> bool {
    ganesh.admin("/readyz").await.0 == 200
}

/// One good event after the other, until there is no backlog.
async fn publish_good_until_drained(stack: &Stack) -> i64 {
    let jetstream = stack.jetstream().await;
    let mut count = 0;
    loop {
        publish(&jetstream, &events(&format!("good-{count}"), 1)).await;
        count += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
        if stack.backlog().await == 0 && stack.dead_letters().await > 0 {
            return count;
        }
        assert!(count < 200, "{} wait", stack.backlog().await);
    }
}

/// Too many are refused, of which others that are stored say that it is their own fault; how many others.
async fn paused() -> (Stack, Ganesh, i64) {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&LARGE_BATCHES).await;
    refuse(&stack, "guilty%").await;
    let jetstream = stack.jetstream().await;
    publish_in_one_batch(&stack, &ganesh, &events("guilty", TOO_MANY)).await;
    eventually("they are refused", || async {
        ganesh.log().contains("not today (SQLSTATE P0001)")
    })
    .await;
    // One that is being stored while they are tried says nothing of them; the next one does. But one
    // that comes when they have made the pause would end it.
    for others in 2..6 {
        publish(&jetstream, &events(&format!("other-{others}"), 1)).await;
        let published = Instant::now();
        // They wait for five seconds at most until they are tried again.
        while published.elapsed() < Duration::from_secs(12) {
            if !is_ready(&ganesh).await {
                return (stack, ganesh, others);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    panic!("it does not pause");
}

#[tokio::test]
async fn after_a_pause_that_they_made_they_become_letters_and_no_second_pause() {
    let (stack, ganesh, others) = paused().await;
    assert_eq!(stack.dead_letters().await, 0);
    let good = publish_good_until_drained(&stack).await;
    assert_eq!(stack.dead_letters().await, TOO_MANY as u64);
    assert_eq!(stack.rows().await, good + others);
    assert!(is_ready(&ganesh).await);
    assert_eq!(
        ganesh
            .log()
            .matches("Postgres rejected half of the last")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_pause_ends_without_another_message_when_they_are_not_refused_any_more() {
    let (stack, ganesh, others) = paused().await;
    // A probe that is refused for a reason that says nothing is a refused one: the next follows after
    // ten seconds, when what is set aside is looked at again, which is every five.
    let attempts = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"response\"}";
    let before = ganesh.metric(attempts).await;
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(!is_ready(&ganesh).await);
    let probes = ganesh.metric(attempts).await - before;
    assert!((1.0..=2.0).contains(&probes), "{probes}");
    let end = "DROP TRIGGER refuse ON events";
    stack.pool.execute(end).await.unwrap();
    stack.wait_until_drained().await;
    eventually("it is ready", || is_ready(&ganesh)).await;
    let all = i64::try_from(TOO_MANY).unwrap() + others;
    assert_eq!(stack.rows().await, all);
    assert_eq!(stack.dead_letters().await, 0);
}
