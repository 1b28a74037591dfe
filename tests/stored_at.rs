//! `stored_at` is not earlier than the row can have been written.

use std::time::Duration;

use sqlx::postgres::PgPool;
use sqlx::{Executor, Postgres, Transaction};

use crate::support::Stack;
use crate::support::events::{event, events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};

/// How long the table is locked, and how exact the time is of rows that `COPY` writes.
const HELD: Duration = Duration::from_secs(2);
const EXACT_SECS: f64 = 0.5;
const RECEIVED: &str = "ganesh_messages_received_total";
const COPIES: &str = "ganesh_batch_writes_total{method=\"copy\"}";

async fn seconds(stack: &Stack, what: &str) -> f64 {
    sqlx::query_scalar(&format!("SELECT extract(epoch FROM {what})::float8"))
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

/// The rows of these ids were stored after `freed`, and not later than now.
async fn assert_stored_after(stack: &Stack, freed: f64, prefix: &str) {
    let of =
        |end: &str| format!("(SELECT {end}(stored_at) FROM events WHERE id LIKE '{prefix}-%')");
    let first = seconds(stack, &of("min")).await;
    assert!(
        first > freed - EXACT_SECS,
        "{prefix}: {} s early",
        freed - first
    );
    let last = seconds(stack, &of("max")).await;
    let now = seconds(stack, "clock_timestamp()").await;
    assert!(last < now + EXACT_SECS, "{prefix}: {} s late", last - now);
}

/// A lock that no row gets past.
async fn lock(pool: PgPool) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    let lock = "LOCK TABLE events IN SHARE MODE";
    transaction.execute(lock).await.unwrap();
    transaction
}

/// Holds the lock for a while; returns the time at which it lets go.
async fn hold(stack: &Stack, lock: Transaction<'static, Postgres>) -> f64 {
    stack.wait_until_writers_wait().await;
    tokio::time::sleep(HELD).await;
    let freed = seconds(stack, "clock_timestamp()").await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    freed
}

#[tokio::test]
async fn a_row_that_waited_for_a_lock_was_stored_afterwards() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    let jetstream = stack.jetstream().await;
    for round in 0..2 {
        // By INSERT. The second time the statement is prepared.
        let locked = lock(stack.pool.clone()).await;
        let few = format!("few-{round}");
        publish(&jetstream, &events(&few, 1)).await;
        let freed = hold(&stack, locked).await;
        assert_stored_after(&stack, freed, &few).await;

        // By COPY. The only writer is busy until they are one batch, and the lock comes before it.
        let copies = ganesh.metric(COPIES).await;
        let received = ganesh.metric(RECEIVED).await;
        let busy = event(&format!("busy-{round}"));
        let key = hold_key(&stack, &busy).await;
        publish(&jetstream, std::slice::from_ref(&busy)).await;
        wait_until_so_many_wait(&stack, 1).await;
        let many = format!("many-{round}");
        publish(&jetstream, &events(&many, 200)).await;
        ganesh.wait_for_metric(RECEIVED, received + 201.0).await;
        let locking = tokio::spawn(lock(stack.pool.clone()));
        wait_until_so_many_wait(&stack, 2).await;
        key.rollback().await.unwrap();
        let freed = hold(&stack, locking.await.unwrap()).await;
        assert!(ganesh.metric(COPIES).await > copies, "by COPY");
        assert_stored_after(&stack, freed, &many).await;
    }
}
