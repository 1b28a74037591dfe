//! Letters of messages that no letter has room for: their headers and bodies are objects.

use std::path::PathBuf;

use async_nats::jetstream::Context;
use bytes::Bytes;
use ganesh::messaging::letters;
use ganesh::messaging::letters::bucket::Bucket;
use ganesh::messaging::letters::publish::publish;
use ganesh::messaging::letters::sweep::Sweeper;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::{
    Buried, NO_EVENT, body_of, dlq, listed, make_streams, messages_in, publish_message, stderr,
    stdout, wire_bytes,
};
use crate::support::proxy::Proxy;
use crate::support::servers::{Server, write_nats_conf};
use crate::support::{Stack, eventually};

const BUCKET: &str = "OBJ_EVENTS_DLQ";
const BURIED: &str = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";

/// A body that fills a message of this server, so that its letter has none.
fn largest_body(jetstream: &Context) -> Bytes {
    body_of(jetstream.client().max_payload() - wire_bytes(&NO_EVENT))
}

fn large(jetstream: &Context) -> Buried<'static> {
    Buried {
        headers: &NO_EVENT,
        body: largest_body(jetstream),
        ..Buried::default()
    }
}

/// The one letter that there is has this body.
fn assert_is_the_only_letter(stack: &Stack, body: &Bytes) -> Value {
    let mut letters = listed(stack, &[]);
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = letters.remove(0);
    assert_eq!(letter["bytes"], body.len());
    let shown = dlq(stack, &["show", &letter["sequence"].to_string(), "--raw"]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    assert!(shown.stdout == *body, "the body is not as it was");
    letter
}

/// Objects that are left when those without a letter are gone.
async fn objects_with_letters(jetstream: &Context) -> u64 {
    let bucket = Bucket::new(jetstream.clone(), "EVENTS_DLQ");
    let mut sweeper = Sweeper::new(bucket, std::time::Duration::ZERO);
    sweeper.sweep().await.unwrap();
    let bucket = jetstream.get_stream(BUCKET).await.unwrap();
    let descriptions = bucket.info_with_subjects("$O.EVENTS_DLQ.M.>").await;
    let objects = futures::StreamExt::count(descriptions.unwrap()).await as u64;
    let chunks = bucket.info_with_subjects("$O.EVENTS_DLQ.C.>").await;
    assert_eq!(
        futures::StreamExt::count(chunks.unwrap()).await as u64,
        objects
    );
    objects
}

#[tokio::test]
async fn a_message_of_the_maximum_payload_is_a_letter_with_an_object_and_read_as_any_other() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let body = largest_body(&jetstream);
    publish_message(&jetstream, &NO_EVENT, body.clone()).await;
    stack.wait_until_drained().await;
    ganesh.terminate().await;

    let letter = assert_is_the_only_letter(&stack, &body);
    let text = stdout(&dlq(&stack, &["show", "1"]));
    assert!(text.contains("  ce-source: /test\n"), "{text}");
    // Other tools read it as they read any object.
    let bucket = jetstream.get_object_store("EVENTS_DLQ").await.unwrap();
    let name = letter["object"].as_str().unwrap();
    assert!(name.starts_with("EVENTS:1:"), "{name}");
    let mut object = bucket.get(name).await.unwrap();
    let mut content = Vec::new();
    object.read_to_end(&mut content).await.unwrap();
    assert!(content.starts_with(b"NATS/1.0\r\n") && content.ends_with(&body));

    let purged = dlq(&stack, &["purge", "--yes"]);
    let said = stdout(&purged);
    assert!(said.ends_with("deleted: 1 of 1\n"), "{said}");
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
    assert_eq!(messages_in(&jetstream, BUCKET).await, 0);
}

#[tokio::test]
async fn headers_as_large_as_jetstream_stores_are_kept_too() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    // 65,535 bytes: ours have no room beside them.
    let own = [("x-long", ""), ("Nats-Msg-Id", "order-1")];
    let long = "v".repeat(65_535 - wire_bytes(&[&NO_EVENT[..], &own].concat()));
    let own = [("x-long", long.as_str()), ("Nats-Msg-Id", "order-1")];
    let headers = [&NO_EVENT[..], &own].concat();
    publish_message(&jetstream, &headers, Bytes::from_static(b"body")).await;
    stack.wait_until_drained().await;
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let mut letter = letters::one(&stream, 1).await.unwrap().unwrap();
    assert_eq!(letter.body_bytes, 4);
    let bucket = Bucket::new(jetstream, "EVENTS_DLQ");
    letter.read_object(&bucket).await.unwrap();
    let original = letter.original_headers();
    for (name, value) in headers {
        assert_eq!(original.get(name).unwrap().as_str(), value);
    }
    assert_eq!(original.len(), 5);
    assert_eq!((&letter.body[..], letter.body_bytes), (&b"body"[..], 4));
}

