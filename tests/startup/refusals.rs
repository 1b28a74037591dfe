//! What waiting would not help: said at once, without the secret.

use std::net::TcpListener;

use sqlx::Executor;

use super::{ended_with, refused};
use crate::support::servers::{Server, write_nats_conf};
use crate::support::{Stack, eventually};

const PASSWORD: &str = "hunter,2@swordfish";
const PASSWORD_IN_URL: &str = "hunter,2%40swordfish";

fn assert_keeps_the_password(said: &str) {
    assert!(
        !said.contains("hunter") && !said.contains("swordfish"),
        "{said}"
    );
}

#[tokio::test]
async fn a_wrong_password_of_postgres_is_refused_at_once_and_not_shown() {
    let stack = Stack::start().await;
    let url = stack
        .database_url
        .replace("ganesh:ganesh@", &format!("ganesh:{PASSWORD_IN_URL}@"));
    let said = refused(&stack, &[("POSTGRES_URL", &url), ("GANESH_LOG", "trace")]).await;
    let words =
        "ganesh: Postgres (POSTGRES_URL): password authentication failed for user [redacted]";
    assert!(said.contains(words), "{said}");
    assert_keeps_the_password(&said);
}

#[tokio::test]
async fn a_missing_database_is_refused_at_once() {
    let stack = Stack::start().await;
    let url = stack.database_url.replace("/test_", "/missing_");
    let said = refused(&stack, &[("POSTGRES_URL", &url)]).await;
    assert!(
        said.contains("ganesh: Postgres (POSTGRES_URL): database [redacted] does not exist"),
        "{said}"
    );
}

#[tokio::test]
async fn a_password_in_each_url_is_used_and_never_logged() {
    let mut stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("nats.conf");
    let text = format!("authorization {{ user: me, password: \"{PASSWORD}\" }}");
    write_nats_conf(&config, &text);
    let role = format!("role_{}", std::process::id());
    let make = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
    stack.pool.execute(make.as_str()).await.unwrap();
    stack.nats = Server::start("nats", &[("NATS_CONF", config.to_str().unwrap())]);

    let nats = stack.nats_url();
    let nats_url = |user: &str| nats.replace("://", &format!("://{user}@"));
    let credentials = format!("{role}:{PASSWORD_IN_URL}@");
    let postgres = stack.database_url.replace("ganesh:ganesh@", &credentials);
    let right = nats_url(&format!("me:{PASSWORD_IN_URL}"));
    let wrong = nats_url(&format!("me:{PASSWORD_IN_URL}x"));
    let settings = [("POSTGRES_URL", postgres.as_str()), ("GANESH_LOG", "trace")];

    let with = |url| [&[("NATS_URL", url)], &settings[..]].concat();
    let ganesh = stack.serve(&with(right.as_str())).await;
    eventually("it logs", || async { ganesh.log().contains("serving") }).await;
    assert_keeps_the_password(&ganesh.log());
    drop(ganesh);
    let said = refused(&stack, &with(wrong.as_str())).await;
    assert!(
        said.contains("ganesh: NATS (NATS_URL): authorization violation"),
        "{said}"
    );
    assert_keeps_the_password(&said);
}

#[tokio::test]
async fn a_token_in_the_nats_url_is_used() {
    let mut stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("nats.conf");
    write_nats_conf(&config, "authorization { token: \"hunter2\" }");
    stack.nats = Server::start("nats", &[("NATS_CONF", config.to_str().unwrap())]);
    let url = stack.nats_url().replace("://", "://hunter2@");
    let ganesh = stack.serve(&[("NATS_URL", &url)]).await;
    assert_keeps_the_password(&ganesh.log());
}

#[tokio::test]
async fn a_postgres_that_can_lose_commits_is_refused() {
    let templates = concat!(env!("CARGO_TARGET_TMPDIR"), "/postgres-template");
    let environment = [
        ("POSTGRES_ARGS", "-c fsync=off"),
        ("TEMPLATE_DIR", templates),
    ];
    let postgres = Server::start("postgres", &environment);
    let url = format!(
        "postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh",
        postgres.port()
    );
    let stack = Stack::start().await;
    let said = refused(&stack, &[("POSTGRES_URL", &url)]).await;
    let words = ["POSTGRES_URL", "fsync = off", "Set fsync = on"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

#[tokio::test]
async fn an_empty_database_is_refused_when_migrations_are_for_somebody_else() {
    let stack = Stack::start().await;
    let said = refused(&stack, &[("GANESH_MIGRATE_ON_START", "false")]).await;
    assert!(said.contains("run `ganesh migrate`"), "{said}");
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_variable() {
    let stack = Stack::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for variable in ["GANESH_HTTP_ADDR", "GANESH_ADMIN_ADDR"] {
        let said = ended_with(1, &stack, &[(variable, &address)]).await;
        let words =
            format!("ganesh: {variable}={address}: cannot listen there: Address already in use");
        assert!(said.contains(&words), "{said}");
    }
}

#[tokio::test]
async fn a_byte_limit_below_the_servers_largest_message_is_refused() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT_BYTES", "512KiB"),
        ("GANESH_BATCH_MAX_BYTES", "512KiB"),
    ];
    let said = refused(&stack, &settings).await;
    assert!(
        said.contains("ganesh: GANESH_MAX_IN_FLIGHT_BYTES=524288: expected at least"),
        "{said}"
    );
}
