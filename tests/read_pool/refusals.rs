//! A URL of reads that cannot be gone by costs reads and nothing else: they say what is wrong, and come back by
//! themselves.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::http::client::{get, store};
use crate::support::events::{event, events, publish};
use crate::support::ganesh::run;
use crate::support::proxy::Proxy;
use crate::support::reads::{ago, latest, of};
use crate::support::servers::Server;
use crate::support::stack::read_url;
use crate::support::{Ganesh, Stack, eventually};

const REFUSED: &str = "ganesh_reads_refused";

fn contains_all(text: &str, words: &[&str]) -> bool {
    words.iter().all(|word| text.contains(word))
}

/// Whoever watches over ganesh is told. It is ready.
async fn assert_warned(ganesh: &Ganesh, words: &[&str]) {
    assert!((ganesh.metric(REFUSED).await - 1.0).abs() < f64::EPSILON);
    let (status, body) = ganesh.admin("/readyz").await;
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "ready");
    assert!(contains_all(&body["warnings"].to_string(), words), "{body}");
    assert!(ganesh.log().lines().any(|line| contains_all(line, words)));
}

/// Reads are answered with 503 and these words, and events are stored.
async fn assert_refused(stack: &Stack, ganesh: &Ganesh, words: &[&str]) {
    eventually(&format!("{words:?} is said"), || async {
        let answer = get(ganesh, "/v1/events?limit=1").await;
        answer.status == 503 && contains_all(&answer.body, words)
    })
    .await;
    for path in ["/v1/events/e", "/v1/subjects/none/latest", "/v1/stats"] {
        let answer = get(ganesh, path).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert!(contains_all(&answer.body, words), "{path}: {answer:?}");
    }
    assert_warned(ganesh, words).await;
    let rows = stack.rows().await;
    let id = format!("beside-{rows}");
    publish(&stack.jetstream().await, &[event(&id)]).await;
    stack.wait_for_rows(rows + 1).await;
}

async fn assert_answered_again(ganesh: &Ganesh) {
    eventually("reads are answered", || async {
        get(ganesh, "/v1/events?limit=1").await.status == 200
    })
    .await;
    eventually("nobody is warned", || async {
        ganesh.metric(REFUSED).await < f64::EPSILON
    })
    .await;
    let (_, body) = ganesh.admin("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["warnings"], serde_json::json!([]));
}

/// `doctor` fails with these words.
fn assert_found(stack: &Stack, url: &str, words: &[&str]) {
    let output = run(Some(stack), &["doctor"], &[("POSTGRES_READ_URL", url)]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let fits = |line: &str| line.starts_with("FAILED") && contains_all(line, words);
    assert!(said.lines().any(fits), "{words:?}: {said}");
}

#[tokio::test]
async fn a_reader_that_gets_no_session_costs_reads_and_nothing_else() {
    let stack = Stack::start_with_own_postgres().await;
    let url = read_url(&stack.database_url);
    let wrong = url.replace("reader:reader@", "reader:hunter2@");
    let ganesh = stack.serve(&[("POSTGRES_READ_URL", &wrong)]).await;
    let words = ["POSTGRES_READ_URL", "password authentication failed"];
    assert_refused(&stack, &ganesh, &words).await;
    assert!(!ganesh.log().contains("hunter2"));
    assert_found(&stack, &wrong, &words);
    let alter = "ALTER ROLE reader PASSWORD 'hunter2' CONNECTION LIMIT 40";
    stack.pool.execute(alter).await.unwrap();
    assert_answered_again(&ganesh).await;
    ganesh.terminate().await;

    let alter = "ALTER ROLE reader PASSWORD 'reader' CONNECTION LIMIT 0";
    stack.pool.execute(alter).await.unwrap();
    let ganesh = stack.serve(&[("POSTGRES_READ_URL", &url)]).await;
    let words = ["POSTGRES_READ_URL", "too many connections"];
    assert_refused(&stack, &ganesh, &words).await;
    assert_found(&stack, &url, &["too many connections", "CONNECTION LIMIT"]);
    // Fewer than its four: those it gets are used.
    let alter = "ALTER ROLE reader CONNECTION LIMIT 2";
    stack.pool.execute(alter).await.unwrap();
    assert_answered_again(&ganesh).await;
    let alter = "ALTER ROLE reader CONNECTION LIMIT 40";
    stack.pool.execute(alter).await.unwrap();
    ganesh.terminate().await;
}

#[tokio::test]
async fn a_reader_that_may_not_read_all_costs_the_reads_that_need_it() {
    let stack = Stack::start_with_own_postgres().await;
    let url = read_url(&stack.database_url);
    let ganesh = stack.serve(&[("POSTGRES_READ_URL", &url)]).await;
    assert_eq!(get(&ganesh, "/v1/events?limit=1").await.status, 200);
    // Room for its sessions, and one to look for the reason.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader'";
    let open: i64 = sqlx::query_scalar(open)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!((1..4).contains(&open), "{open}");
    let limit = open + 1;
    let revoke =
        format!("REVOKE SELECT ON fates FROM reader; ALTER ROLE reader CONNECTION LIMIT {limit}");
    stack.pool.execute(revoke.as_str()).await.unwrap();
    let words = [
        "the role of POSTGRES_READ_URL may not read",
        "GRANT USAGE ON SCHEMA public",
        "fates",
    ];
    ganesh.wait_for_metric(REFUSED, 1.0).await;
    assert_warned(&ganesh, &words).await;
    // It looks each second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_warned(&ganesh, &words).await;
    assert_eq!(get(&ganesh, "/v1/events?limit=1").await.status, 200);
    let unlimited = "ALTER ROLE reader CONNECTION LIMIT 40";
    stack.pool.execute(unlimited).await.unwrap();
    assert_found(&stack, &url, &words);
    let grant = "GRANT SELECT ON fates TO reader";
    stack.pool.execute(grant).await.unwrap();
    assert_answered_again(&ganesh).await;
}

#[tokio::test]
async fn reads_of_another_database_are_refused() {
    let stack = Stack::start_with_own_postgres().await;
    stack.make_streams().await;
    stack.pool.execute("CREATE DATABASE other").await.unwrap();
    let other = read_url(&stack.database_url).replacen("/ganesh", "/other", 1);
    let ganesh = stack.serve(&[("POSTGRES_READ_URL", &other)]).await;
    let words = ["POSTGRES_READ_URL leads to another database than POSTGRES_URL"];
    assert_refused(&stack, &ganesh, &words).await;
    assert_found(&stack, &other, &words);
}

#[tokio::test]
async fn a_url_of_reads_that_is_none_ends_serve() {
    let stack = Stack::start().await;
    let mut ganesh = Ganesh::serve(&stack, &[("POSTGRES_READ_URL", "postgresql://:x")]);
    let status = ganesh.wait().await;
    assert_eq!(status.code(), Some(2), "{}", ganesh.log());
}

/// A copy of the stack's Postgres that follows it, and its URL. Both answer.
async fn standby_of(stack: &mut Stack) -> (Server, String) {
    let standby = stack.postgres.as_mut().unwrap().copy_as_standby();
    let on_standby = format!(
        "postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh",
        standby.port()
    );
    for url in [&on_standby, &stack.database_url] {
        eventually("it answers", || async {
            PgConnection::connect(url).await.is_ok()
        })
        .await;
    }
    (standby, on_standby)
}

/// A standby has the same database, and later; when it is promoted, it is another server with the same
/// identity, whose rows are old.
#[tokio::test]
async fn reads_of_a_standby_are_refused_before_and_after_it_is_promoted() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[of("s", "old", ago(10_000))]).await;
    ganesh.terminate().await;
    let (_standby, on_standby) = standby_of(&mut stack).await;
    let url = read_url(&on_standby);
    let ganesh = stack.serve(&[("POSTGRES_READ_URL", &url)]).await;
    store(&stack, &[of("s", "new", ago(5_000))]).await;
    assert_refused(
        &stack,
        &ganesh,
        &["POSTGRES_READ_URL", "standby", "Name the primary"],
    )
    .await;
    let mut standby = PgConnection::connect(&on_standby).await.unwrap();
    standby.execute("SELECT pg_promote()").await.unwrap();
    let words = ["POSTGRES_READ_URL leads to another server than POSTGRES_URL"];
    assert_refused(&stack, &ganesh, &words).await;
    assert_eq!(latest(&ganesh, "s").await.status, 503);
    assert_found(&stack, &url, &words);
}

