//! The server itself: restarted, read-only, full, locked, without permissions.

use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::PgExecutor;

use super::{REDELIVERED, assert_all_are_rows_at_their_first_delivery};
use crate::support::events::{events, publish};
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::stack::kill_sessions;
use crate::support::{Ganesh, Stack, eventually};

const POSTGRES_UP: &str = "ganesh_dependency_up{dependency=\"postgres\"}";

pub fn errors(code: &str) -> String {
    format!("ganesh_dependency_errors_total{{dependency=\"postgres\",code=\"{code}\"}}")
}

async fn execute<'a>(executor: impl PgExecutor<'a>, statement: &str) {
    sqlx::query(statement).execute(executor).await.unwrap();
}

#[tokio::test]
async fn a_crash_and_restart_under_load_cost_attempts_and_nothing_else() {
    let mut stack = Stack::start_with_own_postgres().await;
    stack.make_streams().await;
    let all = events("e", 20_000);
    publish(&stack.jetstream().await, &all).await;
    let ganesh = stack.serve(&[("GANESH_BATCH_MAX_EVENTS", "200")]).await;
    stack.wait_for_rows(1_000).await;
    let postgres = stack.postgres.as_mut().unwrap();
    postgres.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    postgres.run();
    assert!(stack.backlog().await > 0, "too late to prove anything");
    stack.wait_until_drained().await;
    assert_all_are_rows_at_their_first_delivery(&stack, &ganesh, &all).await;
    // Its server processes may live a moment longer, and say why they go.
    let attempts = ganesh.metric(&errors("connection")).await;
    assert!(attempts + ganesh.metric(&errors("unavailable")).await > 0.0);
}

#[tokio::test]
async fn sessions_that_the_server_ends_cost_attempts_and_nothing_else() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let all = events("e", 20_000);
    publish(&stack.jetstream().await, &all).await;
    let ganesh = stack.serve(&[("GANESH_BATCH_MAX_EVENTS", "200")]).await;
    // As at a failover or a restart: 57P01, terminating connection due to administrator command.
    for _ in 0..10 {
        kill_sessions(&stack.pool).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stack.wait_until_drained().await;
    assert_all_are_rows_at_their_first_delivery(&stack, &ganesh, &all).await;
    let seen = ganesh.metric(&errors("unavailable")).await;
    assert!(seen + ganesh.metric(&errors("connection")).await > 0.0);
}

#[tokio::test]
async fn a_read_only_server_is_left_for_a_new_connection() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let read_only = "ALTER DATABASE \"{}\" SET default_transaction_read_only = on";
    let database = stack.database_url.rsplit('/').next().unwrap();
    execute(&stack.pool, &read_only.replace("{}", database)).await;
    // Only new sessions are read-only, as those to a primary that became a standby.
    kill_sessions(&stack.pool).await;
    let all = events("e", 100);
    publish(&stack.jetstream().await, &all).await;
    eventually("it is refused with 25006", || async {
        ganesh.log().contains("SQLSTATE 25006")
    })
    .await;
    // Up means that it does what we need.
    eventually("it is said", || async {
        let (status, body) = ganesh.admin("/readyz").await;
        status == 503 && body.contains("postgres is read-only")
    })
    .await;
    assert!(ganesh.metric(POSTGRES_UP).await < f64::EPSILON);
    let mut writable = stack.pool.acquire().await.unwrap();
    let reset = format!("ALTER DATABASE \"{database}\" RESET default_transaction_read_only");
    writable.execute(reset.as_str()).await.unwrap();
    // Those sessions stay read-only; somebody who kept one would never store again.
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
    ganesh.wait_for_metric(POSTGRES_UP, 1.0).await;
    ganesh.wait_until_ready().await;
}

/// From now on a trigger raises this at every insert, in the place of the server itself.
async fn raise(stack: &Stack, message: &str, sqlstate: &str) {
    let function = format!(
        "CREATE OR REPLACE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE '{message}' USING ERRCODE = '{sqlstate}'; END $$"
    );
    execute(&stack.pool, &function).await;
    let trigger = "CREATE OR REPLACE TRIGGER raise BEFORE INSERT ON events \
         FOR EACH ROW EXECUTE FUNCTION raise()";
    execute(&stack.pool, trigger).await;
}

