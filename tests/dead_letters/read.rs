//! `ganesh dlq list` and `show`.

use async_nats::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ganesh::event::Timestamp;

use super::{Buried, dlq, listed, make_streams, messages_in, sequences, stderr, stdout};
use crate::support::Stack;

async fn stack_with(letters: &[Buried<'_>]) -> Stack {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    for letter in letters {
        letter.write(&jetstream).await;
    }
    stack
}

fn about<'a>(sequence: u64, subject: &'a str, reason: &'a str) -> Buried<'a> {
    Buried {
        subject,
        sequence,
        reason,
        ..Buried::default()
    }
}

#[tokio::test]
async fn a_list_says_how_many_there_are_and_then_which() {
    let stack = stack_with(&[
        about(1, "events.orders.eu", "invalid_json"),
        about(2, "events.orders.us", "rejected_row"),
    ])
    .await;
    let table = stdout(&dlq(&stack, &["list"]));
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("2 dead letters found in EVENTS_DLQ"));
    assert!(lines.next().unwrap().trim_start().starts_with("SEQUENCE"));
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest.len(), 2, "{table}");
    for part in [
        "invalid_json",
        "events.orders.eu",
        "the data is not valid JSON",
    ] {
        assert!(rest[0].contains(part), "{table}");
    }
    let json = dlq(&stack, &["list", "--json"]);
    assert_eq!(stderr(&json), "2 dead letters found in EVENTS_DLQ\n");
    let letters = listed(&stack, &[]);
    assert_eq!(letters[1]["reason"], "rejected_row");
    assert_eq!(letters[1]["stream_sequence"], 2);
    assert_eq!(letters[1]["bytes"], 2);
}

#[tokio::test]
async fn filters_pick_by_reason_subject_and_time_and_a_limit_the_oldest() {
    let stack = stack_with(&[
        about(1, "events.orders.eu", "invalid_json"),
        about(2, "events.orders.us", "rejected_row"),
        about(3, "events.users.eu", "rejected_row"),
    ])
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let since = Timestamp::now().to_string();
    let last = about(4, "events.orders.eu", "missing_attribute");
    last.write(&stack.jetstream().await).await;
    for (arguments, expected) in [
        (&["--reason", "rejected_row"][..], &[2, 3][..]),
        (&["--reason", "rejected_row,missing_attribute"], &[2, 3, 4]),
        (&["--subject", "events.orders.*"], &[1, 2, 4]),
        (
            &["--subject", "events.*.eu", "--reason", "rejected_row"],
            &[3],
        ),
        (&["--since", &since], &[4]),
        (&["--since", "1h", "--limit", "2"], &[1, 2]),
        (&["--subject", "events.nobody"], &[]),
    ] {
        assert_eq!(
            sequences(&listed(&stack, arguments)),
            expected,
            "{arguments:?}"
        );
    }
    let limited = dlq(&stack, &["list", "--limit", "1", "--subject", "events.>"]);
    let first = "4 dead letters found in EVENTS_DLQ, of which the first 1\n";
    assert!(stdout(&limited).starts_with(first), "{}", stdout(&limited));
}

#[tokio::test]
async fn what_somebody_wrote_into_a_letter_does_not_reach_the_terminal_as_a_control() {
    let stack = stack_with(&[]).await;
    let jetstream = stack.jetstream().await;
    let mut headers = HeaderMap::new();
    headers.insert("ganesh-dlq-reason", "\x1b[31mred");
    headers.insert("ganesh-dlq-detail", "bell \x07");
    headers.insert("x-own", "\x1b]0;title");
    let sent = jetstream.publish_with_headers("dlq.a", headers, "text \x1b[2J".into());
    sent.await.unwrap().await.unwrap();
    for arguments in [&["list"][..], &["show", "1"]] {
        let shown = stdout(&dlq(&stack, arguments));
        assert!(shown.contains("red"), "{shown}");
        let controls = shown.chars().filter(|c| c.is_control() && *c != '\n');
        assert_eq!(controls.count(), 0, "{shown:?}");
    }
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    assert!(stderr(&replayed).contains("not written by ganesh"));
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 1);
}

