//! What the roles of deploy/postgres/roles.sql may do, and what not, on a real Postgres: that of
//! `make up`, whose script runs the same statements when it makes the cluster.

use sqlx::{Connection, Executor, PgConnection};

use crate::http::client::get;
use crate::support::Stack;
use crate::support::ganesh::run;
use crate::support::stack::read_url;

/// Its password is its name, where no compose says another.
async fn connect_as(url: &str, role: &str) -> PgConnection {
    let url = url.replace("ganesh:ganesh@", &format!("{role}:{role}@"));
    PgConnection::connect(&url).await.unwrap()
}

/// The SQLSTATE with which it is refused.
async fn refusal(connection: &mut PgConnection, statement: &str) -> String {
    let error = connection.execute(statement).await.expect_err(statement);
    let error = error.into_database_error().expect("Postgres answers");
    error
        .code()
        .expect("Postgres names a SQLSTATE")
        .into_owned()
}

const INSUFFICIENT_PRIVILEGE: &str = "42501";
const READ_ONLY_TRANSACTION: &str = "25006";

#[tokio::test]
async fn grafana_reads_events_and_nothing_else_and_the_exporter_only_statistics() {
    let stack = Stack::start_with_own_postgres().await;
    let url = &stack.database_url;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let mut grafana = connect_as(url, "grafana").await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&mut grafana)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    for table in [
        "cache_epoch",
        "fates",
        "trials",
        "_sqlx_migrations",
        "events_default",
    ] {
        let read = format!("SELECT 1 FROM {table}");
        assert_eq!(
            refusal(&mut grafana, &read).await,
            INSUFFICIENT_PRIVILEGE,
            "{table}"
        );
    }
    assert_eq!(
        refusal(&mut grafana, "CREATE TEMP TABLE t ()").await,
        READ_ONLY_TRANSACTION
    );
    // Whoever turns that off still may not write.
    grafana
        .execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    assert_eq!(
        refusal(&mut grafana, "DELETE FROM events").await,
        INSUFFICIENT_PRIVILEGE
    );
    let timeout: String = sqlx::query_scalar("SHOW statement_timeout")
        .fetch_one(&mut grafana)
        .await
        .unwrap();
    assert_eq!(timeout, "5s");

    let mut exporter = connect_as(url, "exporter").await;
    assert_eq!(
        refusal(&mut exporter, "SELECT 1 FROM events").await,
        INSUFFICIENT_PRIVILEGE
    );
    exporter
        .execute("SELECT count(*) FROM pg_ls_waldir()")
        .await
        .unwrap();
}

#[tokio::test]
async fn the_reader_reads_what_the_api_reads_and_nothing_else() {
    let stack = Stack::start_with_own_postgres().await;
    let url = &stack.database_url;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let mut reader = connect_as(url, "reader").await;
    for table in ["events", "events_default", "cache_epoch", "fates"] {
        let read = format!("SELECT 1 FROM {table}");
        reader.execute(read.as_str()).await.unwrap();
    }
    for table in ["trials", "_sqlx_migrations"] {
        let read = format!("SELECT 1 FROM {table}");
        assert_eq!(refusal(&mut reader, &read).await, INSUFFICIENT_PRIVILEGE);
    }
    assert_eq!(
        refusal(&mut reader, "CREATE TEMP TABLE t ()").await,
        READ_ONLY_TRANSACTION
    );
    reader
        .execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    for write in [
        "DELETE FROM events",
        "TRUNCATE events",
        "CREATE TABLE public.t ()",
    ] {
        assert_eq!(refusal(&mut reader, write).await, INSUFFICIENT_PRIVILEGE);
    }
}

/// The script as psql would send it.
fn script(schema: &str) -> String {
    let script = include_str!("../deploy/postgres/roles.sql");
    let statements = script.lines().filter(|line| !line.starts_with('\\'));
    let mut statements = statements.collect::<Vec<_>>().join("\n");
    for role in ["reader", "grafana", "exporter"] {
        let password = format!(":'{role}_password'");
        statements = statements.replace(&password, &format!("'{role}'"));
    }
    statements.replace(":'schema'", &format!("'{schema}'"))
}

/// Twice: a cluster or a volume may be older than a role, and compose runs it at each start.
async fn run_script(stack: &Stack, schema: &str) {
    for _ in 0..2 {
        let ran = sqlx::raw_sql(&script(schema)).execute(&stack.pool).await;
        ran.unwrap();
    }
}

async fn may_read(stack: &Stack, role: &str, table: &str) -> bool {
    let may = "SELECT has_table_privilege($1, $2, 'SELECT')";
    let may = sqlx::query_scalar(may).bind(role).bind(table);
    may.fetch_one(&stack.pool).await.unwrap()
}

