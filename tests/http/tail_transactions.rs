//! `GET /v1/events/stream` and the transactions of Postgres: those that end late, and those that it forgets.

use std::process::Command;
use std::time::Duration;

use sqlx::{Postgres, Transaction};

use super::client::{get, store};
use super::tail_client::{Tail, by_time, stored};
use crate::support::events::{event, events};
use crate::support::servers::postgres_with;
use crate::support::{PATIENCE, Stack, eventually};

/// The log is on disk when somebody waits for it, and else ten seconds later.
const LATE: &str = "-c wal_writer_delay=10s -c autovacuum=off";

/// A row as another program can write it.
pub async fn insert(transaction: &mut Transaction<'_, Postgres>, id: &str) {
    let insert = "INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         VALUES ($1, '/other', now(), 't', 'events.test', 0, now(), '')";
    let insert = sqlx::query(insert).bind(id);
    insert.execute(&mut **transaction).await.unwrap();
}

/// Another program stores so many events, each in a transaction that ends after later ones.
pub async fn write_slowly(stack: &Stack, count: usize) {
    for i in 0..count {
        let mut transaction = stack.pool.begin().await.unwrap();
        number(&mut transaction).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        insert(&mut transaction, &format!("slow-{i}")).await;
        transaction.commit().await.unwrap();
    }
}

/// Takes so many numbers of transactions, whose ends are not awaited to be on disk. Returns the last one.
async fn take_numbers(stack: &Stack, count: usize) -> i64 {
    let mut session = stack.pool.acquire().await.unwrap();
    let hurry = sqlx::query("SET synchronous_commit = off");
    hurry.execute(&mut *session).await.unwrap();
    let mut last = 0;
    for _ in 0..count {
        let number = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint");
        last = number.fetch_one(&mut *session).await.unwrap();
    }
    last
}

/// Which transaction stored an event.
async fn stored_in(stack: &Stack, id: &str) -> i64 {
    let stored_in = "SELECT stored_in::text::bigint FROM events WHERE id = $1";
    let stored_in = sqlx::query_scalar(stored_in).bind(id);
    stored_in.fetch_one(&stack.pool).await.unwrap()
}

/// The number of a transaction that has one.
async fn number(transaction: &mut Transaction<'_, Postgres>) -> i64 {
    let number = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint");
    number.fetch_one(&mut **transaction).await.unwrap()
}

async fn wait_until_on_disk(stack: &Stack) {
    eventually("the log is on disk", || async {
        let is = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()";
        let is = sqlx::query_scalar(is).fetch_one(&stack.pool);
        is.await.unwrap()
    })
    .await;
}

