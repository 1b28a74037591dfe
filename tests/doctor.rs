//! `ganesh doctor`: one line a finding, with the fix; the exit code says whether something
//! failed. `ganesh healthcheck`: whether a `serve` is ready.

use std::process::{Output, Stdio};
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use sqlx::Executor;

use crate::support::events::{events, publish};
use crate::support::ganesh::{command, run};
use crate::support::servers::{Server, write_nats_conf};
use crate::support::{Ganesh, Stack};

/// Its exit code, and its lines.
fn doctor(stack: &Stack, settings: &[(&str, &str)]) -> (i32, String) {
    let output = run(Some(stack), &["doctor"], settings);
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), text.concat())
}

fn assert_line(said: &str, verdict: &str, words: &[&str]) {
    let fits =
        |line: &str| line.starts_with(verdict) && words.iter().all(|word| line.contains(word));
    assert!(
        said.lines().any(fits),
        "no line {verdict} {words:?} in\n{said}"
    );
}

#[tokio::test]
async fn whoever_closes_its_pipe_does_not_make_it_fail() {
    let stack = Stack::start().await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut doctor = command(Some(&stack), &["doctor"], &[]);
    let output = doctor.stdout(writer).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_what_serve_made() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let (code, said) = doctor(&stack, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("FAILED"), "{said}");
    assert_line(&said, "ok", &["nats", "server 2.", &stack.nats_url()]);
    assert_line(&said, "ok", &["jetstream", "EVENTS is fit"]);
    assert_line(&said, "ok", &["jetstream", "EVENTS_DLQ is fit"]);
    assert_line(&said, "ok", &["jetstream", "OBJ_EVENTS_DLQ is fit"]);
    assert_line(&said, "ok", &["jetstream", "ganesh is fit"]);
    assert_line(&said, "ok", &["postgres", "server 17."]);
    assert_line(
        &said,
        "ok",
        &[
            "postgres",
            "the schema is up to date, and this role may use it",
        ],
    );
    assert_line(&said, "ok", &["cache", &stack.redis_url()]);
    // What a limit removes before it was stored is lost, so that is said even when all is well.
    assert_line(
        &said,
        "warning",
        &[
            "EVENTS",
            "max_age 604800s",
            "max_bytes 10737418240",
            "raise them",
        ],
    );
}

#[tokio::test]
async fn doctor_says_what_serve_will_make() {
    let stack = Stack::start().await;
    let (code, said) = doctor(&stack, &[]);
    assert_eq!(code, 0, "{said}");
    assert_line(
        &said,
        "ok",
        &["stream EVENTS does not exist yet; serve makes it"],
    );
    assert_line(
        &said,
        "ok",
        &["stream EVENTS_DLQ does not exist yet; serve makes it"],
    );
    assert_line(
        &said,
        "ok",
        &["stream OBJ_EVENTS_DLQ does not exist yet; serve makes it"],
    );
    assert_line(
        &said,
        "warning",
        &["5 migrations are missing: run `ganesh migrate`"],
    );
}

