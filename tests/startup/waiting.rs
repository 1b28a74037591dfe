//! Dependencies that are not up yet are waited for, with a clear line, up to a limit.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::Executor;

use super::ended_with;
use crate::support::events::{events, publish};
use crate::support::ganesh::{command, run};
use crate::support::keys::wait_until_so_many_wait;
use crate::support::servers::send_signal;
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

/// Each command ends with 1, in time and with all of these words in one line.
async fn assert_ended_by_a_lock(stack: &Stack, commands: &[&str], words: &[&str]) {
    let settings = [("GANESH_STARTUP_TIMEOUT", "6s")];
    let fits = |line: &str| words.iter().all(|word| line.contains(word));
    for command in commands {
        let began = Instant::now();
        let said = if *command == "serve" {
            ended_with(1, stack, &settings).await
        } else {
            let output = run(Some(stack), &[command], &settings);
            assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
            said.concat()
        };
        assert!(said.lines().any(fits), "{command}: {said}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(15), "{command}: {took:?}");
    }
}

#[tokio::test]
async fn a_lock_that_somebody_holds_ends_the_start_in_time_and_names_who_holds_it() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let mut lock = stack.lock("_sqlx_migrations", "ACCESS EXCLUSIVE").await;
    let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *lock)
        .await
        .unwrap();
    let process = format!("process {process} ");
    let words = [
        process.as_str(),
        "waiting for a lock",
        "idle in transaction",
    ];
    assert_ended_by_a_lock(&stack, &["doctor", "migrate", "serve"], &words).await;
    lock.rollback().await.unwrap();
    let _ganesh = stack.serve(&[]).await;
}

/// Two that migrate at the same time take turns. One that hangs keeps the other from it.
#[tokio::test]
async fn a_migration_that_hangs_ends_the_start_of_others_in_time_and_is_named() {
    let stack = Stack::start().await;
    let mut unfinished = stack.pool.begin().await.unwrap();
    let make = "CREATE TABLE _sqlx_migrations (version int)";
    unfinished.execute(make).await.unwrap();
    let mut hangs = command(Some(&stack), &["migrate"], &[]).spawn().unwrap();
    wait_until_so_many_wait(&stack, 1).await;
    let waiting = "SELECT pid FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let process: i32 = sqlx::query_scalar(waiting)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    let process = format!("process {process} ");
    // Whatever its statement runs into: its session has the lock.
    send_signal(hangs.id(), Signal::STOP);
    let words = [process.as_str(), "migrations", "waiting for a lock"];
    assert_ended_by_a_lock(&stack, &["migrate", "serve"], &words).await;
    let _ = hangs.kill();
    let _ = hangs.wait();
    unfinished.rollback().await.unwrap();
    let _ganesh = stack.serve(&[]).await;
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
