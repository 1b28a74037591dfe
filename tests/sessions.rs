//! What a session with Postgres has to have: set by statement, verified, and refused where it cannot be had.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::support::events::{events, publish};
use crate::support::ganesh::run;
use crate::support::proxy::Proxy;
use crate::support::servers::{Server, postgres_with};
use crate::support::{Ganesh, Stack, eventually};

/// Settings of a role that has other clients in mind.
const LAX: &str = "\
    CREATE ROLE lax SUPERUSER LOGIN PASSWORD 'lax'; \
    ALTER ROLE lax SET synchronous_commit = off; \
    ALTER ROLE lax SET statement_timeout = '7s'; \
    ALTER ROLE lax SET lock_timeout = '10ms'; \
    ALTER ROLE lax SET idle_in_transaction_session_timeout = '5s'; \
    ALTER ROLE lax SET transaction_timeout = '6s'; \
    ALTER ROLE lax SET default_transaction_isolation = 'serializable'; \
    ALTER ROLE lax SET search_path = 'pg_catalog'; \
    ALTER ROLE lax SET session_replication_role = 'replica'; \
    ALTER ROLE lax SET client_encoding = 'LATIN1'";

/// Notes under which settings each row is written, unless triggers do not run.
const NOTE: &str = "\
    CREATE TABLE public.noted (setting text PRIMARY KEY); \
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    INSERT INTO public.noted SELECT name || ' = ' || current_setting(name) FROM unnest(ARRAY[ \
        'synchronous_commit', 'statement_timeout', 'lock_timeout', 'transaction_timeout', \
        'idle_in_transaction_session_timeout', 'transaction_isolation', 'search_path', \
        'client_encoding', 'TimeZone', 'application_name', 'session_replication_role']) AS name ON CONFLICT DO NOTHING; \
    RETURN NEW; END $$; \
    CREATE TRIGGER note BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.note()";

const EXPECTED: [&str; 11] = [
    "TimeZone = UTC",
    "application_name = ganesh",
    "client_encoding = UTF8",
    "idle_in_transaction_session_timeout = 0",
    "lock_timeout = 25s",
    "search_path = public",
    "session_replication_role = origin",
    "statement_timeout = 30s",
    "synchronous_commit = on",
    "transaction_isolation = read committed",
    "transaction_timeout = 0",
];

