//! Rows move to their partition while others change and delete them: the last word is theirs.

use std::time::Duration;

use ganesh::config::PartitionInterval;
use ganesh::storage::partitions::{make_ahead, partition_of};
use sqlx::{Acquire, PgPool};
use tokio::task::{AbortHandle, JoinHandle};

use super::upkeep::{count_in, fill_default, next_week};
use crate::support::{Stack, eventually};

const CHANGED: &str = "com.example.changed";
const BETWEEN_ROUNDS: Duration = Duration::from_millis(500);

/// How many rows move; `MOVED_ROWS` says another number.
fn rows() -> i64 {
    let given = std::env::var("MOVED_ROWS").ok();
    given.map_or(400_000, |given| given.parse().unwrap())
}

/// Rows that wait for next week's partition, and the name of that.
async fn waiting_rows(stack: &Stack) -> String {
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    fill_default(stack, next_week(), rows()).await;
    partition_of(next_week(), PartitionInterval::Day).name
}

pub fn sqlstate(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap();
    error.code().unwrap().into_owned()
}

/// The SQLSTATE with which it fails: for want of a lock, or of time on a busy machine.
pub async fn make(pool: &PgPool) -> Option<String> {
    let made = make_ahead(pool, PartitionInterval::Day, next_week()).await;
    made.err().as_ref().map(sqlstate)
}

async fn is_partition(pool: &PgPool, table: &str) -> bool {
    let is_partition = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1))";
    let is_partition = sqlx::query_scalar(is_partition).bind(table);
    is_partition.fetch_one(pool).await.unwrap()
}

/// Moves them as upkeep does, in rounds. After one that failed, its session can hold the lock of who moves for a
/// moment, and the next one leaves the work to it.
pub fn begin_to_move(stack: &Stack) -> JoinHandle<()> {
    let pool = stack.pool.clone();
    let theirs = partition_of(next_week(), PartitionInterval::Day).name;
    tokio::spawn(async move {
        for _ in 0..10 {
            match make(&pool).await.as_deref() {
                None if is_partition(&pool, &theirs).await => return,
                None => tokio::time::sleep(BETWEEN_ROUNDS).await,
                Some("55P03" | "57014") => {}
                Some(other) => panic!("{other}"),
            }
        }
        panic!("ten rounds in vain");
    })
}

async fn are_some_copied(pool: &PgPool, table: &str) -> bool {
    let count = format!("SELECT count(*) FROM (SELECT FROM {table} LIMIT 1) AS one");
    let count: Result<i64, _> = sqlx::query_scalar(&count).fetch_one(pool).await;
    count.is_ok_and(|count| count > 0)
}

async fn wait_until_some_are_copied(stack: &Stack, table: &str) {
    let are_copied = || are_some_copied(&stack.pool, table);
    eventually("some rows are copied", are_copied).await;
}

/// The SQLSTATE of the first round that fails after it copied rows. On a busy machine one can fail before.
async fn round_that_copies(pool: PgPool, table: String) -> String {
    loop {
        let failed = make(&pool).await;
        if are_some_copied(&pool, &table).await {
            return failed.expect("too late: they have moved");
        }
    }
}

/// Ids of `fill_default`, in the order of their pages.
fn id(number: i64) -> String {
    format!("waits-{number}")
}

async fn delete<'a>(executor: impl sqlx::PgExecutor<'a>, number: i64) -> u64 {
    let delete = sqlx::query("DELETE FROM events WHERE id = $1").bind(id(number));
    delete.execute(executor).await.unwrap().rows_affected()
}

async fn change<'a>(executor: impl sqlx::PgExecutor<'a>, number: i64) -> u64 {
    let change = sqlx::query("UPDATE events SET type = $2 WHERE id = $1");
    let change = change.bind(id(number)).bind(CHANGED);
    change.execute(executor).await.unwrap().rows_affected()
}

async fn lock_row<'a>(executor: impl sqlx::PgExecutor<'a>, number: i64) -> bool {
    let lock = sqlx::query("SELECT FROM events WHERE id = $1 FOR UPDATE").bind(id(number));
    lock.fetch_optional(executor).await.unwrap().is_some()
}