#[tokio::test]
async fn the_script_runs_again_at_any_time() {
    let stack = Stack::start_with_own_postgres().await;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let drop = "DROP OWNED BY reader, grafana; DROP ROLE reader; DROP ROLE grafana";
    stack.pool.execute(drop).await.unwrap();
    // Empty is the default.
    run_script(&stack, "").await;
    for role in ["reader", "grafana"] {
        let mut connection = connect_as(&stack.database_url, role).await;
        connection.execute("SELECT 1 FROM events").await.unwrap();
    }
}

#[tokio::test]
async fn the_script_grants_what_is_there_and_fails_for_nothing_that_is_not() {
    let stack = Stack::start_with_own_postgres().await;
    // Before there are tables; the trigger sees them made.
    let empty = "DROP EVENT TRIGGER let_roles_read; DROP FUNCTION let_roles_read()";
    stack.pool.execute(empty).await.unwrap();
    run_script(&stack, "public").await;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    for table in ["events", "events_default", "cache_epoch", "fates"] {
        assert!(may_read(&stack, "reader", table).await, "{table}");
    }
    let forget = "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM reader, grafana; \
        ALTER TABLE events DETACH PARTITION events_default";
    stack.pool.execute(forget).await.unwrap();
    run_script(&stack, "public").await;
    for table in ["events", "events_default", "cache_epoch", "fates"] {
        assert!(may_read(&stack, "reader", table).await, "{table}");
    }
    // A partition of another name, whose lock a search asks for.
    let other = "DROP TABLE events_default; CREATE TABLE others (LIKE events INCLUDING ALL); \
        ALTER TABLE events ATTACH PARTITION others DEFAULT";
    stack.pool.execute(other).await.unwrap();
    run_script(&stack, "public").await;
    assert!(may_read(&stack, "reader", "others").await);
    assert!(!may_read(&stack, "grafana", "others").await);
    for table in ["fates", "cache_epoch", "events"] {
        let drop = format!("DROP TABLE {table} CASCADE");
        stack.pool.execute(drop.as_str()).await.unwrap();
        run_script(&stack, "public").await;
    }
}

/// Whoever makes tables, of these names too, in another schema is not disturbed, and shows them to nobody.
#[tokio::test]
async fn the_script_grants_in_the_schema_of_ganesh_alone() {
    let stack = Stack::start_with_own_postgres().await;
    run_script(&stack, "own").await;
    let url = read_url(&stack.database_url);
    let settings = [
        ("GANESH_POSTGRES_SCHEMA", "own"),
        ("POSTGRES_READ_URL", url.as_str()),
    ];
    let ganesh = stack.serve(&settings).await;
    assert_eq!(get(&ganesh, "/v1/events?limit=1").await.status, 200);
    let doctor = run(Some(&stack), &["doctor"], &settings);
    assert!(doctor.status.success(), "{doctor:?}");
    let mut grafana = connect_as(&stack.database_url, "grafana").await;
    grafana.execute("SELECT 1 FROM events").await.unwrap();
    let others = "CREATE TABLE public.events (); CREATE TABLE own.unknown ()";
    stack.pool.execute(others).await.unwrap();
    for table in ["public.events", "own.unknown", "own.trials"] {
        for role in ["reader", "grafana"] {
            assert!(!may_read(&stack, role, table).await, "{role}: {table}");
        }
    }
    // The same where the tables are there first.
    let revoke = "REVOKE ALL ON ALL TABLES IN SCHEMA own FROM reader, grafana; \
        REVOKE ALL ON SCHEMA own FROM reader, grafana";
    stack.pool.execute(revoke).await.unwrap();
    run_script(&stack, "own").await;
    let doctor = run(Some(&stack), &["doctor"], &settings);
    assert!(doctor.status.success(), "{doctor:?}");
}

/// Whoever makes a table can have any `search_path`, with functions of others in it.
#[tokio::test]
async fn the_script_calls_no_function_that_a_search_path_leads_to() {
    let stack = Stack::start_with_own_postgres().await;
    let trap = "CREATE SCHEMA trap; CREATE TABLE trap.sprung (); \
        CREATE FUNCTION trap.format(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
            INSERT INTO trap.sprung DEFAULT VALUES; \
            RETURN pg_catalog.format($1, VARIADIC ARRAY[$2]); \
        END $$";
    stack.pool.execute(trap).await.unwrap();
    let mut session = PgConnection::connect(&stack.database_url).await.unwrap();
    let make = "SET search_path = trap, public; CREATE TABLE public.fates ()";
    session.execute(make).await.unwrap();
    assert!(may_read(&stack, "reader", "public.fates").await);
    let sprung = "SELECT count(*) FROM trap.sprung";
    let sprung: i64 = sqlx::query_scalar(sprung)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(sprung, 0);
}
