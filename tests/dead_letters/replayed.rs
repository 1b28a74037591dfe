//! `ganesh dlq replay`.

use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use ganesh::event::Timestamp;
use rustix::process::Signal;
use sqlx::types::time::OffsetDateTime;

use super::purged::terminal;
use super::{
    Buried, dlq, listed, make_streams, messages_in, sequences, stderr, stdout, write_many,
};
use crate::support::Stack;
use crate::support::ganesh::{command, run};
use crate::support::servers::send_signal;

/// A terminal that can move its cursor.
const IN_XTERM: [(&str, &str); 1] = [("TERM", "xterm")];
const NO_PLAIN: [(&str, &str); 1] = [("GANESH_ACCEPT_PLAIN", "false")];

async fn stack_with_letters(count: u64) -> (Stack, Context) {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    write_many(&jetstream, count, &Bytes::from_static(b"{}")).await;
    (stack, jetstream)
}

async fn publish_plain(jetstream: &Context, id: Option<&str>) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("x-own", "kept");
    if let Some(id) = id {
        headers.insert("Nats-Msg-Id", id);
    }
    let sent = jetstream.publish_with_headers("events.test", headers, "{}".into());
    sent.await.unwrap().await.unwrap();
}

async fn message_ids(jetstream: &Context, sequences: std::ops::RangeInclusive<u64>) -> Vec<String> {
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut ids = Vec::new();
    for sequence in sequences {
        let message = stream.get_raw_message(sequence).await.unwrap();
        ids.push(message.headers.get("Nats-Msg-Id").unwrap().to_string());
    }
    ids
}

#[tokio::test]
async fn two_replays_of_a_plain_message_make_one_row_with_its_first_id_and_time() {
    let stack = Stack::start().await;
    let strict = stack.serve(&NO_PLAIN).await;
    let jetstream = stack.jetstream().await;
    publish_plain(&jetstream, None).await;
    publish_plain(&jetstream, Some("order-1")).await;
    stack.wait_until_drained().await;
    strict.terminate().await;
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let mut first_times = Vec::new();
    for sequence in 1..=2 {
        first_times.push(events.get_raw_message(sequence).await.unwrap().time);
    }
    // The stream forgets an id at once, as it would before a replay of tomorrow.
    let config = Config {
        duplicate_window: Duration::from_millis(100),
        ..events.cached_info().config.clone()
    };
    jetstream.update_stream(config).await.unwrap();
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = letters.get_raw_message(1).await.unwrap();
    let other = letters.get_raw_message(2).await.unwrap();

    let ganesh = stack.serve(&[]).await;
    for replay in 0..2 {
        let replayed = dlq(&stack, &["replay"]);
        assert!(replayed.status.success(), "{}", stderr(&replayed));
        assert!(
            stdout(&replayed).contains("replayed: 2 of 2\n"),
            "{}",
            stdout(&replayed)
        );
        assert_eq!(stack.dead_letters().await, 0);
        if replay == 0 {
            for mut again in [letter.clone(), other.clone()] {
                again
                    .headers
                    .insert("Nats-Msg-Id", format!("again-{}", again.sequence));
                let sent =
                    jetstream.publish_with_headers(again.subject, again.headers, again.payload);
                sent.await.unwrap().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    stack.wait_until_drained().await;
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 6);
    let rows: Vec<(String, OffsetDateTime)> =
        sqlx::query_as("SELECT id, time FROM events ORDER BY id")
            .fetch_all(&stack.pool)
            .await
            .unwrap();
    let micros = |time: OffsetDateTime| time.unix_timestamp_nanos() / 1_000;
    let rows: Vec<_> = rows
        .iter()
        .map(|(id, time)| (id.as_str(), micros(*time)))
        .collect();
    let expected = [
        ("EVENTS:1", micros(first_times[0])),
        ("order-1", micros(first_times[1])),
    ];
    assert_eq!(rows, expected);
    let duplicates = "ganesh_messages_settled_total{outcome=\"duplicate\"}";
    ganesh.wait_for_metric(duplicates, 2.0).await;
}

#[tokio::test]
async fn a_replay_that_fails_again_is_a_letter_of_the_next_generation_up_to_the_limit() {
    let stack = Stack::start().await;
    let _strict = stack.serve(&NO_PLAIN).await;
    let jetstream = stack.jetstream().await;
    publish_plain(&jetstream, Some("order-1")).await;
    stack.wait_until_drained().await;
    let first_seen = listed(&stack, &[])[0]["first_seen"].clone();
    for generation in 1..=2 {
        let replayed = dlq(&stack, &["replay", "--max-generation", "2"]);
        assert!(replayed.status.success(), "{}", stderr(&replayed));
        stack.wait_until_drained().await;
        let letters = listed(&stack, &[]);
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0]["generation"], generation);
        assert_eq!(letters[0]["first_seen"], first_seen);
    }
    let refused = dlq(&stack, &["replay", "--max-generation", "2"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--max-generation 3 replays it once more"));
    assert_eq!(listed(&stack, &[]).len(), 1);
    let ids = message_ids(&jetstream, 1..=3).await;
    assert_eq!(ids, ["order-1", "order-1~1", "order-1~2"]);
    // What the message itself had is there, and once.
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let last = stream.get_raw_message(3).await.unwrap();
    assert_eq!(last.headers.get_all("x-own").count(), 1);
    assert_eq!(
        last.headers.get("ganesh-dlq-generation").unwrap().as_str(),
        "2"
    );
}

#[tokio::test]
async fn an_answer_that_says_duplicate_is_no_replay_and_the_letter_stays() {
    let (stack, jetstream) = stack_with_letters(3).await;
    publish_plain(&jetstream, Some("m-2~1")).await;
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let said = stderr(&replayed);
    assert!(said.contains("letter 2 stays: duplicate"), "{said}");
    assert!(stdout(&replayed).contains("replayed: 2 of 3, 1 were duplicates"));
    assert_eq!(sequences(&listed(&stack, &[])), [2]);
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 3);
}

#[tokio::test]
async fn headers_that_nats_acts_on_are_not_sent_a_second_time() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let buried = Buried {
        headers: &[
            ("Nats-Expected-Last-Sequence", "77"),
            ("Nats-Rollup", "all"),
        ],
        ..Buried::default()
    };
    buried.write(&jetstream).await;
    publish_plain(&jetstream, None).await;
    let replayed = dlq(&stack, &["replay"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 2, "rolled up");
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let (stack, jetstream) = stack_with_letters(3).await;
    let dry = dlq(&stack, &["replay", "--dry-run", "--limit", "2"]);
    assert!(dry.status.success());
    let said = stdout(&dry);
    assert!(
        said.contains("events.test  as m-1~1\n") && said.contains("as m-2~1\n"),
        "{said}"
    );
    assert!(said.contains("would be replayed: 2 of 2"), "{said}");
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 0);
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 3);
}

