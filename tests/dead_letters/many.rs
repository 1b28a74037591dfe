//! Many letters: read, replayed and deleted without holding them in memory.

use std::process::{Child, Stdio};
use std::time::Duration;

use bytes::Bytes;

use super::{make_streams, messages_in, write_many};
use crate::support::Stack;
use crate::support::ganesh::command;

const LETTERS: u64 = 50_000;
const BODY_BYTES: usize = 4_096;
/// A third of what the bodies alone have; what the commands need is bounded by pages of 4 MiB.
const RESIDENT_MAX_BYTES: u64 = 64 << 20;

/// The most that was resident, and what it said.
fn run(stack: &Stack, arguments: &[&str]) -> (u64, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name| std::fs::File::create(folder.path().join(name)).unwrap();
    let mut child = command(Some(stack), &[&["dlq"], arguments].concat(), &[])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .unwrap();
    let mut most = 0;
    let status = loop {
        most = high_water_bytes(&child).max(most);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(status.success(), "{}", said("err"));
    (most, said("out"))
}

/// The kernel's own peak: it is as good as the last look before the end.
fn high_water_bytes(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1_024
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_letters_are_listed_replayed_and_deleted_in_bounded_memory() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    write_many(&jetstream, LETTERS, &body).await;

    let (listing, table) = run(&stack, &["list"]);
    assert_eq!(table.lines().count() as u64, LETTERS + 2);
    let (replaying, said) = run(&stack, &["replay", "--limit", "20000"]);
    assert!(said.contains("replayed: 20000 of 20000"), "{said}");
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 20_000);
    let (purging, said) = run(&stack, &["purge", "--yes", "--reason", "invalid_json"]);
    assert!(said.contains("deleted: 30000 of 30000"), "{said}");
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
    let most = [listing, replaying, purging];
    assert!(
        most.iter()
            .all(|bytes| (1 << 20..RESIDENT_MAX_BYTES).contains(bytes)),
        "resident at most, list, replay, purge: {most:?}"
    );
}
