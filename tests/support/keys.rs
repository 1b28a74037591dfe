//! A key that a test holds, so that writers meet where it wants them to.

use ganesh::event::Event;
use sqlx::{Postgres, Transaction};

use super::events::{event, publish};
use super::{Ganesh, Stack, eventually};

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

/// Publishes events so that they are one batch, while the only writer (`GANESH_WRITERS=1`) is kept busy by
/// one more event, which this returns. `GANESH_BATCH_MAX_EVENTS` has to be large enough.
pub async fn publish_in_one_batch(stack: &Stack, ganesh: &Ganesh, all: &[Event]) -> Event {
    let busy = Event {
        event_type: "com.example.busy".to_owned(),
        ..event(&format!("busy-{:032x}", rand::random::<u128>()))
    };
    let received = "ganesh_messages_received_total";
    #[allow(clippy::cast_precision_loss, reason = "few events")]
    let expected = ganesh.metric(received).await + 1.0 + all.len() as f64;
    let key = hold_key(stack, &busy).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, std::slice::from_ref(&busy)).await;
    wait_until_so_many_wait(stack, 1).await;
    publish(&jetstream, all).await;
    ganesh.wait_for_metric(received, expected).await;
    key.rollback().await.unwrap();
    busy
}
