//! What a letter is made of, and when it is there.

use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use ganesh::event::Timestamp;
use ganesh::messaging::letters;
use ganesh::messaging::letters::write::{DETAIL_MAX_BYTES, letter_subject};

use super::{Buried, NO_EVENT, dlq, listed, make_streams, messages_in, publish_message, stderr};
use crate::support::events::publish_invalid;
use crate::support::{Stack, eventually, raw_nats};

async fn letter(jetstream: &Context, sequence: u64) -> StreamMessage {
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    stream.get_raw_message(sequence).await.unwrap()
}

fn header(letter: &StreamMessage, name: &str) -> String {
    let value = letter.headers.get(name);
    value.unwrap_or_else(|| panic!("no {name}")).to_string()
}

#[tokio::test]
async fn a_letter_says_why_when_and_how_often_and_keeps_the_message() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let own = [("x-kept", "as it was"), ("Nats-Msg-Id", "order-1")];
    let headers = [&NO_EVENT[..], &own].concat();
    publish_message(&jetstream, &headers, Bytes::from_static(b"\x00body")).await;
    stack.wait_until_drained().await;

    let letter = letter(&jetstream, 1).await;
    assert_eq!(&letter.payload[..], b"\x00body");
    assert_eq!(&letter.subject[..], "dlq.events.test");
    assert_eq!(header(&letter, "x-kept"), "as it was");
    assert_eq!(
        header(&letter, "ganesh-dlq-original-Nats-Msg-Id"),
        "order-1"
    );
    assert_eq!(header(&letter, "ganesh-dlq-reason"), "missing_attribute");
    assert!(header(&letter, "ganesh-dlq-detail").contains("\"id\" is missing"));
    assert_eq!(header(&letter, "ganesh-dlq-subject"), "events.test");
    assert_eq!(header(&letter, "ganesh-dlq-stream"), "EVENTS");
    assert_eq!(header(&letter, "ganesh-dlq-stream-sequence"), "1");
    assert_eq!(header(&letter, "ganesh-dlq-deliveries"), "1");
    assert_eq!(header(&letter, "ganesh-dlq-generation"), "0");
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let published_at = events.get_raw_message(1).await.unwrap().time;
    let published_at = Timestamp::from_nanos(published_at.unix_timestamp_nanos());
    assert_eq!(
        header(&letter, "ganesh-dlq-first-seen"),
        published_at.to_string()
    );
    assert_eq!(
        header(&letter, "Nats-Msg-Id"),
        format!("EVENTS:1:{published_at}")
    );
    let last_seen = Timestamp::parse_rfc3339(&header(&letter, "ganesh-dlq-last-seen")).unwrap();
    assert!(last_seen >= published_at);
    let trace_id = header(&letter, "ganesh-dlq-trace-id");
    assert!(trace_id.len() == 32 && trace_id.bytes().all(|b| b.is_ascii_hexdigit()));
}

#[tokio::test]
async fn a_message_whose_letter_the_stream_refuses_stays_unacknowledged_until_it_takes_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    publish_invalid(&jetstream).await;
    stack.wait_until_drained().await;
    stack.limit_dead_letters(1).await;
    publish_invalid(&jetstream).await;
    eventually("the letter is refused", || async {
        ganesh.log().contains("a dead letter was not stored")
    })
    .await;
    assert_eq!(stack.backlog().await, 1, "acknowledged before its letter");
    let is_ready = || async { ganesh.admin("/readyz").await.0 == 200 };
    let is_unready = || async { !is_ready().await };
    eventually("it says so", is_unready).await;
    let (_, body) = ganesh.admin("/readyz").await;
    assert!(
        body.contains("the dead-letter stream does not take letters"),
        "{body}"
    );
    stack.limit_dead_letters(-1).await;
    stack.wait_until_drained().await;
    eventually("it is ready again", is_ready).await;
    assert_eq!(stack.dead_letters().await, 2);

    // Deleted, and made again by somebody.
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let config = stream.cached_info().config.clone();
    jetstream.delete_stream("EVENTS_DLQ").await.unwrap();
    publish_invalid(&jetstream).await;
    eventually("it says so", is_unready).await;
    jetstream.create_stream(config).await.unwrap();
    stack.wait_until_drained().await;
    eventually("it is ready again", is_ready).await;
    assert_eq!(stack.dead_letters().await, 1);
}

#[tokio::test]
async fn a_letter_that_is_written_twice_is_one() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    for sequence in [1, 2, 1, 2] {
        let letter = Buried {
            sequence,
            ..Buried::default()
        };
        letter.write(&jetstream).await;
    }
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 2);
    assert_eq!(listed(&stack, &[]).len(), 2);
}

#[tokio::test]
async fn a_detail_is_one_line_of_ascii_whatever_a_message_put_there() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let detail = "é\r\nNats-Rollup: all\r\n\r\n\u{1b}[31m".repeat(40);
    let buried = Buried {
        detail: &detail,
        ..Buried::default()
    };
    buried.write(&jetstream).await;
    let letter = letter(&jetstream, 1).await;
    let written = header(&letter, "ganesh-dlq-detail");
    assert!(written.starts_with("\\u{e9}\\r\\nNats-Rollup"), "{written}");
    assert!(written.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
    assert!(written.len() <= DETAIL_MAX_BYTES && written.len() > DETAIL_MAX_BYTES - 10);
    assert!(letter.headers.get("Nats-Rollup").is_none());
}

#[tokio::test]
async fn headers_that_somebody_acts_on_are_kept_under_another_name() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let forged = [
        ("Ganesh-Dlq-Reason", "forged"),
        ("ganesh-dlq-object", "forged"),
        ("Nats-Expected-Stream", "EVENTS"),
    ];
    publish_message(&jetstream, &[&NO_EVENT[..], &forged].concat(), Bytes::new()).await;
    stack.wait_until_drained().await;
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = letters::one(&stream, 1).await.unwrap().unwrap();
    assert_eq!(letter.object(), None);
    assert_eq!(letter.reason(), "missing_attribute");
    let original = letter.original_headers();
    for (name, value) in forged {
        assert_eq!(original.get(name).unwrap().as_str(), value);
    }
}

#[test]
fn a_subject_longer_than_a_command_of_the_server_is_cut_in_that_of_the_letter() {
    assert_eq!(letter_subject("dlq.", "events.a"), "dlq.events.a");
    let long = format!("events.{}", "token.".repeat(700));
    let cut = letter_subject("dlq.", &long);
    assert!(cut.len() < 3_100 && cut.starts_with("dlq.events.token."));
    assert_eq!(cut.rsplit('.').next(), Some("token"), "whole tokens");
}

#[tokio::test]
async fn a_letter_whose_message_has_white_space_in_its_subject_is_read_as_any_other() {
    let stack = Stack::start().await;
    let _strict = stack.serve(&[("GANESH_ACCEPT_PLAIN", "false")]).await;
    // Of a message without headers the client reads every subject, and a letter has headers.
    let subject = "events.a\u{a0}b";
    let port = stack.nats.port();
    let publishing = move || raw_nats::publish(port, subject.as_bytes(), b"", b"{}");
    tokio::task::spawn_blocking(publishing).await.unwrap();
    stack.wait_until_drained().await;
    let letters = listed(&stack, &[]);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["subject"], subject);

    // With the headers of a replay nobody could read it.
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let said = stderr(&replayed);
    assert!(said.contains("its subject has white space in it"), "{said}");
    assert_eq!(messages_in(&stack.jetstream().await, "EVENTS").await, 1);
    assert_eq!(listed(&stack, &[]).len(), 1);
}
