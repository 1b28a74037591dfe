//! What it costs to find the guilty rows of a batch.

use bytes::Bytes;
use ganesh::event::{Data, Event};

use crate::support::events::{event, events, publish};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::{Ganesh, Stack};

const COPIES: &str = "ganesh_batch_writes_total{method=\"copy\"}";
const INSERTS: &str = "ganesh_batch_writes_total{method=\"insert\"}";
const ROWS: usize = 2_000;
/// The logarithm of that, rounded up.
const HALVINGS: u32 = 11;

async fn writes(ganesh: &Ganesh) -> f64 {
    ganesh.metric(COPIES).await + ganesh.metric(INSERTS).await
}

/// Of bad JSON Postgres tells which rows hold it; of what else it refuses it does not.
const REFUSED_TYPE: &str = "com.example.refused";

async fn refuse_type(stack: &Stack) {
    let refuse =
        format!("ALTER TABLE events ADD CONSTRAINT refused CHECK (type <> '{REFUSED_TYPE}')");
    sqlx::query(&refuse).execute(&stack.pool).await.unwrap();
}

/// So many rejected rows, spread over a batch.
fn batch(prefix: &str, bad: usize) -> Vec<Event> {
    let mut batch = events(prefix, ROWS);
    for i in 0..bad {
        let refused = &mut batch[(2 * i + 1) * ROWS / (2 * bad)];
        REFUSED_TYPE.clone_into(&mut refused.event_type);
    }
    batch
}

#[tokio::test]
async fn so_many_bad_rows_cost_their_number_times_the_logarithm_of_the_batch() {
    let stack = Stack::start().await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "2000"), ("GANESH_WRITERS", "1")];
    let ganesh = stack.serve(&settings).await;
    refuse_type(&stack).await;
    let jetstream = stack.jetstream().await;
    let twice = event("twice");
    let mut all = vec![twice.clone()];
    publish(&jetstream, &all).await;
    stack.wait_until_drained().await;
    for first_by_insert in [false, true] {
        for bad in [1, 10, 100] {
            if first_by_insert {
                // A duplicate: the next batches go by INSERT, whose errors name no row.
                publish(&jetstream, std::slice::from_ref(&twice)).await;
                stack.wait_until_drained().await;
            }
            let batch = batch(&format!("{first_by_insert}-{bad}"), bad);
            let before = writes(&ganesh).await;
            all.push(publish_in_one_batch(&stack, &ganesh, &batch).await);
            stack.wait_until_drained().await;
            // One is of the event that kept the writer busy.
            let statements = writes(&ganesh).await - before - 1.0;
            let bad = u32::try_from(bad).unwrap();
            let limit = f64::from(2 * bad * (HALVINGS + 1) + 1);
            assert!(
                statements <= limit,
                "{bad} bad rows: {statements} statements"
            );
            assert!(statements > f64::from(bad));
            all.extend(batch);
        }
    }
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
}

#[tokio::test]
async fn a_row_whose_json_escapes_what_no_text_can_hold_costs_its_batch_no_second_write() {
    let stack = Stack::start().await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "2000"), ("GANESH_WRITERS", "1")];
    let ganesh = stack.serve(&settings).await;
    for (name, json) in [
        ("nul", r#"{"nul":"\u0000"}"#),
        ("half", r#"{"half":"\ud800"}"#),
    ] {
        let mut batch = events(name, ROWS);
        batch[ROWS / 2].data = Data::Json(Bytes::from_static(json.as_bytes()));
        let before = writes(&ganesh).await;
        publish_in_one_batch(&stack, &ganesh, &batch).await;
        stack.wait_until_drained().await;
        let written = writes(&ganesh).await - before;
        assert!((written - 2.0).abs() < f64::EPSILON, "{written} writes");
    }
    assert_eq!(stack.rows().await, 2 * i64::try_from(ROWS).unwrap());
    assert_eq!(stack.dead_letters().await, 2);
}
