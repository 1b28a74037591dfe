//! The way to the server: cut, silent, slow, half-closed, and no connection to be had.

use std::time::{Duration, Instant};

use ganesh::config::PartitionInterval;
use ganesh::event::{Event, Timestamp};
use ganesh::storage::partitions::partition_of;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;

use super::server::errors;
use super::{REDELIVERED, assert_all_are_rows_at_their_first_delivery};
use crate::support::events::{events, publish};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::proxy::{Manner, Proxy};
use crate::support::stack::kill_sessions;
use crate::support::{Ganesh, Stack, eventually, servers};

const DUPLICATES: &str = "ganesh_messages_settled_total{outcome=\"duplicate\"}";

/// A proxy before the stack's Postgres, and the address that leads through it.
pub async fn proxied(stack: &Stack) -> (Proxy, String) {
    let url = url::Url::parse(&stack.database_url).unwrap();
    let port = url.port().unwrap();
    let proxy = Proxy::start(port).await;
    let through = stack
        .database_url
        .replace(&format!(":{port}/"), &format!(":{}/", proxy.port));
    (proxy, through)
}

#[tokio::test]
async fn connections_that_are_cut_anywhere_under_load_cost_attempts_and_nothing_else() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let all = events("e", 20_000);
    publish(&stack.jetstream().await, &all).await;
    let (proxy, through) = proxied(&stack).await;
    let settings = [
        ("POSTGRES_URL", through.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "300"),
    ];
    let ganesh = stack.serve(&settings).await;
    for i in 0..20u64 {
        tokio::time::sleep(Duration::from_millis(30 + 7 * (i % 5))).await;
        if i % 3 == 2 {
            proxy.half_close();
        } else {
            proxy.cut();
        }
    }
    stack.wait_until_drained().await;
    assert_all_are_rows_at_their_first_delivery(&stack, &ganesh, &all).await;
    assert!(ganesh.metric(&errors("connection")).await > 0.0);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_written_twice() {
    let stack = Stack::start().await;
    let (proxy, through) = proxied(&stack).await;
    let settings = [
        ("POSTGRES_URL", through.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "200"),
        ("GANESH_WRITERS", "1"),
    ];
    let ganesh = stack.serve(&settings).await;
    // Until then the epoch advances in the batch's own transaction, which commits after the tag.
    let cache = "ganesh_dependency_up{dependency=\"cache\"}";
    ganesh.wait_for_metric(cache, 1.0).await;
    let mut all = events("e", 200);
    // The message of the tag of a COPY that is committed, of 100 to 999 rows: on a busy machine it has not all.
    proxy.cut_instead_of(b"C\0\0\0\x0dCOPY ");
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    eventually("the answer is lost", || async { proxy.trap_has_sprung() }).await;
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    // They were rows by then.
    eventually("they are duplicates", || async {
        ganesh.metric(DUPLICATES).await >= 100.0
    })
    .await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn a_connection_on_which_nothing_answers_is_given_up_and_never_used_again() {
    let stack = Stack::start().await;
    let (proxy, through) = proxied(&stack).await;
    let settings = [
        ("POSTGRES_URL", through.as_str()),
        ("GANESH_ACK_WAIT", "4s"),
    ];
    let ganesh = stack.serve(&settings).await;
    let all = events("e", 200);
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &all[..1]).await;
    stack.wait_until_drained().await;
    proxy.behave(Manner::Swallow);
    publish(&jetstream, &all[1..]).await;
    eventually("the write is given up", || async {
        ganesh.log().contains("writing a batch: no answer in time")
    })
    .await;
    // Whoever went on with one of those connections would wait for ever, or read an answer
    // to something else.
    proxy.behave(Manner::Pass);
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
    assert!(ganesh.metric(DUPLICATES).await < f64::EPSILON);
}