#[tokio::test]
async fn doctor_fails_and_says_the_fix_when_nats_or_postgres_is_away() {
    let mut stack = Stack::start().await;
    stack.nats.kill();
    let settings = [("POSTGRES_URL", "postgresql://u:hunter2@127.0.0.1:1/db")];
    let (code, said) = doctor(&stack, &settings);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        "FAILED",
        &["nats", &stack.nats_url(), "start it, or correct NATS_URL"],
    );
    let words = [
        "postgres",
        "127.0.0.1:1/[redacted]",
        "Connection refused",
        "start it, or correct POSTGRES_URL",
    ];
    assert_line(&said, "FAILED", &words);
    assert!(said.contains("2 checks failed"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn doctor_tells_wrong_credentials_from_a_server_that_is_away() {
    let mut stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("nats.conf");
    write_nats_conf(&config, "authorization { user: me, password: hunter2 }");
    stack.nats = Server::start("nats", &[("NATS_CONF", config.to_str().unwrap())]);
    let wrong = stack
        .database_url
        .replace("ganesh:ganesh@", "ganesh:hunter2@");
    let (code, said) = doctor(&stack, &[("POSTGRES_URL", &wrong)]);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        "FAILED",
        &["nats", "authorization violation", "NATS_URL"],
    );
    let words = [
        "password authentication failed",
        "correct user and password in POSTGRES_URL",
    ];
    assert_line(&said, "FAILED", &words);
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn doctor_fails_for_a_role_that_lacks_a_permission_and_says_which() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let role = format!("clerk_{}", std::process::id());
    let statement =
        async |text: String| stack.pool.execute(text.as_str()).await.map(|_| ()).unwrap();
    statement(format!("CREATE ROLE {role} LOGIN PASSWORD 'clerk'")).await;
    let url = stack
        .database_url
        .replace("ganesh:ganesh@", &format!("{role}:clerk@"));
    let steps = [
        (
            "SELECT 1".to_owned(),
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES",
        ),
        (
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"),
            "may not read and write all of ganesh's tables",
        ),
        (
            format!("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
            "cannot make partitions",
        ),
        (
            format!("ALTER TABLE events OWNER TO {role}"),
            "GRANT CREATE ON SCHEMA public",
        ),
    ];
    for (grant, missing) in steps {
        statement(grant).await;
        let (code, said) = doctor(&stack, &[("POSTGRES_URL", &url)]);
        assert_eq!(code, 1, "{said}");
        assert_line(&said, "FAILED", &["postgres", missing]);
    }
    statement(format!("GRANT CREATE ON SCHEMA public TO {role}")).await;
    let (code, said) = doctor(&stack, &[("POSTGRES_URL", &url)]);
    assert_eq!(code, 0, "{said}");
    let mut clean = vec![format!("REASSIGN OWNED BY {role} TO ganesh")];
    clean.push(format!("DROP OWNED BY {role}"));
    clean.push(format!("DROP ROLE {role}"));
    for text in clean {
        statement(text).await;
    }
}

#[tokio::test]
async fn a_cache_that_is_away_is_a_warning() {
    let mut stack = Stack::start().await;
    stack.cache.kill();
    let (code, said) = doctor(&stack, &[]);
    assert_eq!(code, 0, "{said}");
    assert_line(
        &said,
        "warning",
        &[
            "cache",
            &stack.redis_url(),
            "start it, or correct REDIS_URL",
        ],
    );
}

#[tokio::test]
async fn messages_that_nobody_settles_are_a_warning() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    publish(&stack.jetstream().await, &events("waiting", 3)).await;
    let words = [
        "consumer ganesh",
        "s old, expected less than 10 s (3 wait, 0 are held)",
        "start ganesh",
    ];
    let (code, said) = doctor(&stack, &[]);
    assert!(code == 0 && !said.contains(words[1]), "{said}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (code, said) = doctor(&stack, &[]);
    assert_eq!(code, 0, "{said}");
    assert_line(&said, "warning", &words);
}

#[tokio::test]
async fn doctor_fails_for_a_consumer_that_serve_would_refuse() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let consumer = pull::Config {
        durable_name: Some("short".to_owned()),
        max_deliver: 5,
        ..pull::Config::default()
    };
    let jetstream = stack.jetstream().await;
    jetstream
        .create_consumer_on_stream(consumer, "EVENTS")
        .await
        .unwrap();
    let (code, said) = doctor(&stack, &[("GANESH_CONSUMER", "short")]);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        "FAILED",
        &[
            "consumer short",
            "max_deliver is 5",
            "set max_deliver to -1",
        ],
    );
    assert_line(
        &said,
        "FAILED",
        &["consumer short", "max_ack_pending is 1000"],
    );
}

#[tokio::test]
async fn doctor_fails_for_a_byte_limit_below_the_servers_largest_message() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT_BYTES", "512KiB"),
        ("GANESH_BATCH_MAX_BYTES", "512KiB"),
    ];
    let (code, said) = doctor(&stack, &settings);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        "FAILED",
        &["GANESH_MAX_IN_FLIGHT_BYTES is below", "set it to"],
    );
}

fn healthcheck(ganesh: &Ganesh) -> Output {
    let admin = ganesh.admin_address();
    run(None, &["healthcheck"], &[("GANESH_ADMIN_ADDR", &admin)])
}

#[tokio::test]
async fn healthcheck_says_whether_serve_is_ready() {
    let mut stack = Stack::start().await;
    stack.nats.kill();
    let ganesh = Ganesh::serve(&stack, &[]);
    crate::support::eventually("it waits", || async { ganesh.log().contains("waiting") }).await;
    let waiting = healthcheck(&ganesh);
    assert_eq!(waiting.status.code(), Some(1));
    let said = String::from_utf8_lossy(&waiting.stderr).into_owned();
    assert!(
        said.contains("not ready") && said.contains("nats does not answer"),
        "{said}"
    );
    stack.nats.run();
    ganesh.wait_until_ready().await;
    let ready = healthcheck(&ganesh);
    assert_eq!(ready.status.code(), Some(0), "{ready:?}");
    let address = ganesh.admin_address();
    assert!(ganesh.terminate().await.success());
    let gone = run(None, &["healthcheck"], &[("GANESH_ADMIN_ADDR", &address)]);
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(
        said.contains(&address) && said.contains("does not answer"),
        "{said}"
    );
}

#[tokio::test]
async fn rows_of_transactions_that_the_server_has_not_reached_are_a_warning() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let restored = "INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id, stored_in) \
         VALUES ('e', '/other', now(), 't', 'events.test', 0, now(), '', '1000000000000')";
    sqlx::query(restored).execute(&stack.pool).await.unwrap();
    let (code, said) = doctor(&stack, &[]);
    assert_eq!(code, 0, "{said}");
    assert_line(&said, "warning", &["stored_in", "/v1/events/stream"]);
    let fix = said
        .lines()
        .find_map(|line| Some(line.split_once("UPDATE ")?.1));
    let fix = format!("UPDATE {}", fix.unwrap());
    sqlx::query(&fix).execute(&stack.pool).await.unwrap();
    let (_, said) = doctor(&stack, &[]);
    assert!(!said.contains("stored_in"), "{said}");
}
