//! `ganesh dlq purge`.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Output, Stdio};

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, Stream};
use bytes::Bytes;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use super::{
    Buried, dlq, listed, make_streams, messages_in, sequences, stderr, stdout, write_many,
};
use crate::support::ganesh::command;
use crate::support::servers::send_signal;
use crate::support::{Stack, eventually};

async fn stack_with_four() -> Stack {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    for (sequence, subject, reason) in [
        (1, "events.orders", "invalid_json"),
        (2, "events.users", "rejected_row"),
        (3, "events.orders", "rejected_row"),
        (4, "events.users", "invalid_json"),
    ] {
        let letter = Buried {
            subject,
            sequence,
            reason,
            ..Buried::default()
        };
        letter.write(&jetstream).await;
    }
    stack
}

/// A terminal: our end, and the one that a process gets.
pub(super) fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (File::from(ours), theirs)
}

/// Answers on a terminal.
fn answer(stack: &Stack, answer: &[u8]) -> Output {
    let (mut ours, theirs) = terminal();
    ours.write_all(answer).unwrap();
    let folder = tempfile::tempdir().unwrap();
    command(Some(stack), &["dlq", "purge"], &[])
        .current_dir(folder.path())
        .stdin(theirs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

#[tokio::test]
async fn without_a_terminal_or_yes_nothing_is_deleted_and_the_exit_code_is_2() {
    let stack = stack_with_four().await;
    let folder = tempfile::tempdir().unwrap();
    let output = command(Some(&stack), &["dlq", "purge"], &[])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--yes"), "{}", stderr(&output));
    assert_eq!(listed(&stack, &[]).len(), 4);
}

#[tokio::test]
async fn on_a_terminal_it_asks_and_does_what_the_answer_says() {
    let stack = stack_with_four().await;
    let no = answer(&stack, b"n\n");
    assert!(no.status.success());
    assert!(
        stderr(&no).contains("Delete 4 dead letters for good?"),
        "{}",
        stderr(&no)
    );
    assert!(stdout(&no).contains("nothing was deleted"));
    assert_eq!(listed(&stack, &[]).len(), 4);
    let yes = answer(&stack, b"y\n");
    assert!(stdout(&yes).contains("deleted: 4 of 4"), "{}", stdout(&yes));
    assert_eq!(listed(&stack, &[]).len(), 0);
}

#[tokio::test]
async fn only_what_the_filters_pick_is_deleted() {
    let stack = stack_with_four().await;
    let deleted = dlq(
        &stack,
        &["purge", "--yes", "--reason", "rejected_row", "--limit", "1"],
    );
    assert!(
        stdout(&deleted).contains("deleted: 1 of 1\n"),
        "{}",
        stdout(&deleted)
    );
    assert_eq!(sequences(&listed(&stack, &[])), [1, 3, 4]);
    // By subject alone the server does it in one step.
    let deleted = dlq(&stack, &["purge", "--yes", "--subject", "events.orders"]);
    assert!(
        stdout(&deleted).contains("deleted: 2 of 2\n"),
        "{}",
        stdout(&deleted)
    );
    assert_eq!(sequences(&listed(&stack, &[])), [4]);
}

#[tokio::test]
async fn a_letter_in_two_messages_that_the_server_deletes_counts_as_one() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let halved = Buried {
        body: Bytes::from(vec![b'7'; jetstream.client().max_payload() - 20]),
        ..Buried::default()
    };
    halved.write(&jetstream).await;
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 2);
    let deleted = dlq(&stack, &["purge", "--yes"]);
    assert!(deleted.status.success(), "{}", stderr(&deleted));
    let said = stdout(&deleted);
    assert!(said.ends_with("deleted: 1 of 1\n"), "{said}");
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
}

#[tokio::test]
async fn it_says_how_many_the_server_deleted_and_fails_when_they_are_fewer_than_it_counted() {
    let stack = stack_with_four().await;
    let (mut ours, theirs) = terminal();
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(Some(&stack), &["dlq", "purge"], &[])
        .current_dir(folder.path())
        .stdin(theirs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Somebody else is faster than the answer.
    let mut question = [0; b"Delete 4 dead letters".len()];
    let asking = child.stderr.as_mut().unwrap();
    asking.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"Delete 4 dead letters");
    let jetstream = stack.jetstream().await;
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    letters.delete_message(2).await.unwrap();
    ours.write_all(b"y\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(said.ends_with("deleted: 3 of 4\n"), "{said}");
    let why = "the server deleted 3 messages of EVENTS_DLQ where 4 letters were counted";
    assert!(stderr(&output).contains(why), "{}", stderr(&output));
}

#[tokio::test]
async fn interrupted_it_says_how_many_it_deleted_and_the_rest_is_there() {
    const LETTERS: u64 = 20_000;
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    write_many(&jetstream, LETTERS, &Bytes::from_static(b"{")).await;
    let folder = tempfile::tempdir().unwrap();
    let child = command(
        Some(&stack),
        &["dlq", "purge", "--yes", "--reason", "invalid_json"],
        &[],
    )
    .current_dir(folder.path())
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    eventually("it has begun", || async {
        messages_in(&jetstream, "EVENTS_DLQ").await < LETTERS
    })
    .await;
    send_signal(child.id(), Signal::INT);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success());
    let left = messages_in(&jetstream, "EVENTS_DLQ").await;
    assert!(left > 0, "too late to prove anything");
    let deleted = LETTERS - left;
    let expected = format!("deleted: {deleted} of {LETTERS}, then interrupted\n");
    assert!(stdout(&output).ends_with(&expected), "{}", stdout(&output));
}