fn bouncer(stack: &Stack, settings: &[(&'static str, &str)]) -> Server {
    let port = url::Url::parse(&stack.database_url).unwrap().port();
    let port = port.unwrap().to_string();
    Server::start(
        "pgbouncer",
        &[&[("SERVER_PORT", &*port)], settings].concat(),
    )
}

/// The stack's database by way of another port.
fn by(stack: &Stack, port: u16) -> String {
    let mut url = url::Url::parse(&stack.database_url).unwrap();
    url.set_port(Some(port)).unwrap();
    url.into()
}

async fn execute(stack: &Stack, statement: &str) {
    stack.pool.execute(statement).await.unwrap();
}

#[tokio::test]
async fn whatever_a_role_or_a_pooler_has_set_rows_are_written_under_our_settings() {
    let stack = Stack::start_with_own_postgres().await;
    execute(&stack, LAX).await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    execute(&stack, NOTE).await;
    let dropping = [
        ("SERVER_USER", "lax"),
        ("IGNORE", "options,extra_float_digits"),
    ];
    // One as its packages configure it, and one that drops what it does not know.
    let plain = bouncer(&stack, &[("SERVER_USER", "lax"), ("ADD_HOST", "1")]);
    let dropping = bouncer(&stack, &dropping);
    let direct = stack.database_url.replace("ganesh:ganesh@", "lax:lax@");
    for (url, way) in [
        (direct, "direct"),
        (by(&stack, plain.port()), "plain"),
        (by(&stack, dropping.port()), "dropping"),
    ] {
        execute(&stack, "TRUNCATE public.noted").await;
        let ganesh = stack.serve(&[("POSTGRES_URL", &url)]).await;
        // By INSERT, and by COPY.
        publish(&stack.jetstream().await, &events(way, 1)).await;
        stack.wait_until_drained().await;
        publish(
            &stack.jetstream().await,
            &events(&format!("{way}-more"), 500),
        )
        .await;
        stack.wait_until_drained().await;
        let noted: Vec<String> =
            sqlx::query_scalar("SELECT setting FROM public.noted ORDER BY setting COLLATE \"C\"")
                .fetch_all(&stack.pool)
                .await
                .unwrap();
        let mut noted: Vec<String> = noted
            .into_iter()
            .map(|line| line.replace('"', ""))
            .collect();
        noted.sort();
        assert_eq!(noted, EXPECTED, "{way}");
        assert!(ganesh.terminate().await.success());
    }
    assert_eq!(stack.rows().await, 3 * 501);
}

#[tokio::test]
async fn a_stronger_promise_of_the_server_is_kept() {
    let stack = Stack::start_with_own_postgres().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    execute(&stack, NOTE).await;
    let stronger = "ALTER ROLE ganesh SET synchronous_commit = remote_apply";
    execute(&stack, stronger).await;
    let _ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("e", 10)).await;
    stack.wait_until_drained().await;
    let kept = "SELECT setting FROM public.noted WHERE setting LIKE 'synchronous_commit%'";
    let kept: Vec<String> = sqlx::query_scalar(kept)
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(kept, ["synchronous_commit = remote_apply"]);
}

/// Each command fails with these words in one line; `serve` and `migrate` with exit code 2.
async fn assert_refused(stack: &Stack, url: &str, words: &[&str]) {
    let fits = |line: &str| words.iter().all(|word| line.contains(word));
    let settings = [("POSTGRES_URL", url)];
    for (command, code) in [("doctor", 1), ("migrate", 2)] {
        let output = run(Some(stack), &[command], &settings);
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        let said = said.concat();
        assert_eq!(output.status.code(), Some(code), "{command}: {said}");
        assert!(said.lines().any(fits), "{command}: {said}");
    }
    let mut ganesh = Ganesh::serve(stack, &settings);
    let status = ganesh.wait().await;
    let log = ganesh.log();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.lines().any(fits), "{log}");
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_with_what_works() {
    let stack = Stack::start().await;
    for mode in ["transaction", "statement"] {
        let settings = [
            ("POOL_MODE", mode),
            ("IGNORE", "options,extra_float_digits"),
        ];
        let bouncer = bouncer(&stack, &settings);
        let words = ["pooler", "pool_mode = session"];
        assert_refused(&stack, &by(&stack, bouncer.port()), &words).await;
    }
}

#[tokio::test]
async fn databases_that_cannot_hold_every_text_are_refused_at_start() {
    let stack = Stack::start_with_own_postgres().await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = format!("db_{}", encoding.to_lowercase());
        let make =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        execute(&stack, &make).await;
        let url = stack.database_url.replace("/ganesh", &format!("/{name}"));
        let url = url.replacen(&format!("/{name}:"), "/ganesh:", 1);
        assert_refused(&stack, &url, &[encoding, "expected UTF8"]).await;
    }
}

#[tokio::test]
async fn after_a_failover_to_a_server_that_can_lose_commits_nothing_is_written_there() {
    let stack = Stack::start_with_own_postgres().await;
    let proxy = Proxy::start(stack.postgres.as_ref().unwrap().port()).await;
    let ganesh = stack
        .serve(&[("POSTGRES_URL", &by(&stack, proxy.port))])
        .await;
    let other = postgres_with(&[("POSTGRES_ARGS", "-c fsync=off")]);
    let other_url = format!(
        "postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh",
        other.port()
    );
    eventually("it answers", || async {
        PgConnection::connect(&other_url).await.is_ok()
    })
    .await;
    proxy.lead_to(other.port());
    proxy.cut();
    publish(&stack.jetstream().await, &events("e", 100)).await;
    eventually("it says why it is not ready", || async {
        let (status, body) = ganesh.admin("/readyz").await;
        status == 503 && body.contains("fsync = off")
    })
    .await;
    proxy.lead_to(stack.postgres.as_ref().unwrap().port());
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    ganesh.wait_until_ready().await;
}
