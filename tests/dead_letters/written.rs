//! What a letter is made of, and when it is there.

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use ganesh::event::Timestamp;
use ganesh::messaging::letters::write::{DETAIL_MAX_BYTES, Outgoing, letter_subject};
use ganesh::messaging::letters::{self, Form};

use super::{Buried, dlq, listed, make_streams, messages_in, stderr, stdout};
use crate::support::events::publish_invalid;
use crate::support::{Stack, eventually, raw_nats};

async fn publish(jetstream: &Context, headers: &[(&str, &str)], body: Bytes) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let acknowledgement = jetstream
        .publish_with_headers("events.test", map, body)
        .await
        .unwrap();
    acknowledgement.await.unwrap();
}

async fn letter(jetstream: &Context, sequence: u64) -> StreamMessage {
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    stream.get_raw_message(sequence).await.unwrap()
}

fn header(letter: &StreamMessage, name: &str) -> String {
    let value = letter.headers.get(name);
    value.unwrap_or_else(|| panic!("no {name}")).to_string()
}

/// A binary event without its id, and the bytes of its headers.
const NO_EVENT: [(&str, &str); 3] = [
    ("ce-specversion", "1.0"),
    ("ce-source", "/test"),
    ("ce-type", "t"),
];

fn wire_bytes(headers: &[(&str, &str)]) -> usize {
    let lines = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4);
    12 + lines.sum::<usize>()
}

#[tokio::test]
async fn a_letter_says_why_when_and_how_often_and_keeps_the_message() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let own = [("x-kept", "as it was"), ("Nats-Msg-Id", "order-1")];
    let headers = [&NO_EVENT[..], &own].concat();
    publish(&jetstream, &headers, Bytes::from_static(b"\x00body")).await;
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
    let stored_at = events.get_raw_message(1).await.unwrap().time;
    let stored_at = Timestamp::from_nanos(stored_at.unix_timestamp_nanos());
    assert_eq!(
        header(&letter, "ganesh-dlq-first-seen"),
        stored_at.to_string()
    );
    assert_eq!(
        header(&letter, "Nats-Msg-Id"),
        format!("EVENTS:1:{stored_at}")
    );
    let last_seen = Timestamp::parse_rfc3339(&header(&letter, "ganesh-dlq-last-seen")).unwrap();
    assert!(last_seen >= stored_at);
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
    let max = jetstream.client().max_payload();
    let small = Buried::default();
    let halved = Buried {
        sequence: 2,
        body: Bytes::from(vec![b'x'; max - 100]),
        ..Buried::default()
    };
    for letter in [&small, &halved, &small, &halved] {
        letter.write(&jetstream).await;
    }
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 3);
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
    let sequence = buried.write(&jetstream).await;
    let letter = letter(&jetstream, sequence).await;
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
        ("ganesh-dlq-part", "1/2"),
        ("Nats-Expected-Stream", "EVENTS"),
    ];
    publish(&jetstream, &[&NO_EVENT[..], &forged].concat(), Bytes::new()).await;
    stack.wait_until_drained().await;
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = letters::one(&stream, 1).await.unwrap().unwrap();
    assert_eq!(letter.form, Form::Whole);
    assert_eq!(letter.reason(), "missing_attribute");
    let original = letter.original_headers();
    for (name, value) in forged {
        assert_eq!(original.get(name).unwrap().as_str(), value);
    }
}

#[tokio::test]
async fn a_message_of_the_maximum_payload_is_a_letter_in_two_messages_and_read_as_one() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let room = jetstream.client().max_payload() - wire_bytes(&NO_EVENT);
    let body: Bytes = (0..room).map(|i| u8::try_from(i % 251).unwrap()).collect();
    publish(&jetstream, &NO_EVENT, body.clone()).await;
    stack.wait_until_drained().await;
    ganesh.terminate().await;

    let (first, second) = (letter(&jetstream, 1).await, letter(&jetstream, 2).await);
    assert_eq!(header(&first, "ganesh-dlq-part"), "1/2");
    assert_eq!(header(&second, "ganesh-dlq-part"), "2/2");
    assert_ne!(
        header(&first, "Nats-Msg-Id"),
        header(&second, "Nats-Msg-Id")
    );
    let letters = listed(&stack, &[]);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["sequence"], 2);
    assert_eq!(letters[0]["first_half_sequence"], 1);
    assert_eq!(letters[0]["bytes"], room);
    let shown = dlq(&stack, &["show", "2", "--raw"]);
    assert!(shown.stdout == body, "the body is not as it was");
    let text = stdout(&dlq(&stack, &["show", "2"]));
    assert!(text.contains("  ce-source: /test\n"), "{text}");
    assert!(
        dlq(&stack, &["purge", "--yes", "--limit", "1"])
            .status
            .success()
    );
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
}

#[tokio::test]
async fn headers_as_large_as_jetstream_stores_are_kept_too() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    // 65,535 bytes: ours have no room beside them.
    let named = [&NO_EVENT[..], &[("x-long", ""), ("Nats-Msg-Id", "order-1")]].concat();
    let long = "v".repeat(65_535 - wire_bytes(&named));
    let headers = [
        &NO_EVENT[..],
        &[("x-long", long.as_str()), ("Nats-Msg-Id", "order-1")],
    ]
    .concat();
    let small = Bytes::from_static(b"body");
    publish(&jetstream, &headers, small.clone()).await;
    let room = jetstream.client().max_payload() - wire_bytes(&headers);
    let large = Bytes::from(vec![b'7'; room]);
    let other = [&headers[..4], &[("Nats-Msg-Id", "order-2")]].concat();
    publish(&jetstream, &other, large.clone()).await;
    stack.wait_until_drained().await;
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    for (sequence, form, id, body) in [
        (1, Form::Whole, "order-1", small),
        (3, Form::Halves(2), "order-2", large),
    ] {
        let letter = letters::one(&stream, sequence).await.unwrap().unwrap();
        assert_eq!(letter.form, form);
        let original = letter.original_headers();
        assert_eq!(original.get("x-long").unwrap().as_str(), long);
        assert_eq!(original.get("ce-source").unwrap().as_str(), "/test");
        assert_eq!(original.get("Nats-Msg-Id").unwrap().as_str(), id);
        assert!(letter.body == body && letter.body_bytes == body.len() as u64);
    }
    let listed = listed(&stack, &[]);
    assert_eq!(
        (&listed[0]["bytes"], listed[1]["bytes"].as_u64()),
        (&4.into(), Some(room as u64))
    );
}

#[test]
fn a_letter_is_cut_at_the_same_byte_at_every_attempt() {
    let cut = |deliveries: &'static str| {
        let buried = Buried {
            body: Bytes::from(vec![b'x'; 100_000]),
            detail: deliveries,
            ..Buried::default()
        };
        match buried.outgoing(100_000) {
            Outgoing::Halves(first, second) => (first.body.len(), second.body.len()),
            Outgoing::Whole(_) => panic!("it does not fit"),
        }
    };
    let (first, second) = cut("short");
    assert_eq!(first + second, 100_000);
    assert_eq!(
        (first, second),
        cut("a detail that is a good deal longer than that")
    );
}

#[test]
fn a_subject_longer_than_a_command_of_the_server_is_cut_in_that_of_the_letter() {
    assert_eq!(letter_subject("events.a"), "dlq.events.a");
    let long = format!("events.{}", "token.".repeat(700));
    let cut = letter_subject(&long);
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