#[tokio::test]
async fn a_slow_way_to_postgres_makes_it_slow_and_nothing_else() {
    let stack = Stack::start().await;
    let (proxy, through) = proxied(&stack).await;
    let ganesh = stack.serve(&[("POSTGRES_URL", &through)]).await;
    proxy.behave(Manner::Delay(Duration::from_millis(100)));
    let all = events("e", 5_000);
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_waited_for() {
    const CONNECTIONS: usize = 16;
    let few = format!(
        "-c max_connections={CONNECTIONS} -c superuser_reserved_connections=0 \
         -c reserved_connections=0 -c max_wal_senders=0"
    );
    let postgres = servers::postgres_with(&[("POSTGRES_ARGS", &few)]);
    let stack = Stack::start_on(postgres).await;
    let ganesh = stack.serve(&[]).await;
    let mut killer = PgConnection::connect(&stack.database_url).await.unwrap();
    // Somebody takes every connection but the test's own two: 53300 for whoever asks later.
    let mut hogs = Vec::new();
    let began = Instant::now();
    while hogs.len() < CONNECTIONS - 2 {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", hogs.len());
        match PgConnection::connect(&stack.database_url).await {
            Ok(hog) => hogs.push(hog),
            Err(_) => kill_sessions(&mut killer).await,
        }
    }
    let all = events("e", 100);
    publish(&stack.jetstream().await, &all).await;
    eventually("a batch finds no connection", || async {
        let is_it = |line: &str| line.contains("was not stored") && line.contains("pool timed out");
        ganesh.log().lines().any(is_it)
    })
    .await;
    assert_eq!(stack.rows().await, 0);
    drop(hogs);
    stack.wait_until_drained().await;
    assert_all_are_rows_at_their_first_delivery(&stack, &ganesh, &all).await;
}

/// Requests that read every partition, and the status of each answer.
fn ask_for_events(ganesh: &Ganesh, count: usize) -> JoinSet<u16> {
    let mut asking = JoinSet::new();
    for number in 0..count {
        let url = format!("{}/v1/events/none-{number}", ganesh.api);
        asking.spawn(async move { reqwest::get(url).await.unwrap().status().as_u16() });
    }
    asking
}

/// Waits until readers wait for a lock that the test holds.
async fn wait_until_readers_wait(stack: &Stack) {
    let waiting = "SELECT count(*) >= 4 FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'ganesh' \
         AND wait_event_type = 'Lock'";
    eventually("readers wait for the lock", || async {
        let waiting = sqlx::query_scalar(waiting).fetch_one(&stack.pool).await;
        waiting.unwrap()
    })
    .await;
}

/// How long it takes until these are settled.
async fn store(stack: &Stack, events: &[Event]) -> Duration {
    let began = Instant::now();
    publish(&stack.jetstream().await, events).await;
    stack.wait_until_drained().await;
    began.elapsed()
}

#[tokio::test]
async fn readers_that_hang_leave_the_writers_their_connections() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let all = events("e", 2_000);
    let alone = store(&stack, &all[..1_000]).await;
    let yesterday = Timestamp::from_micros(Timestamp::now().micros() - 86_400_000_000);
    let old = partition_of(yesterday, PartitionInterval::Day).name;
    let lock = stack.lock(&old, "ACCESS EXCLUSIVE").await;
    let mut asking = ask_for_events(&ganesh, 60);
    wait_until_readers_wait(&stack).await;
    let beside_them = store(&stack, &all[1_000..]).await;
    // A reader is given up after four seconds: whoever needed its connection would wait that long.
    let limit = 3 * alone + Duration::from_secs(2);
    assert!(beside_them < limit, "{beside_them:?}, alone {alone:?}");
    while let Some(status) = asking.join_next().await {
        assert!(matches!(status.unwrap(), 503 | 504));
        assert_eq!(ganesh.admin("/readyz").await.0, 200);
    }
    lock.rollback().await.unwrap();
    assert_all_are_rows_at_their_first_delivery(&stack, &ganesh, &all).await;
}