#[tokio::test]
async fn a_letter_is_shown_with_headers_and_the_start_of_its_body_and_raw_with_all_of_it() {
    let text = "grün\n".repeat(2_000);
    let bytes = Bytes::from_static(b"\xff\x00\x01ABC");
    let stack = stack_with(&[
        Buried {
            headers: &[("ce-id", "a-1"), ("Nats-Msg-Id", "m-1")],
            body: Bytes::from(text.clone()),
            ..Buried::default()
        },
        Buried {
            sequence: 2,
            body: bytes.clone(),
            ..Buried::default()
        },
    ])
    .await;
    let shown = stdout(&dlq(&stack, &["show", "1"]));
    for part in [
        "reason          invalid_json\n",
        "subject         events.test\n",
        "sequence        1\n",
        "deliveries      1\n",
        "  ce-id: a-1\n",
        "  Nats-Msg-Id: m-1\n",
        "12000 bytes, as text\n",
        "grün\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(shown.len() < 6_000 && shown.contains("bytes more: --raw"));
    assert_eq!(stdout(&dlq(&stack, &["show", "1", "--raw"])), text);
    let dump = stdout(&dlq(&stack, &["show", "2"]));
    assert!(dump.contains("00000000  ff 00 01 41 42 43"), "{dump}");
    assert!(dump.contains("...ABC"), "{dump}");
    assert_eq!(dlq(&stack, &["show", "2", "--raw"]).stdout, bytes);
}

fn base64_of_unreadable(bytes: usize) -> String {
    let mut headers = b"NATS/1.0\r\nx \xff: y".to_vec();
    headers.resize(bytes, b'y');
    BASE64_STANDARD.encode(headers)
}

#[tokio::test]
async fn headers_that_no_client_can_read_are_shown_and_their_message_is_not_replayed() {
    let unreadable = |sequence, headers, body| Buried {
        sequence,
        headers,
        body,
        reason: "unreadable",
        ..Buried::default()
    };
    let in_header = [("ganesh-dlq-headers-base64", "TkFUUy8xLjANCngg/zogeQ0KDQo=")];
    // Base64 of these has no room in a letter.
    let long = base64_of_unreadable(60_000);
    let in_object = [("ganesh-dlq-headers-base64", long.as_str())];
    let body = Bytes::from_static(b"body");
    let stack = stack_with(&[
        unreadable(1, &in_header, body.clone()),
        unreadable(2, &in_object, body),
    ])
    .await;
    for sequence in ["1", "2"] {
        let shown = stdout(&dlq(&stack, &["show", sequence]));
        assert!(shown.contains("NATS/1.0\\r\\nx \\xff: y"), "{shown}");
        assert_eq!(stdout(&dlq(&stack, &["show", sequence, "--raw"])), "body");
    }
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let said = stderr(&replayed);
    assert_eq!(said.matches("publish the event anew").count(), 2, "{said}");
    assert_eq!(listed(&stack, &[]).len(), 2);
}

#[tokio::test]
async fn mistakes_in_the_usage_are_said_all_at_once_and_exit_with_2() {
    let stack = Stack::start().await;
    let wrong = [
        "--reason",
        "nonsense",
        "--subject",
        "a..b",
        "--since",
        "yesterday",
        "--limit",
        "0",
    ];
    for command in ["list", "replay", "purge"] {
        let output = dlq(&stack, &[&[command], &wrong[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for expected in [
            "--reason=nonsense (GANESH_DLQ_REASON): expected one or several of",
            "--subject=a..b (GANESH_DLQ_SUBJECT): expected a subject such as",
            "--since=yesterday (GANESH_DLQ_SINCE): expected a duration",
            "--limit=0 (GANESH_DLQ_LIMIT): expected 1 or more",
        ] {
            assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        }
    }
    assert_eq!(dlq(&stack, &["show", "one"]).status.code(), Some(2));
    assert_eq!(dlq(&stack, &["show"]).status.code(), Some(2));
    let no_stream = dlq(&stack, &["list"]);
    assert_eq!(no_stream.status.code(), Some(1));
    assert!(
        stderr(&no_stream).contains("EVENTS_DLQ"),
        "{}",
        stderr(&no_stream)
    );
}

#[tokio::test]
async fn a_letter_that_is_not_there_is_a_failure_that_says_so() {
    let stack = stack_with(&[]).await;
    let output = dlq(&stack, &["show", "7"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("EVENTS_DLQ holds no letter 7"), "{said}");
}