#[tokio::test]
async fn a_letter_is_replayed_with_what_is_in_its_object_and_both_are_deleted() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let max = jetstream.client().max_payload();
    let fits = Buried {
        headers: &[("ce-id", "a-1"), ("Nats-Msg-Id", "m-1")],
        body: body_of(max - 600),
        ..Buried::default()
    };
    fits.write(&jetstream).await;
    let too_large = Buried {
        sequence: 2,
        body: body_of(max - 20),
        ..Buried::default()
    };
    too_large.write(&jetstream).await;
    let dry = dlq(&stack, &["replay", "--dry-run"]);
    let said = stdout(&dry);
    assert!(
        said.contains("would be replayed: 1 of 2, 1 cannot be"),
        "{said}"
    );
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let said = stderr(&replayed);
    let takes = format!("the server takes {max}: raise the server's max_payload above");
    assert!(
        said.contains("letter 2 stays") && said.contains(&takes),
        "{said}"
    );
    assert_is_the_only_letter(&stack, &too_large.body);
    assert_eq!(objects_with_letters(&jetstream).await, 1);
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let message = events.get_raw_message(1).await.unwrap();
    assert!(message.payload == fits.body);
    let header = |name: &str| message.headers.get(name).unwrap().to_string();
    assert_eq!(
        (header("ce-id"), header("Nats-Msg-Id")),
        ("a-1".into(), "m-1~1".into())
    );
}

/// Has a server that takes messages of so many bytes from its next start on.
fn may_take(folder: &TempDir, bytes: usize) -> PathBuf {
    let file = folder.path().join("nats.conf");
    write_nats_conf(&file, &format!("max_payload: {bytes}"));
    file
}

async fn stack_that_takes(folder: &TempDir, bytes: usize) -> Stack {
    let file = may_take(folder, bytes);
    let mut stack = Stack::start().await;
    stack.nats = Server::start("nats", &[("NATS_CONF", file.to_str().unwrap())]);
    stack
}

#[tokio::test]
async fn a_body_many_times_larger_than_what_the_server_takes_by_now_is_a_letter() {
    const BEFORE: usize = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut stack = stack_that_takes(&folder, BEFORE).await;
    stack.make_streams().await;
    let body = body_of(BEFORE - 1_000);
    publish_message(&stack.jetstream().await, &NO_EVENT, body.clone()).await;
    may_take(&folder, 64 << 10);
    stack.nats.terminate();
    stack.nats.run();
    let ganesh = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert!(ganesh.terminate().await.success());
    assert_is_the_only_letter(&stack, &body);
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let said = stderr(&replayed);
    let both = format!("has {} bytes, and the server takes 65536", body.len());
    assert!(said.contains(&both), "{said}");
    assert_is_the_only_letter(&stack, &body);

    may_take(&folder, BEFORE);
    stack.nats.terminate();
    stack.nats.run();
    let replayed = dlq(&stack, &["replay"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    let jetstream = stack.jetstream().await;
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    assert!(events.get_raw_message(2).await.unwrap().payload == body);
    assert_eq!(objects_with_letters(&jetstream).await, 0);
}

#[tokio::test]
async fn a_body_of_tens_of_mebibytes_is_a_letter() {
    let folder = tempfile::tempdir().unwrap();
    // JetStream stores no message of 32 MiB.
    let stack = stack_that_takes(&folder, 30 << 20).await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let body = largest_body(&jetstream);
    publish_message(&jetstream, &NO_EVENT, body.clone()).await;
    stack.wait_until_drained().await;
    assert_is_the_only_letter(&stack, &body);
}

#[tokio::test]
async fn a_connection_that_is_cut_while_an_object_is_put_costs_nothing() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let ganesh = stack.serve(&[("NATS_URL", &url)]).await;
    let jetstream = stack.jetstream().await;
    // A chunk in the middle, the last one, and the description.
    for (number, later) in [5, 9, 10].into_iter().enumerate() {
        let bucket = jetstream.get_stream(BUCKET).await.unwrap();
        let sequence = bucket.cached_info().state.last_sequence + later;
        let stored = format!("{{\"stream\":\"{BUCKET}\",\"seq\":{sequence}}}");
        proxy.cut_instead_of(stored.as_bytes());
        let body = largest_body(&jetstream);
        publish_message(&jetstream, &NO_EVENT, body.clone()).await;
        eventually("it was cut", || async { proxy.trap_has_sprung() }).await;
        stack.wait_until_drained().await;
        let buried = f64::from(u32::try_from(number).unwrap() + 1);
        ganesh.wait_for_metric(BURIED, buried).await;
        assert_eq!(objects_with_letters(&jetstream).await, number as u64 + 1);
        let shown = dlq(&stack, &["show", &(number + 1).to_string(), "--raw"]);
        assert!(shown.stdout == body, "{}", stderr(&shown));
    }
}

#[tokio::test]
async fn a_bucket_that_takes_nothing_makes_the_service_unready_until_it_does() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let bucket = jetstream.get_stream(BUCKET).await.unwrap();
    let config = bucket.cached_info().config.clone();
    jetstream.delete_stream(BUCKET).await.unwrap();
    let body = largest_body(&jetstream);
    publish_message(&jetstream, &NO_EVENT, body.clone()).await;
    eventually("it says so", || async {
        let (status, said) = ganesh.admin("/readyz").await;
        status == 503 && said.contains("the dead-letter stream does not take letters")
    })
    .await;
    assert_eq!(stack.backlog().await, 1, "acknowledged before its letter");
    assert_eq!(stack.dead_letters().await, 0, "a letter without its object");
    jetstream.create_stream(config).await.unwrap();
    stack.wait_until_drained().await;
    ganesh.wait_until_ready().await;
    assert_is_the_only_letter(&stack, &body);
}

