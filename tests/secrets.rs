//! P13: no part of a URL's secrets is printed, logged, exported or served, whatever happens.

use std::fmt::Write;
use std::process::Output;

use async_nats::ConnectOptions;
use sqlx::postgres::PgPool;

use crate::support::cache_server::ask;
use crate::support::collector::Collector;
use crate::support::events::{events, publish, publish_invalid};
use crate::support::ganesh::run;
use crate::support::servers::{Server, write_nats_conf};
use crate::support::{Ganesh, Stack, eventually};

/// Every secret below holds it.
const MARK: &str = "swordfish";

/// Servers that ask for credentials, and the URLs that have them.
struct Guarded {
    stack: Stack,
    _nats: Server,
    _folder: tempfile::TempDir,
    nats: String,
    postgres: String,
    /// As a role of its own.
    reads: String,
    redis: String,
}

async fn guarded() -> Guarded {
    let stack = Stack::start_with_own_postgres().await;
    for statement in [
        "CREATE ROLE swordfish_user LOGIN PASSWORD 'swordfish_password'",
        "CREATE ROLE swordfish_reader LOGIN PASSWORD 'swordfish_secret' IN ROLE pg_read_all_data",
        "CREATE DATABASE swordfish_path OWNER swordfish_user",
    ] {
        execute(&stack.pool, statement).await;
    }
    let rules = [
        "ACL",
        "SETUSER",
        "swordfish_user",
        "on",
        ">swordfish_password",
        "~*",
        "&*",
        "+@all",
    ];
    ask::<String>(&stack.cache, &rules).await;
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("nats.conf");
    let lines = "authorization { user: swordfish_user, password: swordfish_password }";
    write_nats_conf(&conf, lines);
    let nats = Server::start("nats", &[("NATS_CONF", conf.to_str().unwrap())]);
    let url =
        |scheme, port| format!("{scheme}://swordfish_user:swordfish_password@127.0.0.1:{port}");
    let postgres = url("postgresql", stack.postgres.as_ref().unwrap().port());
    let postgres = format!("{postgres}/swordfish_path?application_name=swordfish_parameter");
    let reader = "swordfish_reader:swordfish_secret";
    Guarded {
        nats: url("nats", nats.port()),
        reads: postgres.replace("swordfish_user:swordfish_password", reader),
        postgres,
        redis: format!("{}/0", url("redis", stack.cache.port())),
        stack,
        _nats: nats,
        _folder: folder,
    }
}

async fn execute(pool: &PgPool, statement: &str) {
    sqlx::query(statement).execute(pool).await.unwrap();
}

impl Guarded {
    fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("NATS_URL", &self.nats),
            ("POSTGRES_URL", &self.postgres),
            ("POSTGRES_READ_URL", &self.reads),
            ("REDIS_URL", &self.redis),
            ("GANESH_API_TOKEN", "swordfish_token"),
            ("GANESH_STARTUP_TIMEOUT", "2s"),
            ("GANESH_LOG", "trace"),
        ]
    }

    /// Everything that the commands print with these settings.
    fn commands(&self, changed: &[(&str, &str)]) -> String {
        let settings = [&self.settings()[..], changed].concat();
        let mut printed = String::new();
        for arguments in [
            &["doctor"][..],
            &["migrate"],
            &["dlq", "list"],
            &["produce", "--count", "1"],
            &["healthcheck"],
            &["log-level"],
            &["log-level", "swordfish_word"],
        ] {
            let Output { stdout, stderr, .. } = run(None, arguments, &settings);
            for text in [stdout, stderr] {
                printed += &String::from_utf8(text).unwrap();
            }
        }
        printed
    }

    /// What `serve` prints and answers where reads get no session by this URL.
    async fn refused_reads(&self, url: &str) -> String {
        let settings = [&self.settings()[..], &[("POSTGRES_READ_URL", url)]].concat();
        let ganesh = self.stack.serve(&settings).await;
        ganesh.wait_for_metric("ganesh_reads_refused", 1.0).await;
        let read = reqwest::Client::new().get(format!("{}/v1/events", ganesh.api));
        let answer = read.bearer_auth("swordfish_token").send().await.unwrap();
        assert_eq!(answer.status(), 503);
        let (answer, ready) = (
            answer.text().await.unwrap(),
            ganesh.admin("/readyz").await.1,
        );
        assert!(ready.contains("POSTGRES_READ_URL"), "{ready}");
        format!("{}{answer}{ready}", ganesh.log())
    }

    /// What is printed where `serve` does not get as far as serving.
    async fn refused_start(&self, changed: &[(&str, &str)]) -> String {
        let settings = [&self.settings()[..], changed].concat();
        let mut ganesh = Ganesh::serve(&self.stack, &settings);
        ganesh.wait().await;
        ganesh.log()
    }
}