/// Publishes while the trigger raises this, which is counted under a code, and then no more.
async fn assert_is_waited_for(message: &str, sqlstate: &str, code: &str) {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    raise(&stack, message, sqlstate).await;
    let all = events("e", 100);
    publish(&stack.jetstream().await, &all).await;
    ganesh.wait_for_metric(&errors(code), 3.0).await;
    assert_eq!(stack.backlog().await, 100);
    execute(&stack.pool, "DROP TRIGGER raise ON events").await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_no_row_is_blamed_for_it() {
    // One that is really full needs a mount, and has a test of its own.
    let message = "could not extend file: No space left on device";
    assert_is_waited_for(message, "53100", "resources").await;
}

#[tokio::test]
async fn a_row_that_meets_a_partition_being_attached_is_not_blamed_for_it() {
    let message = "new row for relation \"events_default\" violates partition constraint";
    assert_is_waited_for(message, "23514", "conflict").await;
}

#[tokio::test]
async fn what_only_a_person_can_mend_stops_the_process_which_says_so_and_loses_nothing() {
    let stack = Stack::start().await;
    for sqlstate in ["42P01", "28000", "3D000"] {
        let ganesh = stack.serve(&[]).await;
        raise(&stack, "mend me", sqlstate).await;
        publish(&stack.jetstream().await, &events(sqlstate, 10)).await;
        let (code, log) = exit_of(ganesh).await;
        assert_eq!(code, Some(1), "{log}");
        let words = format!("mend me (SQLSTATE {sqlstate})");
        assert!(log.contains(&words), "no {words} in {log}");
        execute(&stack.pool, "DROP TRIGGER raise ON events").await;
    }
    assert_eq!(stack.dead_letters().await, 0);
    let _again = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 30);
}

#[tokio::test]
async fn a_lock_on_events_that_outlasts_the_lock_timeout_costs_attempts_and_nothing_else() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "4s")]).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    let all = events("e", 1_000);
    publish(&stack.jetstream().await, &all).await;
    eventually("a statement is cancelled", || async {
        ganesh.log().contains("SQLSTATE 55P03")
    })
    .await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

/// A role that may do what a replica does that neither migrates nor makes partitions, and
/// the address under which it logs in.
async fn limited_role(stack: &Stack) -> (String, String) {
    let database = stack.database_url.rsplit('/').next().unwrap();
    let role = format!("limited_{database}_{}", std::process::id());
    for statement in [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'limited'"),
        format!("GRANT SELECT, INSERT ON events TO {role}"),
        format!("GRANT SELECT ON _sqlx_migrations TO {role}"),
        format!("GRANT SELECT, INSERT, UPDATE ON cache_epoch TO {role}"),
        format!("GRANT SELECT, INSERT, DELETE ON fates TO {role}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON trials TO {role}"),
    ] {
        execute(&stack.pool, &statement).await;
    }
    let url = stack
        .database_url
        .replace("ganesh:ganesh@", &format!("{role}:limited@"));
    (role, url)
}

async fn exit_of(mut ganesh: Ganesh) -> (Option<i32>, String) {
    let status = ganesh.wait().await;
    (status.code(), ganesh.log())
}

#[tokio::test]
async fn a_role_that_lost_its_permission_stops_the_process_which_says_so_and_loses_nothing() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let (role, url) = limited_role(&stack).await;
    let settings = [
        ("POSTGRES_URL", url.as_str()),
        ("GANESH_MIGRATE_ON_START", "false"),
    ];
    let ganesh = stack.serve(&settings).await;
    let all = events("e", 100);
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &all[..50]).await;
    stack.wait_until_drained().await;
    execute(&stack.pool, &format!("REVOKE INSERT ON events FROM {role}")).await;
    publish(&jetstream, &all[50..]).await;
    let (code, log) = exit_of(ganesh).await;
    assert_eq!(code, Some(1));
    for words in [
        "\"ERROR\"",
        "permission denied for table events",
        "SQLSTATE 42501",
    ] {
        assert!(log.contains(words), "no {words} in {log}");
    }
    assert_eq!(stack.dead_letters().await, 0);
    execute(&stack.pool, &format!("GRANT INSERT ON events TO {role}")).await;
    let _again = stack.serve(&settings).await;
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
}
