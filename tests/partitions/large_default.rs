//! A backfill of history: millions of rows in the default partition, through which `ATTACH` looks.

use ganesh::config::PartitionInterval;
use ganesh::event::{Event, Timestamp};
use ganesh::storage::partitions::{Partition, make_ahead, partition_of};
use sqlx::{Executor, Row};

use super::last_word::{begin_to_move, make};
use super::upkeep::{count_in, fill_default, next_week};
use crate::support::events::{event, publish};
use crate::support::{Stack, eventually};

const ROWS: i64 = 200_000;
/// 2020-01-01.
const HISTORY: Timestamp = Timestamp::from_micros(1_577_836_800_000_000);

/// Notes every statement that changes a table.
const NOTE: &str = "CREATE TABLE noted (place serial, statement text); \
    CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
    INSERT INTO noted (statement) VALUES (current_query()); END $$; \
    CREATE EVENT TRIGGER note ON ddl_command_end WHEN TAG IN ('ALTER TABLE') \
    EXECUTE FUNCTION note()";

#[tokio::test]
async fn a_large_default_partition_is_checked_before_it_is_locked() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    fill_default(&stack, HISTORY, ROWS).await;
    stack.pool.execute(NOTE).await.unwrap();
    begin_to_move(&stack).await.unwrap();
    let place = async |words: &str| -> Option<i32> {
        let place = "SELECT min(place) FROM noted WHERE statement LIKE $1";
        let place = sqlx::query_scalar(place).bind(format!("%{words}%"));
        place.fetch_one(&stack.pool).await.unwrap()
    };
    let checked = place("VALIDATE CONSTRAINT").await;
    let attached = place("ATTACH PARTITION").await;
    assert!(
        checked.is_some() && checked < attached,
        "{checked:?} {attached:?}"
    );
    assert_nothing_is_left(&stack).await;
    let theirs = partition_of(next_week(), PartitionInterval::Day).name;
    assert_eq!(count_in(&stack, &theirs).await, 0);
    assert_eq!(count_in(&stack, "events_default").await, ROWS);
}

/// The lock ends with the session at the latest, and Postgres ends a closed session a moment later.
#[tokio::test]
async fn a_round_leaves_the_lock_of_who_moves_to_the_next_at_once() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    fill_default(&stack, HISTORY, ROWS).await;
    let mut next = stack.pool.acquire().await.unwrap();
    while make(&stack.pool).await.is_some() {}
    // In one exchange of messages: as little time as it can be.
    let try_it = "SELECT pg_try_advisory_lock(0x67616e657369)";
    let row = sqlx::raw_sql(try_it).fetch_one(&mut *next).await.unwrap();
    let is_free: bool = row.get(0);
    assert!(is_free, "the next partition would be left to another");
    next.detach();
}

async fn assert_nothing_is_left(stack: &Stack) {
    let constraints = "pg_constraint WHERE conrelid = 'events_default'::regclass AND contype = 'c'";
    assert_eq!(count_in(stack, constraints).await, 0);
}

#[tokio::test]
async fn rows_that_wait_move_out_of_a_large_default_partition_too() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    fill_default(&stack, HISTORY, ROWS).await;
    fill_default(&stack, next_week(), 1_000).await;
    let theirs = partition_of(next_week(), PartitionInterval::Day).name;
    // Beside other tests a statement can run into its limit: the next round goes on.
    eventually("they have a partition", || async {
        begin_to_move(&stack).await.unwrap();
        let is_there = format!("pg_class WHERE relname = '{theirs}' AND relispartition");
        count_in(&stack, &is_there).await == 1
    })
    .await;
    assert_eq!(count_in(&stack, &theirs).await, 1_000);
    assert_eq!(count_in(&stack, "events_default").await, ROWS);
    assert_nothing_is_left(&stack).await;
}

#[tokio::test]
async fn an_event_that_meets_what_a_dead_replica_left_waits_and_is_stored() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let Partition { from, to, .. } = partition_of(next_week(), PartitionInterval::Day);
    let left = format!(
        "ALTER TABLE events_default ADD CONSTRAINT ganesh_attaching \
         CHECK (time < '{from}' OR time >= '{to}') NOT VALID"
    );
    stack.pool.execute(left.as_str()).await.unwrap();
    let early = Event {
        time: next_week(),
        ..event("early")
    };
    publish(&stack.jetstream().await, &[early, event("now")]).await;
    let refused = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"upkeep\"}";
    ganesh.wait_for_metric(refused, 1.0).await;
    assert_eq!(stack.dead_letters().await, 0);
    // The next round of upkeep.
    make_ahead(&stack.pool, PartitionInterval::Day, Timestamp::now())
        .await
        .unwrap();
    assert_nothing_is_left(&stack).await;
    eventually("both are stored", || async { stack.rows().await == 2 }).await;
    assert_eq!(stack.dead_letters().await, 0);
}