async fn wait_for_postgres(stack: &Stack) {
    eventually("Postgres answers", || async {
        sqlx::query("SELECT 1").execute(&stack.pool).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn what_a_transaction_commits_late_comes_and_holds_back_what_was_stored_after_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    let mut late = stack.pool.begin().await.unwrap();
    insert(&mut late, "late").await;
    store(&stack, &events("after", 50)).await;
    assert!(stored_in(&stack, "after-0").await > number(&mut late).await);
    // Clients learn that it waits, operators also for whom.
    let process = sqlx::query_scalar("SELECT pg_backend_pid()");
    let process: i32 = process.fetch_one(&mut *late).await.unwrap();
    let process = format!("process {process} ");
    let comment = loop {
        let message = tail.next().await.unwrap();
        assert!(message.event.is_none(), "{message:?}");
        if let Some(comment) = message.comment.filter(|said| said.contains("held back")) {
            break comment;
        }
    };
    assert!(
        comment.contains("by a transaction that has not ended"),
        "{comment}"
    );
    assert!(ganesh.log().contains(&process), "{}", ganesh.log());
    assert!(!comment.contains("process"), "{comment}");
    late.commit().await.unwrap();
    let found = tail.ids(51).await;
    assert_eq!(found[0], "late");
    assert_eq!(found, stored(&stack).await);
    // One that is rolled back holds back, too, and no longer than that.
    let mut never = stack.pool.begin().await.unwrap();
    insert(&mut never, "never").await;
    store(&stack, &[event("last")]).await;
    assert!(!tail.has_event_within(Duration::from_secs(1)).await);
    never.rollback().await.unwrap();
    assert_eq!(tail.ids(1).await, ["last"]);
}

/// No lock on `events` tells of it when the stream begins.
#[tokio::test]
async fn what_an_older_transaction_stores_first_while_a_stream_is_open_is_not_missed() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut older = stack.pool.begin().await.unwrap();
    number(&mut older).await;
    // The first one begins the marking, the other one goes on with it.
    let mut tails = [Tail::open(&ganesh, "").await, Tail::open(&ganesh, "").await];
    insert(&mut older, "older").await;
    older.commit().await.unwrap();
    for tail in &mut tails {
        assert_eq!(tail.ids(1).await, ["older"]);
    }
}

/// Postgres writes its log to disk for those that wait for it, and of what others wrote whole pages.
#[tokio::test]
async fn a_stream_opens_while_a_transaction_is_open_whose_rows_are_not_on_disk() {
    let stack = Stack::start_on(postgres_with(&[("POSTGRES_ARGS", LATE)])).await;
    let ganesh = stack.serve(&[]).await;
    // Without one before, a stream begins when the transaction has ended.
    let _first = Tail::open(&ganesh, "").await;
    store(&stack, &events("before", 3)).await;
    // The first one wakes who writes the log.
    take_numbers(&stack, 1).await;
    wait_until_on_disk(&stack).await;
    let mut open = stack.pool.begin().await.unwrap();
    insert(&mut open, "open").await;
    let mut tail = Tail::open(&ganesh, "").await;
    let mut newest = Tail::open(&ganesh, "newest=1").await;
    assert_eq!(newest.ids(1).await, [by_time(&stack).await.pop().unwrap()]);
    open.commit().await.unwrap();
    assert_eq!(tail.ids(1).await, ["open"]);
    assert_eq!(newest.ids(1).await, ["open"]);
}

#[tokio::test]
async fn what_is_stored_under_numbers_that_a_crash_gave_back_is_not_missed() {
    let mut stack = Stack::start_on(postgres_with(&[("POSTGRES_ARGS", LATE)])).await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &[event("before")]).await;
    assert_eq!(tail.ids(1).await, ["before"]);
    let mut newcomer = Tail::open(&ganesh, "").await;
    // The first one wakes who writes the log.
    take_numbers(&stack, 1).await;
    assert!(!tail.has_event_within(Duration::from_millis(300)).await);
    let taken = take_numbers(&stack, 500).await;
    // Some pages end meanwhile.
    assert!(!tail.has_event_within(Duration::from_secs(1)).await);
    stack.postgres.as_mut().unwrap().crash();
    stack.postgres.as_mut().unwrap().run();
    wait_for_postgres(&stack).await;
    store(&stack, &events("after", 5)).await;
    let number = stored_in(&stack, "after-0").await;
    assert!(number < taken, "{number} is a number after {taken}");
    let stored = stored(&stack).await;
    assert_eq!(tail.ids(5).await, stored[1..]);
    assert_eq!(newcomer.ids(5).await, stored[1..]);
}

/// As a standby does that takes over before it has everything.
#[tokio::test]
async fn a_stream_ends_where_postgres_has_lost_what_it_has_given() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &events("kept", 10)).await;
    tail.ids(10).await;
    let postgres = stack.postgres.as_mut().unwrap();
    let data = postgres.abandon();
    let behind = data.with_extension("behind");
    let copy = Command::new("cp").arg("-a").args([&data, &behind]).status();
    assert!(copy.unwrap().success());
    postgres.run();
    wait_for_postgres(&stack).await;
    take_numbers(&stack, 100).await;
    store(&stack, &events("lost", 10)).await;
    tail.ids(10).await;
    let postgres = stack.postgres.as_mut().unwrap();
    postgres.crash();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&behind, &data).unwrap();
    postgres.run();
    let ends = async {
        while let Some(message) = tail.next().await {
            assert!(message.event.is_none(), "{message:?}");
        }
    };
    let ends = tokio::time::timeout(PATIENCE, ends).await;
    ends.expect("the stream ends");
    let refused = get(&ganesh, &format!("/v1/events/stream?after={}", tail.id)).await;
    let detail = refused.problem(400, "Bad Request");
    assert!(detail.contains("lost transactions"), "{detail}");
}