/// Sessions of reads that are open stay with the old primary.
#[tokio::test]
async fn after_a_failover_nothing_is_read_from_the_old_primary() {
    let mut stack = Stack::start_with_own_postgres().await;
    let first = stack.serve(&[]).await;
    store(&stack, &[of("s", "old", ago(10_000))]).await;
    first.terminate().await;
    let (standby, on_standby) = standby_of(&mut stack).await;
    let own = stack.postgres.as_ref().unwrap().port();
    let proxy = Proxy::start(own).await;
    let through = format!("postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh", proxy.port);
    let url = read_url(&stack.database_url);
    let settings = [
        ("POSTGRES_URL", through.as_str()),
        ("POSTGRES_READ_URL", url.as_str()),
    ];
    let ganesh = stack.serve(&settings).await;
    assert_eq!(get(&ganesh, "/v1/events?limit=1").await.status, 200);
    assert_eq!(get(&ganesh, "/v1/events/old").await.status, 200);
    let mut promoted = PgConnection::connect(&on_standby).await.unwrap();
    promoted.execute("SELECT pg_promote()").await.unwrap();
    proxy.lead_to(standby.port());
    proxy.cut();
    publish(&stack.jetstream().await, &[of("s", "new", ago(5_000))]).await;
    stack.wait_until_drained().await;
    for _ in 0..8 {
        let answer = latest(&ganesh, "s").await;
        assert_eq!((answer.status, answer.id), (503, None));
    }
    let answer = get(&ganesh, "/v1/events?limit=1").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let words = "POSTGRES_READ_URL leads to another server than POSTGRES_URL";
    assert!(answer.body.contains(words), "{answer:?}");
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    // Whoever names the new one reads on.
    let other = read_url(&on_standby);
    let settings = [
        ("POSTGRES_URL", through.as_str()),
        ("POSTGRES_READ_URL", other.as_str()),
    ];
    let second = stack.serve(&settings).await;
    let answer = latest(&second, "s").await;
    assert_eq!(answer.id.as_deref(), Some("new"));
    publish(&stack.jetstream().await, &events("more", 10)).await;
    stack.wait_until_drained().await;
}
