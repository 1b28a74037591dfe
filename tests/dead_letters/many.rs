//! Many letters: read, replayed and deleted without holding them in memory.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{make_streams, messages_in, write_many};
use crate::support::Stack;
use crate::support::ganesh::{command, run as ganesh};
use crate::support::proxy::{Manner, Proxy};

const BODY_BYTES: usize = 4_096;
/// Half of what the bodies of thirty thousand have; what the commands need is bounded by pages of 64 letters.
const RESIDENT_MAX_BYTES: u64 = 64 << 20;

/// A command that has ended well.
struct Ran {
    resident_max_bytes: u64,
    took: Duration,
    said: String,
}

fn run(stack: &Stack, arguments: &[&str]) -> Ran {
    let began = Instant::now();
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
    Ran {
        resident_max_bytes: most,
        took: began.elapsed(),
        said: said("out"),
    }
}

/// The kernel's own peak: it is as good as the last look before the end.
fn high_water_bytes(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1_024
}

/// Thirty thousand, or what `LETTERS` says.
fn letters() -> u64 {
    std::env::var("LETTERS").map_or(30_000, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_replayed_and_deleted_in_bounded_memory_however_many_they_are() {
    let letters = letters();
    let (replayed, deleted) = (letters / 5 * 2, letters - letters / 5 * 2);
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    write_many(&jetstream, letters, &body).await;

    let listing = run(&stack, &["list"]);
    assert_eq!(listing.said.lines().count() as u64, letters + 2);
    let replaying = run(&stack, &["replay", "--limit", &replayed.to_string()]);
    let expected = format!("replayed: {replayed} of {replayed}");
    assert!(replaying.said.contains(&expected), "{}", replaying.said);
    assert_eq!(messages_in(&jetstream, "EVENTS").await, replayed);
    let purging = run(&stack, &["purge", "--yes", "--reason", "invalid_json"]);
    let expected = format!("deleted: {deleted} of {deleted}");
    assert!(purging.said.contains(&expected), "{}", purging.said);
    assert_eq!(messages_in(&jetstream, "EVENTS_DLQ").await, 0);
    for (command, ran) in [("list", listing), ("replay", replaying), ("purge", purging)] {
        println!(
            "{command}: {} MiB, {:?}",
            ran.resident_max_bytes >> 20,
            ran.took
        );
        let bounds = 1 << 20..RESIDENT_MAX_BYTES;
        assert!(bounds.contains(&ran.resident_max_bytes), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_letter_was_not_found_in_time_is_not_known() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    write_many(&stack.jetstream().await, 3_000, &Bytes::from_static(b"x")).await;
    let proxy = Proxy::start(stack.nats.port()).await;
    // Each page of letters takes twice as long, and there are 47.
    proxy.behave(Manner::Delay(Duration::from_millis(100)));
    let nats = format!("nats://127.0.0.1:{}", proxy.port);
    for what in ["nobody", "0af7651916cd43dd8448eb211c80319c"] {
        let output = ganesh(Some(&stack), &["explain", what], &[("NATS_URL", &nats)]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.starts_with("what happened to the message is not known"),
            "{said}"
        );
        assert!(said.contains("too many to look at all"), "{said}");
    }
}