#[tokio::test]
async fn a_first_half_is_not_lost_where_room_is_made_before_the_second_one_is_stored() {
    let mut stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    // Room for the first half, and never for the second one.
    let limit = async |max_bytes| {
        let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
        let config = Config {
            max_bytes,
            ..stream.cached_info().config.clone()
        };
        jetstream.update_stream(config).await.unwrap();
    };
    limit(500_000).await;
    let body = publish_for_two_halves(&jetstream).await;
    eventually("the second half is refused", || async {
        ganesh.log().contains("a dead letter was not stored")
    })
    .await;
    // Ours leaves it where it is.
    let output = dlq(&stack, &["purge", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("deleted: 0 of 1\nkept: 1"), "{said}");
    // Somebody else's does not.
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    stream.purge().await.unwrap();
    limit(-1).await;
    stack.wait_until_drained().await;
    let letters = listed(&stack, &[]);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_is_whole(&stack, &letters[0], &body);
    let replayed = dlq(&stack, &["replay", "--dry-run"]);
    assert!(stdout(&replayed).contains("would be replayed: 1 of 1"));
    assert!(ganesh.terminate().await.success());
    bury_again(&stack, "second").await;
    assert_is_the_only_letter(&stack, &body).await;
    // Then it has forgotten the first half that was deleted.
    stack.nats.crash();
    stack.nats.run();
    bury_again(&stack, "third").await;
    assert_is_the_only_letter(&stack, &body).await;
}

/// Publishes no event, larger with a letter's headers than a message may be. Returns its body.
async fn publish_for_two_halves(jetstream: &Context) -> Bytes {
    let room = jetstream.client().max_payload() - 1_000;
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    let body: Bytes = (0..room).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let published = jetstream.publish_with_headers("events.large", headers, body.clone());
    published.await.unwrap().await.unwrap();
    body
}

fn assert_is_whole(stack: &Stack, letter: &Value, body: &Bytes) {
    assert_eq!(letter["bytes"], body.len());
    let shown = dlq(stack, &["show", &letter["sequence"].to_string(), "--raw"]);
    assert!(shown.stdout == *body, "the body is not as it was");
}

/// A message of two halves, buried.
async fn buried_in_two() -> (Stack, Stream, Bytes) {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let body = publish_for_two_halves(&jetstream).await;
    stack.wait_until_drained().await;
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 2);
    assert!(ganesh.terminate().await.success());
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    (stack, letters, body)
}

/// Has everything delivered for the first time, to another consumer, and buried again.
async fn bury_again(stack: &Stack, consumer: &str) {
    let other = stack.serve(&[("GANESH_CONSUMER", consumer)]).await;
    other
        .wait_for_metric(
            "ganesh_messages_settled_total{outcome=\"dead_lettered\"}",
            1.0,
        )
        .await;
    assert!(other.terminate().await.success());
}

async fn assert_is_the_only_letter(stack: &Stack, body: &Bytes) {
    let jetstream = stack.jetstream().await;
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 2);
    let letters = listed(stack, &[]);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_is_whole(stack, &letters[0], body);
}

#[tokio::test]
async fn a_letter_that_somebody_deleted_leaves_no_half_when_its_message_is_delivered_again() {
    let (stack, letters, _) = buried_in_two().await;
    letters.purge().await.unwrap();
    bury_again(&stack, "other").await;
    let jetstream = stack.jetstream().await;
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
}

#[tokio::test]
async fn a_letter_whose_first_half_somebody_deleted_is_whole_when_its_message_is_delivered_again() {
    let (stack, letters, body) = buried_in_two().await;
    assert!(letters.delete_message(1).await.unwrap());
    for consumer in ["second", "third"] {
        bury_again(&stack, consumer).await;
        assert_is_the_only_letter(&stack, &body).await;
    }
    letters.purge().await.unwrap();
    bury_again(&stack, "fourth").await;
    let jetstream = stack.jetstream().await;
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
}

/// A server that starts again remembers the ids of the messages that it has.
#[tokio::test]
async fn a_first_half_of_which_the_server_forgot_that_it_had_it_makes_the_letter_whole() {
    let (mut stack, letters, body) = buried_in_two().await;
    assert!(letters.delete_message(1).await.unwrap());
    stack.nats.crash();
    stack.nats.run();
    bury_again(&stack, "other").await;
    assert_is_the_only_letter(&stack, &body).await;
}
