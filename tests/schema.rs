//! Which schema the tables are in: the configured one, whatever else the database has.

use ganesh::config::PartitionInterval;
use ganesh::event::Timestamp;
use ganesh::storage::partitions::partition_of;
use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgPool};

use crate::support::events::{event, events, publish};
use crate::support::ganesh::run;
use crate::support::{Ganesh, Stack, eventually};

/// Migrates into a schema, as somebody whose `search_path` begins with it.
async fn migrate_into(stack: &Stack, schema: &str) {
    let make = format!("CREATE SCHEMA {schema}");
    stack.pool.execute(make.as_str()).await.unwrap();
    let options: PgConnectOptions = stack.database_url.parse().unwrap();
    let pool = PgPool::connect_with(options.options([("search_path", schema)]))
        .await
        .unwrap();
    ganesh::storage::schema::migrate(&pool).await.unwrap();
}

async fn count(stack: &Stack, of: &str) -> i64 {
    sqlx::query_scalar(&format!("SELECT count(*) FROM {of}"))
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

/// `doctor` and `migrate` fail, and `serve` ends with 2 before it makes anything; each says all of these
/// words in one line.
async fn assert_refused(stack: &Stack, settings: &[(&str, &str)], words: &[&str]) {
    let tables = "pg_class WHERE relkind IN ('r', 'p') AND relnamespace >= 16384::oid \
         OR relnamespace = 'public'::regnamespace";
    let before = count(stack, tables).await;
    let fits = |line: &str| words.iter().all(|word| line.contains(word));
    for (command, code) in [("doctor", 1), ("migrate", 2)] {
        let output = run(Some(stack), &[command], settings);
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        let said = said.concat();
        assert_eq!(output.status.code(), Some(code), "{command}: {said}");
        assert!(said.lines().any(fits), "{command}: {said}");
    }
    let mut ganesh = Ganesh::serve(stack, settings);
    let status = ganesh.wait().await;
    let log = ganesh.log();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.lines().any(fits), "{log}");
    assert_eq!(count(stack, tables).await, before);
}

#[tokio::test]
async fn a_schema_of_the_roles_name_changes_nothing() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("before", 10)).await;
    stack.wait_until_drained().await;
    assert!(ganesh.terminate().await.success());
    stack
        .pool
        .execute("CREATE SCHEMA AUTHORIZATION ganesh")
        .await
        .unwrap();
    let _ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("after", 10)).await;
    stack.wait_until_drained().await;
    assert_eq!(count(&stack, "public.events").await, 20);
    let elsewhere = "pg_class WHERE relnamespace = 'ganesh'::regnamespace";
    assert_eq!(count(&stack, elsewhere).await, 0);
}

#[tokio::test]
async fn tables_that_were_made_in_another_schema_are_named_and_no_others_made() {
    let stack = Stack::start().await;
    migrate_into(&stack, "elsewhere").await;
    let words = ["GANESH_POSTGRES_SCHEMA=elsewhere", "public"];
    assert_refused(&stack, &[], &words).await;
    let settings = [("GANESH_POSTGRES_SCHEMA", "third")];
    let words = ["GANESH_POSTGRES_SCHEMA=elsewhere", "third"];
    assert_refused(&stack, &settings, &words).await;
    let settings = [("GANESH_POSTGRES_SCHEMA", "elsewhere")];
    let _ganesh = stack.serve(&settings).await;
}

#[tokio::test]
async fn another_programs_migrations_are_left_alone() {
    let stack = Stack::start().await;
    let make = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, \
         installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, \
         checksum bytea NOT NULL, execution_time bigint NOT NULL); \
         INSERT INTO _sqlx_migrations VALUES (1, 'events', now(), true, '\\x00', 1)";
    stack.pool.execute(make).await.unwrap();
    let words = [
        "_sqlx_migrations",
        "another program",
        "GANESH_POSTGRES_SCHEMA",
    ];
    assert_refused(&stack, &[], &words).await;
    // Another tool's, with columns of its own.
    let other = "DROP TABLE _sqlx_migrations; CREATE TABLE _sqlx_migrations (name text)";
    stack.pool.execute(other).await.unwrap();
    assert_refused(&stack, &[], &words).await;
}

#[tokio::test]
async fn tables_of_another_build_are_left_alone() {
    let stack = Stack::start().await;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let change = "UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1";
    stack.pool.execute(change).await.unwrap();
    let words = ["another build", "migration 1", "GANESH_POSTGRES_SCHEMA"];
    for migrate in ["true", "false"] {
        let settings = [("GANESH_MIGRATE_ON_START", migrate)];
        assert_refused(&stack, &settings, &words).await;
    }
}

