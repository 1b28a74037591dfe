//! Limits that operators set: what ganesh cannot live with ends the start at once and names the setting,
//! what it can live with it lives with.

use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::jetstream::Context;

use super::{doctor, inventory, refused};
use crate::support::events::{events, publish};
use crate::support::servers::Server;
use crate::support::{Stack, eventually};

/// A stack whose NATS has this configuration, and its URL for the user of the account.
async fn stack_with(configuration: &str) -> (Stack, String) {
    let mut stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nats.conf");
    std::fs::write(&file, configuration).unwrap();
    stack.nats = Server::start("nats", &[("NATS_CONF", file.to_str().unwrap())]);
    let url = stack.nats_url().replace("://", "://me:secret@");
    (stack, url)
}

async fn jetstream_of(stack: &Stack) -> Context {
    let options = ConnectOptions::with_user_and_password("me".to_owned(), "secret".to_owned());
    let client = options.connect(stack.nats_url()).await.unwrap();
    async_nats::jetstream::new(client)
}

fn account(limits: &str) -> String {
    format!(
        "jetstream {{ max_file_store: 64GB }}\n\
         accounts {{ APP {{ users: [{{ user: me, password: secret }}], jetstream {{ {limits} }} }} }}\n"
    )
}

#[tokio::test]
async fn a_limit_of_server_or_account_ends_the_start_at_once_and_names_what_to_change() {
    let small = "jetstream { max_file_store: 1GB }\nauthorization { user: me, password: secret }\n";
    let cases = [
        (small.to_owned(), "set GANESH_STREAM_MAX_BYTES lower"),
        (
            account("max_file: 1GB"),
            "set GANESH_STREAM_MAX_BYTES lower",
        ),
        (
            account("max_file: 64GB, disk_max_stream_bytes: 1GB"),
            "set GANESH_STREAM_MAX_BYTES lower",
        ),
        (account("max_file: 64GB, max_streams: 2"), "max_streams"),
        (
            account("max_file: 64GB, max_bytes_required: true"),
            "make stream EVENTS_DLQ yourself",
        ),
    ];
    for (configuration, fix) in cases {
        let (stack, url) = stack_with(&configuration).await;
        let began = Instant::now();
        let said = refused(&stack, &[("NATS_URL", &url)]).await;
        assert!(began.elapsed() < Duration::from_secs(15), "{said}");
        assert!(said.contains(fix), "{configuration}: {said}");
        // A refused start leaves nothing behind.
        let left = inventory(&jetstream_of(&stack).await).await;
        assert!(left.is_empty(), "{configuration}: {left:?}");
        let tables: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
                .fetch_one(&stack.pool)
                .await
                .unwrap();
        assert_eq!(tables, 0, "{configuration}");
    }
}

/// Letters are published, by whomever, from the moment on at which their stream is there.
#[tokio::test]
async fn a_refused_start_leaves_what_it_made_where_somebody_uses_it() {
    let (stack, url) = stack_with(&account("max_file: 64GB, max_streams: 2")).await;
    let jetstream = jetstream_of(&stack).await;
    let client = jetstream.client();
    let others = tokio::spawn(async move {
        loop {
            client.publish("dlq.other", "letter".into()).await.unwrap();
            client.flush().await.unwrap();
        }
    });
    // The stream is there for milliseconds only: on a busy machine no letter may come in between.
    let mut said = String::new();
    let mut letters = 0;
    for _ in 0..5 {
        said = refused(&stack, &[("NATS_URL", &url)]).await;
        if let Ok(left) = jetstream.get_stream("EVENTS_DLQ").await {
            letters = left.cached_info().state.messages;
            break;
        }
    }
    others.abort();
    assert!(letters > 0, "{said}");
    let words = ["EVENTS_DLQ", "not deleted", "another client uses it"];
    let fits = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(said.lines().any(fits), "{said}");
    // The bucket is empty.
    let left = inventory(&jetstream).await;
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn the_servers_limits_of_pulls_acks_and_duplicates_are_lived_with() {
    let limits = "jetstream { max_file_store: 64GB, \
         limits { max_request_batch: 50, max_ack_pending: 2000, duplicate_window: \"1m\" } }\n\
         authorization { user: me, password: secret }\n";
    let (stack, url) = stack_with(limits).await;
    let settings = [("NATS_URL", url.as_str())];
    let mut ganesh = stack.serve(&settings).await;
    let jetstream = jetstream_of(&stack).await;
    publish(&jetstream, &events("e", 3_000)).await;
    let sent = jetstream.publish("events.bad", "no event".into());
    sent.await.unwrap().await.unwrap();
    stack.wait_for_rows(3_001).await;
    assert_eq!(ganesh.ended(), None);
    let log = ganesh.log();
    assert!(
        !log.contains("somebody else") && !log.contains("pulling messages failed"),
        "{log}"
    );
    assert!(ganesh.terminate().await.success());
    // What it made is fit for the next start, and doctor says what is lower than it would be.
    let (code, said) = doctor(&stack, &settings);
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "max_ack_pending is 2000",
        "duplicate_window is 60s",
        "max_batch is 50",
    ] {
        let warned = |line: &str| line.starts_with("warning") && line.contains(words);
        assert!(said.lines().any(warned), "{words}: {said}");
    }
    let strict = [settings.as_slice(), &[("GANESH_ACCEPT_PLAIN", "false")]].concat();
    let again = stack.serve(&strict).await;
    // A page of letters is larger than the server's batch.
    for number in 0..120 {
        let sent = jetstream.publish(format!("events.bad.{number}"), "no event".into());
        sent.await.unwrap().await.unwrap();
    }
    eventually("they are letters", || async {
        let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
        letters.cached_info().state.messages == 120
    })
    .await;
    let listed = crate::support::ganesh::run(Some(&stack), &["dlq", "list"], &settings);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("120 dead letters"), "{listed}");
    drop(again);
}
