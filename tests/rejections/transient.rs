//! Rows that Postgres refuses with a code that passes by itself elsewhere: a statement that takes too
//! long, a conflict, no partition. A batch that is too slow passes in pieces. A code that comes back for
//! the same rows while others are stored is the rows' fault.

use std::time::{Duration, Instant};

use ganesh::event::{Event, Timestamp};
use sqlx::Executor;

use crate::support::events::{event, events, publish};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::{assert_each_is_one_row_or_one_letter, letters};
use crate::support::{Ganesh, Stack, eventually};

const REDELIVERED: &str = "ganesh_messages_redelivered_total";
const ONE_WRITER: [(&str, &str); 2] =
    [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "1")];
/// 2100: no partition but the default one has it.
const FAR: Timestamp = Timestamp::from_micros(4_102_444_800_000_000);

/// From now on each row runs this first.
async fn before_each_row(stack: &Stack, statements: &str) {
    let trigger = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statements} \
         RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    stack.pool.execute(trigger.as_str()).await.unwrap();
}

/// From now on rows with such an id are refused with this code.
async fn refuse(stack: &Stack, ids: &str, sqlstate: &str) {
    let raise = format!(
        "IF NEW.id LIKE '{ids}' THEN RAISE 'not today' USING ERRCODE = '{sqlstate}'; END IF;"
    );
    before_each_row(stack, &raise).await;
}

/// One good event after the other, until nothing waits.
async fn publish_good_until_drained(stack: &Stack) -> Vec<Event> {
    let jetstream = stack.jetstream().await;
    let mut good = Vec::new();
    while stack.backlog().await > 0 {
        assert!(good.len() < 400, "{} wait", stack.backlog().await);
        let next = event(&format!("good-{}", good.len()));
        publish(&jetstream, std::slice::from_ref(&next)).await;
        good.push(next);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    good
}

async fn assert_letters(stack: &Stack, count: usize, detail: &str) {
    let found = letters(stack).await;
    assert_eq!(found.len(), count);
    for letter in found {
        assert_eq!(letter.reason, "rejected_row");
        assert_eq!(letter.detail, detail);
    }
}

/// As rows of 20 ms each: single messages pass, the batch of a backlog never does. The trigger stands for
/// the clock: it cancels a statement of more than a hundred rows.
#[tokio::test]
async fn a_batch_that_takes_longer_than_a_statement_may_is_stored_in_pieces() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&ONE_WRITER).await;
    let count = "PERFORM set_config('test.rows', \
         (coalesce(nullif(current_setting('test.rows', true), ''), '0')::int + 1)::text, true); \
         IF current_setting('test.rows')::int > 100 THEN \
         RAISE 'canceling statement due to statement timeout' USING ERRCODE = '57014'; END IF;";
    before_each_row(&stack, count).await;
    let mut all = events("e", 900);
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn rows_that_always_conflict_cost_no_other_row_and_become_letters() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&ONE_WRITER).await;
    refuse(&stack, "guilty%", "40001").await;
    let mut all = events("guilty", 5);
    all.extend(events("with them", 300));
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    // Nobody else is needed for that, and nobody waits for the guilty ones.
    stack.wait_for_rows(301).await;
    eventually("the stored ones are settled", || async {
        stack.backlog().await <= 5
    })
    .await;
    all.extend(publish_good_until_drained(&stack).await);
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_letters(&stack, 5, "not today (SQLSTATE 40001)").await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

/// Two that no writer gets rid of must not keep both writers.
#[tokio::test]
async fn rows_that_always_time_out_alone_keep_no_writer_and_become_letters() {
    let (stack, _ganesh, mut all) = with_four_guilty_rows("57014").await;
    all.extend(publish_good_until_drained(&stack).await);
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_letters(&stack, 4, "not today (SQLSTATE 57014)").await;
}

/// Two writers, and four rows among others that Postgres refuses.
async fn with_four_guilty_rows(sqlstate: &str) -> (Stack, Ganesh, Vec<Event>) {
    let stack = Stack::start().await;
    let settings = [("GANESH_WRITERS", "2"), ("GANESH_BATCH_MAX_EVENTS", "1")];
    let ganesh = stack.serve(&settings).await;
    refuse(&stack, "guilty%", sqlstate).await;
    let mut all = events("guilty", 4);
    all.extend(events("behind them", 20));
    publish(&stack.jetstream().await, &all).await;
    stack.wait_for_rows(20).await;
    (stack, ganesh, all)
}

async fn publish_one_more(stack: &Stack, all: &mut Vec<Event>) {
    let next = event(&format!("good-{}", all.len()));
    publish(&stack.jetstream().await, std::slice::from_ref(&next)).await;
    all.push(next);
}

/// As for a full tablespace of one partition.
#[tokio::test]
async fn rows_for_which_there_is_no_room_wait_for_it_while_others_are_stored() {
    let (stack, ganesh, mut all) = with_four_guilty_rows("53100").await;
    let resources = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"resources\"}";
    // Twelve attempts at each, and others stored between them.
    while ganesh.metric(resources).await < 48.0 {
        publish_one_more(&stack, &mut all).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(stack.dead_letters().await, 0);
    let room = "DROP TRIGGER refuse ON events";
    stack.pool.execute(room).await.unwrap();
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
#[ignore = "takes more than an hour"]
async fn rows_for_which_there_never_is_room_become_letters_after_an_hour() {
    let (stack, _ganesh, mut all) = with_four_guilty_rows("53100").await;
    let began = Instant::now();
    while stack.backlog().await > 0 {
        assert!(began.elapsed() < Duration::from_secs(7_200));
        publish_one_more(&stack, &mut all).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    println!("letters after {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(3_600));
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_letters(&stack, 4, "not today (SQLSTATE 53100)").await;
}

async fn alter(stack: &Stack, what: &str) {
    let alter = format!("ALTER TABLE events {what}");
    stack.pool.execute(alter.as_str()).await.unwrap();
}

/// Waits until it has been refused so often for a conflict.
async fn wait_for_conflicts(ganesh: &Ganesh, at_least: f64) {
    let conflicts = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"conflict\"}";
    ganesh.wait_for_metric(conflicts, at_least).await;
}

#[tokio::test]
async fn without_a_default_partition_rows_of_other_times_are_stored_and_the_rest_is_held() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&ONE_WRITER).await;
    alter(&stack, "DETACH PARTITION events_default").await;
    let mut all = events("far", 30);
    for event in &mut all {
        event.time = FAR;
    }
    all.extend(events("near", 300));
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    stack.wait_for_rows(301).await;
    wait_for_conflicts(&ganesh, 12.0).await;
    // Nothing else is stored any more: the server may be to blame.
    assert_eq!(stack.dead_letters().await, 0);
    alter(&stack, "ATTACH PARTITION events_default DEFAULT").await;
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn where_nothing_is_stored_no_row_is_blamed_however_often_it_fails() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&ONE_WRITER).await;
    refuse(&stack, "%", "40001").await;
    let all = events("e", 40);
    publish(&stack.jetstream().await, &all).await;
    // The last waits are 5 s.
    wait_for_conflicts(&ganesh, 12.0).await;
    assert_eq!(stack.backlog().await, 40);
    stack
        .pool
        .execute("DROP TRIGGER refuse ON events")
        .await
        .unwrap();
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
}