#[tokio::test]
async fn another_programs_events_are_left_alone() {
    let stack = Stack::start().await;
    let make = "CREATE TABLE events (id int PRIMARY KEY)";
    stack.pool.execute(make).await.unwrap();
    let words = ["events", "another program", "GANESH_POSTGRES_SCHEMA"];
    assert_refused(&stack, &[], &words).await;
    let _beside = stack
        .serve(&[("GANESH_POSTGRES_SCHEMA", "beside-others")])
        .await;
    assert_eq!(count(&stack, "events").await, 0);
}

#[tokio::test]
async fn events_that_somebody_replaced_make_it_unready_and_are_refused_at_the_next_start() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let replace = "ALTER TABLE events RENAME TO events_of_ganesh; \
         CREATE TABLE events (LIKE events_of_ganesh INCLUDING ALL)";
    stack.pool.execute(replace).await.unwrap();
    eventually("it is not ready", || async {
        let (status, body) = ganesh.admin("/readyz").await;
        status == 503 && body.contains("events") && body.contains("not partitioned by time")
    })
    .await;
    assert_refused(&stack, &[], &["events", "not partitioned by time"]).await;
    let back = "DROP TABLE events; ALTER TABLE events_of_ganesh RENAME TO events";
    stack.pool.execute(back).await.unwrap();
    ganesh.wait_until_ready().await;
    let change = "ALTER TABLE events ALTER data_bytes TYPE text USING null";
    stack.pool.execute(change).await.unwrap();
    assert_refused(&stack, &[], &["events", "data_bytes of type bytea"]).await;
    let change = "ALTER TABLE events ALTER data_bytes TYPE bytea USING null; \
         ALTER TABLE events DROP CONSTRAINT events_pkey";
    stack.pool.execute(change).await.unwrap();
    assert_refused(&stack, &[], &["events", "unique index on id, source, time"]).await;
}

const GUARD: &str = "refuse_copy_of_decided";

/// Without it, a `COPY` can store a row of a message that is a dead letter.
#[tokio::test]
async fn a_trigger_of_ours_that_somebody_disables_is_named_with_what_to_do() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let words = [GUARD, "disabled", "ENABLE TRIGGER"];
    for disable in [
        "DISABLE TRIGGER refuse_copy_of_decided",
        "DISABLE TRIGGER ALL",
        "ENABLE REPLICA TRIGGER refuse_copy_of_decided",
    ] {
        let disable = format!("ALTER TABLE events {disable}");
        stack.pool.execute(disable.as_str()).await.unwrap();
        eventually("it is not ready", || async {
            let (status, body) = ganesh.admin("/readyz").await;
            status == 503 && words.iter().all(|word| body.contains(word))
        })
        .await;
        assert_refused(&stack, &[], &words).await;
        let enable = "ALTER TABLE events ENABLE TRIGGER ALL";
        stack.pool.execute(enable).await.unwrap();
        ganesh.wait_until_ready().await;
    }
    // It fires under every role of a session.
    let always = format!("ALTER TABLE events ENABLE ALWAYS TRIGGER {GUARD}");
    stack.pool.execute(always.as_str()).await.unwrap();
    let doctor = run(Some(&stack), &["doctor"], &[]);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
}