#[tokio::test]
async fn replicas_that_bury_a_message_at_the_same_time_make_one_letter_that_can_be_read() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let other = stack.jetstream().await;
    let rounds = 20;
    for sequence in 1..=rounds {
        let letter = Buried {
            sequence,
            ..large(&jetstream)
        };
        let (here, there, third) = (
            letter.write(&jetstream),
            letter.write(&other),
            letter.write(&jetstream),
        );
        tokio::join!(here, there, third);
    }
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, rounds);
    assert_eq!(objects_with_letters(&jetstream).await, rounds);
    let body = largest_body(&jetstream);
    for sequence in 1..=rounds {
        let shown = dlq(&stack, &["show", &sequence.to_string(), "--raw"]);
        assert!(shown.stdout == body, "{}", stderr(&shown));
    }
}

#[tokio::test]
async fn an_object_that_is_gone_is_said_and_put_again_when_its_message_is_delivered_again() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let letter = large(&jetstream);
    letter.write(&jetstream).await;
    jetstream
        .get_stream(BUCKET)
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    let shown = dlq(&stack, &["show", "1"]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(stdout(&shown).contains("reason          invalid_json"));
    let said = stderr(&shown);
    assert!(
        said.contains("object EVENTS:1:") && said.contains("not found"),
        "{said}"
    );
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    assert!(stderr(&replayed).contains("letter 1 stays: object EVENTS:1:"));
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 0);

    letter.write(&jetstream).await;
    assert_is_the_only_letter(&stack, &letter.body);
    assert_eq!(objects_with_letters(&jetstream).await, 1);
}

#[tokio::test]
async fn a_letter_that_the_stream_took_before_is_found_without_one_more_object() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let letter = large(&jetstream);
    letter.write(&jetstream).await;
    // Deleted by somebody who has seen enough of it: then it stays so.
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    letters.delete_message(1).await.unwrap();
    letter.write(&jetstream).await;
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
    assert_eq!(objects_with_letters(&jetstream).await, 0);
}

#[tokio::test]
async fn a_letter_later_than_a_sweep_that_took_its_object_for_abandoned_has_it_again() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let small = Buried {
        sequence: 2,
        ..Buried::default()
    };
    small.write(&jetstream).await;
    stack.limit_dead_letters(1).await;
    let bucket = Bucket::new(jetstream.clone(), "EVENTS_DLQ");
    let letter = large(&jetstream);
    let mut placed = None;
    let mut attempt = async || {
        let why = (letter.reason, letter.detail);
        letter
            .with_original(async |original| publish(&bucket, original, why, &mut placed).await)
            .await
    };
    assert!(attempt().await.is_err(), "there is no room for the letter");
    assert_eq!(objects_with_letters(&jetstream).await, 0);
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(301)).await;
    tokio::time::resume();
    stack.limit_dead_letters(-1).await;
    attempt().await.unwrap();
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    letters.delete_message(1).await.unwrap();
    assert_is_the_only_letter(&stack, &letter.body);
    assert_eq!(objects_with_letters(&jetstream).await, 1);
}
