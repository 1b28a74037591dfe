//! The way to the server: cut, silent, slow, half-closed, and no connection to be had.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPoolOptions};

use super::server::{errors, kill_sessions};
use super::{REDELIVERED, assert_all_are_rows_at_their_first_delivery};
use crate::support::events::{events, publish};
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::proxy::{Manner, Proxy};
use crate::support::servers::Server;
use crate::support::{Stack, eventually};

const DUPLICATES: &str = "ganesh_messages_settled_total{outcome=\"duplicate\"}";

/// A proxy before the stack's Postgres, and the address that leads through it.
async fn proxied(stack: &Stack) -> (Proxy, String) {
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
        // All of them in one batch.
        ("GANESH_BATCH_MAX_EVENTS", "200"),
        ("GANESH_BATCH_LINGER_MS", "5000"),
    ];
    let ganesh = stack.serve(&settings).await;
    // Until then the epoch advances in the batch's own transaction, which commits after the tag.
    let cache = "ganesh_dependency_up{dependency=\"cache\"}";
    ganesh.wait_for_metric(cache, 1.0).await;
    let all = events("e", 200);
    // The tag of a COPY that is committed.
    proxy.cut_instead_of(b"COPY 200\0");
    publish(&stack.jetstream().await, &all).await;
    eventually("the answer is lost", || async { proxy.has_cut_instead() }).await;
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    // They were rows by then.
    ganesh.wait_for_metric(DUPLICATES, 200.0).await;
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
    let templates = concat!(env!("CARGO_TARGET_TMPDIR"), "/postgres-template");
    std::fs::create_dir_all(templates).unwrap();
    let few = "-c max_connections=16 -c superuser_reserved_connections=0 \
         -c reserved_connections=0 -c max_wal_senders=0";
    let environment = [("TEMPLATE_DIR", templates), ("POSTGRES_ARGS", few)];
    let postgres = Server::start("postgres", &environment);
    let database_url = format!(
        "postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh",
        postgres.port()
    );
    eventually("Postgres answers", || async {
        PgConnection::connect(&database_url).await.is_ok()
    })
    .await;
    let pool = PgPoolOptions::new().max_connections(2);
    let stack = Stack {
        pool: pool.connect(&database_url).await.unwrap(),
        postgres: Some(postgres),
        database_url: database_url.clone(),
        ..Stack::start().await
    };
    let ganesh = stack.serve(&[]).await;
    let mut killer = PgConnection::connect(&database_url).await.unwrap();
    let mut hogs = Vec::new();
    let mut all = Vec::new();
    // Somebody takes every connection that comes free: 53300 for whoever asks later.
    while !ganesh.log().contains("pool timed out") {
        match PgConnection::connect(&database_url).await {
            Ok(hog) => hogs.push(hog),
            Err(_) => kill_sessions(&mut killer).await,
        }
        if all.is_empty() && hogs.len() > 5 {
            all = events("e", 100);
            publish(&stack.jetstream().await, &all).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(hogs);
    stack.wait_until_drained().await;
    assert_all_are_rows_at_their_first_delivery(&stack, &ganesh, &all).await;
}
