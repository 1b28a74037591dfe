//! A key that a test holds, so that writers meet where it wants them to.

use ganesh::event::Event;
use sqlx::{Postgres, Transaction};

use super::{Stack, eventually};

/// Inserts an event's key, and holds it until the transaction ends.
pub async fn hold_key(stack: &Stack, event: &Event) -> Transaction<'static, Postgres> {
    let mut transaction = stack.pool.begin().await.unwrap();
    let insert = "INSERT INTO events \
         (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         VALUES ($1, $2, 'epoch'::timestamptz + $3 * interval '1 microsecond', \
                 'held', 'events.test', 0, now(), '')";
    sqlx::query(insert)
        .bind(&event.id)
        .bind(&event.source)
        .bind(event.time.micros())
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

/// Waits until so many connections of the test's database wait for a lock.
pub async fn wait_until_so_many_wait(stack: &Stack, writers: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the writers wait for keys", || async {
        let count: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        count == writers
    })
    .await;
}
