//! P4 and P6: while Postgres is away, what is held stays at its limits, is kept
//! alive, and goes on when Postgres does. Replicas do not starve each other.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use ganesh::event::{Data, Event};

use crate::postgres_faults::connections::proxied;
use crate::support::events::{event, events, publish};
use crate::support::proxy::Manner;
use crate::support::{Ganesh, Stack, eventually};

const HELD: &str = "ganesh_in_flight_messages";
const HELD_BYTES: &str = "ganesh_in_flight_bytes";
const MIB: u64 = 1 << 20;
const REDELIVERED: &str = "ganesh_messages_redelivered_total";

#[tokio::test]
async fn held_messages_stay_at_the_limit_and_are_kept_alive_while_postgres_is_away() {
    let stack = Stack::start_with_own_postgres().await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT", "2000"),
        ("GANESH_BATCH_MAX_EVENTS", "500"),
        ("GANESH_ACK_WAIT", "2s"),
    ];
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let postgres = stack.postgres.as_ref().unwrap();
    postgres.pause();
    publish(&jetstream, &events("e", 10_000)).await;
    ganesh.wait_for_metric(HELD, 1_500.0).await;
    for _ in 0..30 {
        assert!(ganesh.metric(HELD).await <= 2_000.0);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(ganesh.metric("ganesh_progress_acks_total").await > 0.0);
    postgres.resume();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10_000);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

/// Small limits in bytes, and nothing is stored.
async fn with_postgres_paused() -> (Stack, Ganesh) {
    let stack = Stack::start_with_own_postgres().await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT_BYTES", "16MiB"),
        ("GANESH_BATCH_MAX_BYTES", "4MiB"),
    ];
    let ganesh = stack.serve(&settings).await;
    stack.postgres.as_ref().unwrap().pause();
    (stack, ganesh)
}

#[tokio::test]
async fn bodies_of_a_megabyte_keep_to_the_limit_in_bytes_and_memory() {
    let (stack, ganesh) = with_postgres_paused().await;
    let jetstream = stack.jetstream().await;
    let before = ganesh.resident_bytes();
    let body = Bytes::from(vec![b'x'; 1_000_000]);
    let large: Vec<Event> = (0..60)
        .map(|i| Event {
            data: Data::Binary(body.clone()),
            datacontenttype: Some("application/octet-stream".to_owned()),
            ..event(&format!("large-{i}"))
        })
        .collect();
    publish(&jetstream, &large).await;
    ganesh.wait_for_metric(HELD_BYTES, 10e6).await;
    for _ in 0..10 {
        let held = ganesh.metric(HELD_BYTES).await;
        assert!(held <= 16.0 * 1024.0 * 1024.0, "{held} bytes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let grown = ganesh.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "grew by {grown} bytes");
    stack.postgres.as_ref().unwrap().resume();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 60);
    let bytes: i64 = sqlx::query_scalar("SELECT sum(length(data_bytes)) FROM events")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(bytes, 60_000_000);
}

/// Each takes many times its bytes. A pull, which the server counts as they are, may bring a quarter of the
/// limit before that is known.
#[tokio::test]
async fn thousands_of_headers_keep_to_the_limit_in_memory() {
    let (stack, ganesh) = with_postgres_paused().await;
    let jetstream = stack.jetstream().await;
    let before = ganesh.resident_bytes();
    let headers = (0..7_000).map(|number| {
        let name: HeaderName = format!("{number:04}").parse().unwrap();
        (name, HeaderValue::from(1))
    });
    let headers: HeaderMap = headers.collect();
    for _ in 0..600 {
        let published = jetstream.publish_with_headers("events.test", headers.clone(), "{}".into());
        published.await.unwrap().await.unwrap();
    }
    ganesh.wait_for_metric(HELD_BYTES, 16e6).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = ganesh.resident_bytes().saturating_sub(before);
    assert!(grown < 160 * MIB, "grew by {grown} bytes");
    stack.postgres.as_ref().unwrap().resume();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 600);
}

#[tokio::test]
async fn a_second_process_gets_its_share_while_the_first_holds_its_limit() {
    let stack = Stack::start().await;
    let limit = [
        ("GANESH_MAX_IN_FLIGHT", "1000"),
        ("GANESH_BATCH_MAX_EVENTS", "100"),
    ];
    // The first one cannot store: the way from its statements to Postgres is held up.
    let (proxy, through) = proxied(&stack).await;
    let mut first_settings = limit.to_vec();
    first_settings.push(("POSTGRES_URL", through.as_str()));
    let first = stack.serve(&first_settings).await;
    proxy.behave(Manner::Hold);
    publish(&stack.jetstream().await, &events("e", 20_000)).await;
    first.wait_for_metric(HELD, 900.0).await;
    let second = stack.serve(&limit).await;
    eventually(
        "the second one stores what the first does not hold",
        || async { stack.rows().await >= 19_000 },
    )
    .await;
    drop(second);
}