fn assert_keeps_secrets(shown: &str, what: &str) {
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains(MARK)).collect();
    assert!(lines.is_empty(), "{what}: {lines:#?}");
}

#[tokio::test]
async fn neither_the_service_nor_a_command_shows_credentials_that_work() {
    let guarded = guarded().await;
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = guarded.settings();
    settings.extend(collector.settings());
    settings.extend([
        ("GANESH_TRACE_BASELINE", "1"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=swordfish_header",
        ),
        ("GANESH_LOG_DIR", folder.path().to_str().unwrap()),
    ]);
    let ganesh = guarded.stack.serve(&settings).await;
    let user = ConnectOptions::with_user_and_password(
        "swordfish_user".to_owned(),
        "swordfish_password".to_owned(),
    );
    let address = guarded.nats.rsplit('@').next().unwrap().to_owned();
    let jetstream = async_nats::jetstream::new(user.connect(address).await.unwrap());
    publish(&jetstream, &events("e", 10)).await;
    publish_invalid(&jetstream).await;
    let lettered = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
    ganesh.wait_for_metric(lettered, 1.0).await;
    let stored = "ganesh_messages_settled_total{outcome=\"stored\"}";
    ganesh.wait_for_metric(stored, 10.0).await;
    let mut shown = String::new();
    for path in [
        "/readyz",
        "/metrics",
        "/debug/slow",
        "/log-level",
        "/runbook",
    ] {
        shown += &ganesh.admin(path).await.1;
    }
    for path in [
        "/v1/events/e-0",
        "/v1/subjects/subject-3/latest",
        "/v1/events/none",
    ] {
        for token in ["swordfish_token", "wrong"] {
            let read = reqwest::Client::new().get(format!("{}{path}", ganesh.api));
            let answer = read.bearer_auth(token).send().await.unwrap();
            write!(shown, "{:?}", answer.headers()).unwrap();
            shown += &answer.text().await.unwrap();
        }
    }
    eventually("spans are exported", || async {
        !collector.spans().is_empty()
    })
    .await;
    let admin = ganesh.admin_address();
    let printed = guarded.commands(&[("GANESH_ADMIN_ADDR", &admin)]);
    assert!(printed.contains("ok       postgres"), "{printed}");
    assert_keeps_secrets(&printed, "commands");
    assert_keeps_secrets(&shown, "served");
    let log = ganesh.log();
    assert!(ganesh.terminate().await.success());
    assert_keeps_secrets(&log, "log");
    let file = std::fs::read_to_string(folder.path().join("app.log")).unwrap();
    assert!(file.contains("TRACE"), "every level is looked through");
    assert_keeps_secrets(&file, "app.log");
    // The name of the database, and nothing else of the URL, is an attribute of spans.
    let spans = format!("{:#?}", collector.spans());
    let namespace = "\"db.namespace\": \"swordfish_path\"";
    assert!(spans.contains(namespace), "{spans}");
    assert_keeps_secrets(&spans.replace(namespace, ""), "spans");
}