#[tokio::test]
async fn keys_and_triggers_of_ours_that_somebody_changed_are_named() {
    let stack = Stack::start().await;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let function: String = sqlx::query_scalar("SELECT pg_get_functiondef($1::regproc)")
        .bind(GUARD)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    let trigger = |condition: &str| {
        format!(
            "CREATE OR REPLACE TRIGGER {GUARD} BEFORE INSERT ON events FOR EACH STATEMENT \
             WHEN ({condition}) EXECUTE FUNCTION {GUARD}()"
        )
    };
    let blind = format!(
        "CREATE OR REPLACE FUNCTION {GUARD}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    );
    let elsewhere = format!("ALTER FUNCTION {GUARD} SET search_path = pg_catalog");
    let deferrable = "ALTER TABLE events DROP CONSTRAINT events_pkey, \
         ADD CONSTRAINT events_pkey PRIMARY KEY (id, source, time) DEFERRABLE";
    let immediate = "ALTER TABLE events DROP CONSTRAINT events_pkey, \
         ADD CONSTRAINT events_pkey PRIMARY KEY (id, source, time)";
    let restored = trigger("current_query() LIKE 'COPY %'");
    for (change, repair, words) in [
        (
            trigger("false"),
            restored.clone(),
            [GUARD, "trigger", "changed"],
        ),
        (blind, function.clone(), [GUARD, "function", "changed"]),
        (elsewhere, function, [GUARD, "function", "changed"]),
        (
            "ALTER TABLE fates RENAME TO decided".to_owned(),
            "ALTER TABLE decided RENAME TO fates".to_owned(),
            ["fates", "missing", "unique"],
        ),
        (
            deferrable.to_owned(),
            immediate.to_owned(),
            ["events", "deferrable", "id, source, time"],
        ),
        (
            format!("DROP TRIGGER {GUARD} ON events"),
            restored,
            [GUARD, "trigger", "missing"],
        ),
        (
            "ALTER TABLE fates DROP CONSTRAINT fates_pkey".to_owned(),
            String::new(),
            ["fates", "unique", "stream_seq"],
        ),
    ] {
        assert_named(&stack, (&change, &repair), words).await;
    }
}

/// `doctor` fails with these words between a change and its repair.
async fn assert_named(stack: &Stack, (change, repair): (&str, &str), words: [&str; 3]) {
    stack.pool.execute(change).await.unwrap();
    let doctor = run(Some(stack), &["doctor"], &[]);
    let said = String::from_utf8(doctor.stdout).unwrap();
    let fits =
        |line: &str| line.starts_with("FAILED") && words.iter().all(|word| line.contains(word));
    assert!(said.lines().any(fits), "{change}: {said}");
    stack.pool.execute(repair).await.unwrap();
}

#[tokio::test]
async fn what_marks_rows_for_streams_is_named_when_somebody_changed_it() {
    let stack = Stack::start().await;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    for (change, repair, words) in [
        (
            "ALTER FUNCTION mark_for_tail SET search_path = pg_catalog",
            "ALTER FUNCTION mark_for_tail SET search_path = public, pg_temp",
            ["function", "mark_for_tail", "changed"],
        ),
        (
            "ALTER TABLE events DISABLE TRIGGER mark_for_tail",
            "ALTER TABLE events ENABLE TRIGGER mark_for_tail",
            ["trigger", "mark_for_tail", "disabled"],
        ),
        (
            "ALTER TABLE events RENAME stored_in TO stored_by",
            "ALTER TABLE events RENAME stored_by TO stored_in",
            ["column", "stored_in", "DEFAULT"],
        ),
        (
            "ALTER TABLE tail DROP CONSTRAINT tail_pkey",
            "ALTER TABLE tail ADD PRIMARY KEY (singleton)",
            ["tail", "unique", "singleton"],
        ),
    ] {
        assert_named(&stack, (change, repair), words).await;
    }
}

#[tokio::test]
async fn everything_works_in_a_schema_with_an_odd_name() {
    let stack = Stack::start().await;
    let settings = [("GANESH_POSTGRES_SCHEMA", "Tenant-7")];
    let ganesh = stack.serve(&settings).await;
    let mut late = event("late");
    // Next week's partition is not there yet, and then made from what waits.
    late.time = Timestamp::from_micros(Timestamp::now().micros() + 7 * 86_400_000_000);
    let mut all = events("e", 100);
    all.push(late.clone());
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    assert_eq!(count(&stack, r#""Tenant-7".events"#).await, 101);
    let answer = reqwest::get(format!("{}/v1/events/late", ganesh.api)).await;
    assert_eq!(answer.unwrap().status().as_u16(), 200);
    let today = partition_of(Timestamp::now(), PartitionInterval::Day).name;
    let today = format!(r#""Tenant-7".{today}"#);
    assert_eq!(count(&stack, &today).await, 100);
    let doctor = run(Some(&stack), &["doctor"], &settings);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
    let in_public = "pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(count(&stack, in_public).await, 0);
}

/// The tables of two deployments, in one database: each uses its own.
#[tokio::test]
async fn a_second_deployment_with_tables_of_its_own_is_no_mistake() {
    let stack = Stack::start().await;
    for schema in ["one", "two"] {
        migrate_into(&stack, schema).await;
    }
    let _ganesh = stack.serve(&[("GANESH_POSTGRES_SCHEMA", "two")]).await;
    publish(&stack.jetstream().await, &events("e", 10)).await;
    stack.wait_until_drained().await;
    assert_eq!(count(&stack, "two.events").await, 10);
    assert_eq!(count(&stack, "one.events").await, 0);
}

#[tokio::test]
async fn a_role_that_may_not_make_the_schema_is_told_what_to_grant() {
    let stack = Stack::start().await;
    let role = format!("narrow_{}", std::process::id());
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD 'narrow'");
    stack.pool.execute(make.as_str()).await.unwrap();
    let url = stack
        .database_url
        .replace("ganesh:ganesh@", &format!("{role}:narrow@"));
    let settings = [
        ("POSTGRES_URL", url.as_str()),
        ("GANESH_POSTGRES_SCHEMA", "missing"),
    ];
    assert_refused(&stack, &settings, &["schema missing", "CREATE SCHEMA"]).await;
    let drop = format!("DROP ROLE {role}");
    stack.pool.execute(drop.as_str()).await.unwrap();
}
