//! `ganesh dlq purge`.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Output, Stdio};

use bytes::Bytes;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

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
    let deleted = dlq(&stack, &["purge", "--yes", "--subject", "events.orders"]);
    assert!(
        stdout(&deleted).contains("deleted: 2 of 2\n"),
        "{}",
        stdout(&deleted)
    );
    assert_eq!(sequences(&listed(&stack, &[])), [4]);
}

#[tokio::test]
async fn it_counts_what_it_deleted_and_not_what_somebody_else_deleted_meanwhile() {
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
    assert!(output.status.success());
    let said = stdout(&output);
    assert!(said.ends_with("deleted: 3 of 4\n"), "{said}");
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
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
