//! Rows that Postgres refuses for a reason that says nothing of who is to blame: P0001 of a trigger,
//! say. A row is, when others are taken meanwhile; until then the server may be.

use std::time::Duration;

use ganesh::event::Event;
use sqlx::Executor;

use crate::support::events::{events, publish};
use crate::support::ledger::{assert_each_is_one_row_or_one_letter, letters};
use crate::support::{Ganesh, Stack};

const REDELIVERED: &str = "ganesh_messages_redelivered_total";
/// More batches than there are writers.
const GUILTY: usize = 5;
/// Each event is a batch of its own, and comes back soon if nobody keeps it.
const SETTINGS: [(&str, &str); 3] = [
    ("GANESH_BATCH_LINGER_MS", "1"),
    ("GANESH_WRITERS", "2"),
    ("GANESH_ACK_WAIT", "2s"),
];

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
