//! Dependencies that are not up yet are waited for, with a clear line, up to a limit.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use sqlx::Executor;

use super::ended_with;
use crate::support::events::{events, publish};
use crate::support::keys::wait_until_so_many_wait;
use crate::support::stack::kill_sessions;
use crate::support::{Ganesh, Stack, eventually};

async fn wait_for_line(ganesh: &Ganesh, words: &str) {
    eventually(words, || async { ganesh.log().contains(words) }).await;
}

#[tokio::test]
async fn nats_that_comes_later_is_waited_for() {
    let mut stack = Stack::start().await;
    stack.nats.kill();
    let ganesh = Ganesh::serve(&stack, &[]);
    wait_for_line(&ganesh, "waiting for NATS (NATS_URL)").await;
    // Alive, so that nobody restarts it, and not ready.
    assert_eq!(ganesh.admin("/livez").await.0, 200);
    assert_eq!(ganesh.admin("/readyz").await.0, 503);
    stack.nats.run();
    ganesh.wait_until_ready().await;
}

#[tokio::test]
async fn postgres_that_comes_later_is_waited_for() {
    let mut stack = Stack::start_with_own_postgres().await;
    stack.postgres.as_mut().unwrap().kill();
    let ganesh = Ganesh::serve(&stack, &[]);
    wait_for_line(&ganesh, "waiting for Postgres (POSTGRES_URL)").await;
    assert_eq!(ganesh.admin("/readyz").await.0, 503);
    stack.postgres.as_mut().unwrap().run();
    ganesh.wait_until_ready().await;
}

#[tokio::test]
async fn postgres_that_goes_away_during_the_migrations_is_waited_for() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    // One migration is missing, and cannot be noted as applied.
    let missing = "DROP TABLE cache_epoch; DELETE FROM _sqlx_migrations WHERE version = 2";
    stack.pool.execute(missing).await.unwrap();
    let lock = stack.lock("_sqlx_migrations", "SHARE").await;
    let ganesh = Ganesh::serve(&stack, &[]);
    wait_until_so_many_wait(&stack, 1).await;
    kill_sessions(&stack.pool).await;
    wait_for_line(&ganesh, "the schema was not looked after; trying again").await;
    lock.rollback().await.unwrap();
    ganesh.wait_until_ready().await;
}

#[tokio::test]
async fn serve_needs_no_cache_to_be_ready_and_to_store() {
    let mut stack = Stack::start().await;
    stack.cache.kill();
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("e", 100)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    let up = ganesh
        .metric("ganesh_dependency_up{dependency=\"cache\"}")
        .await;
    assert!(up.abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_never_comes_ends_the_start_at_its_limit_with_1() {
    let mut stack = Stack::start().await;
    stack.nats.kill();
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let (nats, postgres) = (
        format!("nats://{silent}"),
        format!("postgresql://{silent}/db"),
    );
    for (settings, what) in [
        (&[][..], "NATS (NATS_URL)"),
        (&[("NATS_URL", nats.as_str())][..], "NATS (NATS_URL)"),
        (
            &[("POSTGRES_URL", "postgresql://127.0.0.1:1/db")][..],
            "Postgres (POSTGRES_URL)",
        ),
        (
            &[("POSTGRES_URL", postgres.as_str())][..],
            "Postgres (POSTGRES_URL)",
        ),
    ] {
        let settings = [&[("GANESH_STARTUP_TIMEOUT", "1s")], settings].concat();
        let began = Instant::now();
        let said = ended_with(1, &stack, &settings).await;
        let took = began.elapsed();
        assert!(
            (Duration::from_secs(1)..Duration::from_secs(4)).contains(&took),
            "{took:?}"
        );
        let message = format!("ganesh: {what} is not there after GANESH_STARTUP_TIMEOUT=1s");
        assert!(said.contains(&message), "{said}");
    }
}

#[tokio::test]
async fn why_it_waits_is_said_in_the_words_of_the_cause() {
    let mut stack = Stack::start().await;
    stack.nats.kill();
    let limit = ("GANESH_STARTUP_TIMEOUT", "1s");
    let nats = ended_with(1, &stack, &[limit]).await;
    assert!(nats.contains("Connection refused"), "{nats}");
    let away = ("POSTGRES_URL", "postgresql://127.0.0.1:1/db");
    let postgres = ended_with(1, &stack, &[limit, away]).await;
    assert!(postgres.contains("Connection refused"), "{postgres}");
}

#[tokio::test]
async fn sigterm_ends_a_start_that_still_waits_at_once_with_0() {
    let mut stack = Stack::start().await;
    stack.nats.kill();
    for settings in [
        &[][..],
        &[("POSTGRES_URL", "postgresql://127.0.0.1:1/db")][..],
    ] {
        let ganesh = Ganesh::serve(&stack, settings);
        wait_for_line(&ganesh, "waiting for").await;
        let began = Instant::now();
        assert!(ganesh.terminate().await.success());
        // Far below the grace period, which is 25 s.
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
}