/// `None` for a row that is gone.
async fn type_of(stack: &Stack, number: i64) -> Option<String> {
    sqlx::query_scalar("SELECT type FROM events WHERE id = $1")
        .bind(id(number))
        .fetch_optional(&stack.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_row_that_is_deleted_or_changed_after_it_was_copied_stays_so() {
    let stack = Stack::start().await;
    let theirs = waiting_rows(&stack).await;
    let moving = begin_to_move(&stack);
    wait_until_some_are_copied(&stack, &theirs).await;
    assert_eq!(delete(&stack.pool, 1).await, 1);
    assert_eq!(change(&stack.pool, 2).await, 1);
    // Its new version is copied again, from a later page, and then deleted.
    assert_eq!(change(&stack.pool, 3).await, 1);
    let mut operator = stack.pool.begin().await.unwrap();
    assert!(lock_row(&mut *operator, 4).await && lock_row(&mut *operator, 5).await);
    assert_eq!(delete(&mut *operator, 4).await, 1);
    assert_eq!(change(&mut *operator, 5).await, 1);
    assert!(!moving.is_finished(), "too late to say anything");
    operator.commit().await.unwrap();
    assert_eq!(delete(&stack.pool, 3).await, 1);
    moving.await.unwrap();
    assert_eq!(count_in(&stack, &theirs).await, rows() - 3);
    assert_eq!(count_in(&stack, "events_default").await, 0);
    let changed = Some(CHANGED.to_owned());
    let found = [1, 2, 3, 4, 5].map(|number| type_of(&stack, number));
    let found = futures::future::join_all(found).await;
    assert_eq!(found, [None, changed.clone(), None, None, changed]);
}

#[tokio::test]
async fn who_locked_a_row_before_it_moves_deletes_it_after_all() {
    let stack = Stack::start().await;
    let theirs = waiting_rows(&stack).await;
    let round = tokio::spawn(round_that_copies(stack.pool.clone(), theirs.clone()));
    wait_until_some_are_copied(&stack, &theirs).await;
    let mut operator = stack.pool.begin().await.unwrap();
    assert!(lock_row(&mut *operator, 7).await);
    // The move waits for the operator, and not for long.
    assert_eq!(round.await.unwrap(), "55P03");
    assert_eq!(delete(&mut *operator, 7).await, 1);
    operator.commit().await.unwrap();
    begin_to_move(&stack).await.unwrap();
    assert_eq!(count_in(&stack, &theirs).await, rows() - 1);
    assert_eq!(type_of(&stack, 7).await, None);
}

/// Changes and deletes rows one after the other until the move is over: every `step`th from `first`.
/// Each has to be there. Those that were changed, and those that were deleted.
async fn operate(pool: PgPool, first: i64, step: i64, moving: AbortHandle) -> [Vec<i64>; 2] {
    let (mut changed, mut deleted) = (Vec::new(), Vec::new());
    let mut number = first;
    while number <= rows() && !moving.is_finished() {
        if changed.len() % 2 == 0 {
            assert_eq!(change(&pool, number).await, 1, "UPDATE of {number}");
        } else {
            let mut connection = pool.acquire().await.unwrap();
            let mut own = connection.begin().await.unwrap();
            assert!(lock_row(&mut *own, number).await, "FOR UPDATE of {number}");
            assert_eq!(change(&mut *own, number).await, 1, "UPDATE of {number}");
            own.commit().await.unwrap();
        }
        changed.push(number);
        let next = number + step / 2;
        assert_eq!(delete(&pool, next).await, 1, "DELETE of {next}");
        deleted.push(next);
        number += step;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    [changed, deleted]
}

#[tokio::test]
async fn whoever_changes_rows_while_they_move_finds_each_and_is_not_undone() {
    const OPERATORS: i64 = 3;
    let stack = Stack::start().await;
    let theirs = waiting_rows(&stack).await;
    let others = PgPool::connect(&stack.database_url).await.unwrap();
    let moving = begin_to_move(&stack);
    let operators: Vec<_> = (1..=OPERATORS)
        .map(|operator| tokio::spawn(operate(others.clone(), operator, 90, moving.abort_handle())))
        .collect();
    moving.await.unwrap();
    let (mut changed, mut deleted) = (Vec::new(), Vec::new());
    for operator in operators {
        let [some, others] = operator.await.unwrap();
        changed.extend(some);
        deleted.extend(others);
    }
    assert!(deleted.len() > 30, "{} were deleted", deleted.len());
    let gone = i64::try_from(deleted.len()).unwrap();
    assert_eq!(stack.rows().await, rows() - gone);
    assert_eq!(count_in(&stack, &theirs).await, rows() - gone);
    let is_changed = format!("events WHERE type = '{CHANGED}'");
    let expected = i64::try_from(changed.len()).unwrap();
    assert_eq!(count_in(&stack, &is_changed).await, expected);
    for number in deleted {
        assert_eq!(type_of(&stack, number).await, None, "{number} came back");
    }
}