#[tokio::test]
async fn credentials_that_servers_refuse_are_in_nobodys_words() {
    let guarded = guarded().await;
    let other = |url: &str, from: &str, to: &str| url.replacen(from, to, 1);
    let (user, password) = ("swordfish_user", "swordfish_password");
    let (nats, postgres, redis) = (&guarded.nats, &guarded.postgres, &guarded.redis);
    let reads = &guarded.reads;
    for (variable, url, word) in [
        (
            "NATS_URL",
            other(nats, user, "swordfish_nobody"),
            "NATS_URL",
        ),
        (
            "NATS_URL",
            other(nats, password, "swordfish_wrong"),
            "NATS_URL",
        ),
        (
            "POSTGRES_URL",
            other(postgres, user, "swordfish_nobody"),
            "28",
        ),
        (
            "POSTGRES_URL",
            other(postgres, password, "swordfish_wrong"),
            "28P01",
        ),
        (
            "POSTGRES_URL",
            other(postgres, "_path", "_nowhere"),
            "3D000",
        ),
        (
            "POSTGRES_READ_URL",
            other(reads, "swordfish_reader", "swordfish_nobody"),
            "28",
        ),
        (
            "POSTGRES_READ_URL",
            other(reads, "swordfish_secret", "swordfish_wrong"),
            "28P01",
        ),
        (
            "POSTGRES_READ_URL",
            other(reads, "_path", "_nowhere"),
            "3D000",
        ),
        (
            "REDIS_URL",
            other(redis, user, "swordfish_nobody"),
            "REDIS_URL",
        ),
        (
            "REDIS_URL",
            other(redis, password, "swordfish_wrong"),
            "REDIS_URL",
        ),
    ] {
        let printed = guarded.commands(&[(variable, &url)]);
        assert!(printed.contains(word), "{printed}");
        assert_keeps_secrets(&printed, &url);
        let served = match variable {
            "REDIS_URL" => continue,
            "POSTGRES_READ_URL" => guarded.refused_reads(&url).await,
            _ => guarded.refused_start(&[(variable, &url)]).await,
        };
        assert_keeps_secrets(&served, &url);
    }
}

#[tokio::test]
async fn logins_of_nats_that_stand_in_variables_are_in_nobodys_words() {
    let guarded = guarded().await;
    let address = guarded.nats.rsplit('@').next().unwrap();
    let url = format!("nats://{address}");
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    let jwt = "eyJzd29yZGZpc2giOiJzd29yZGZpc2gifQ.eyJuYW1lIjoic3dvcmRmaXNoIn0.c3dvcmRmaXNo";
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    for login in [
        &[
            ("NATS_USER", "swordfish_user"),
            ("NATS_PASSWORD", "swordfish_wrong"),
        ][..],
        &[("NATS_TOKEN", "swordfish_wrong")],
        &[("NATS_NKEY", &*seed)],
        &[("NATS_CREDS", &*credentials)],
    ] {
        let changed = [&[("NATS_URL", &*url)], login].concat();
        let printed = guarded.commands(&changed);
        assert!(printed.contains(login[0].0), "{printed}");
        let shown = printed + &guarded.refused_start(&changed).await;
        assert_keeps_secrets(&shown, login[0].0);
        assert!(!shown.contains(&seed) && !shown.contains(jwt), "{shown}");
    }
}

#[tokio::test]
async fn servers_that_know_us_and_let_nothing_through_name_us_to_nobody() {
    let guarded = guarded().await;
    let stack = &guarded.stack;
    let rules = [
        "ACL",
        "SETUSER",
        "swordfish_user",
        "-info",
        "-get",
        "-eval",
        "-evalsha",
    ];
    ask::<String>(&stack.cache, &rules).await;
    assert_keeps_secrets(&guarded.commands(&[]), "NOPERM");
    for (statement, word) in [
        ("ALTER ROLE swordfish_user CONNECTION LIMIT 0", "53300"),
        (
            "ALTER DATABASE swordfish_path ALLOW_CONNECTIONS false",
            "55000",
        ),
        ("ALTER ROLE swordfish_user NOLOGIN", "28000"),
    ] {
        execute(&stack.pool, statement).await;
        let printed = guarded.commands(&[]);
        assert!(printed.contains(word), "{printed}");
        assert_keeps_secrets(&printed, statement);
        assert_keeps_secrets(&guarded.refused_start(&[]).await, statement);
        execute(&stack.pool, "ALTER ROLE swordfish_user CONNECTION LIMIT -1").await;
        execute(
            &stack.pool,
            "ALTER DATABASE swordfish_path ALLOW_CONNECTIONS true",
        )
        .await;
    }
}