#[tokio::test]
async fn a_replay_takes_what_its_filters_say_and_leaves_the_rest() {
    let (stack, jetstream) = stack_with_letters(0).await;
    let letters = [
        ("events.a", "invalid_json"),
        ("events.b", "invalid_json"),
        ("events.a", "rejected_row"),
    ];
    for (sequence, (subject, reason)) in (1..).zip(letters) {
        let buried = Buried {
            subject,
            sequence,
            reason,
            ..Buried::default()
        };
        buried.write(&jetstream).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let since = Timestamp::now().to_string();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let late = Buried {
        sequence: 4,
        ..Buried::default()
    };
    late.write(&jetstream).await;
    for (filter, left) in [
        (["--subject", "events.b"], vec![1, 3, 4]),
        (["--reason", "rejected_row"], vec![1, 4]),
        (["--since", &since], vec![1]),
    ] {
        let replayed = dlq(&stack, &[&["replay"], filter.as_slice()].concat());
        assert!(replayed.status.success(), "{}", stderr(&replayed));
        assert!(stdout(&replayed).contains("replayed: 1 of 1"), "{filter:?}");
        assert_eq!(sequences(&listed(&stack, &[])), left, "{filter:?}");
    }
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 3);
}

#[tokio::test]
async fn a_rate_is_not_exceeded() {
    let (stack, jetstream) = stack_with_letters(30).await;
    let started = Instant::now();
    let replayed = dlq(&stack, &["replay", "--rate", "20"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    assert!(
        started.elapsed() > Duration::from_millis(1_400),
        "29 intervals of 50 ms"
    );
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 30);
}

#[tokio::test]
async fn ctrl_c_ends_a_replay_cleanly_and_says_how_far_it_came() {
    let (stack, jetstream) = stack_with_letters(1_000).await;
    let folder = tempfile::tempdir().unwrap();
    let child = command(Some(&stack), &["dlq", "replay", "--rate", "50"], &[])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    crate::support::eventually("some are replayed", || async {
        messages_in(&jetstream, "EVENTS").await > 5
    })
    .await;
    send_signal(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let replayed = messages_in(&jetstream, "EVENTS").await;
    assert!(replayed < 1_000);
    let said = stdout(&output);
    let expected = format!("replayed: {replayed} of 1000, then interrupted");
    assert!(said.contains(&expected), "{said}, not {expected}");
    let left = messages_in(&jetstream, "EVENTS_DLQ").await;
    assert_eq!(left, 1_000 - replayed);
}

/// What a replay shows on a terminal, but for its results.
fn shown_on_terminal(stack: &Stack) -> String {
    let (mut ours, theirs) = terminal();
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(Some(stack), &["dlq", "replay"], &IN_XTERM);
    command.current_dir(folder.path()).stderr(theirs);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    // It holds the other end, without which reading would end in time.
    drop(command);
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        // Ends with EIO when nobody holds the other end any more.
        let _ = ours.read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    });
    assert!(child.wait().unwrap().success());
    reader.join().unwrap()
}

#[tokio::test]
async fn a_terminal_sees_how_far_a_replay_has_come_and_a_pipe_does_not() {
    let (stack, jetstream) = stack_with_letters(1_000).await;
    let piped = run(
        Some(&stack),
        &["dlq", "replay", "--limit", "100"],
        &IN_XTERM,
    );
    assert!(piped.status.success());
    assert_eq!(stderr(&piped), "");
    let shown = shown_on_terminal(&stack);
    assert!(
        shown.contains('\r') && shown.contains(" of 900, "),
        "{shown:?}"
    );
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 1_000);
}

#[tokio::test]
async fn a_message_for_which_there_is_no_stream_stays_a_letter() {
    let (stack, jetstream) = stack_with_letters(2).await;
    let lost = Buried {
        sequence: 9,
        subject: "elsewhere.test",
        ..Buried::default()
    };
    lost.write(&jetstream).await;
    let sequence = 3;
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let said = stderr(&replayed);
    let stays = format!("letter {sequence} stays: stream EVENTS does not take the subject");
    assert!(said.contains(&stays), "{said}");
    assert_eq!(sequences(&listed(&stack, &[])), [sequence]);
}
