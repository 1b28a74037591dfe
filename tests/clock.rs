//! The wall clock of the machine is set, forward and back, under load.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ganesh::event::Event;
use tempfile::TempDir;

use crate::support::Stack;
use crate::support::events::{events, publish};
use crate::support::ledger::assert_each_is_one_row_or_one_letter;

const AHEAD: &str = "ganesh_clock_skew_seconds";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";
const HOUR_SECS: i64 = 3_600;

/// A library that steps the clock of a process that loads it, and the file that says how far.
struct Clock {
    folder: TempDir,
}

impl Clock {
    /// Compiles it with the linker that Rust needs as well.
    fn build() -> Self {
        let clock = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.library())
            .arg(source)
            .status()
            .unwrap();
        assert!(compiled.success());
        clock.step(0);
        clock
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("step")
    }

    /// Sets it so far ahead of the machine's. Written in place: the process has mapped the file, and
    /// a page of it that is gone for a moment would end that process.
    fn step(&self, seconds: i64) {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.file())
            .unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

#[tokio::test]
async fn steps_of_the_wall_clock_cost_nothing_and_are_shown() {
    let stack = Stack::start().await;
    let clock = Clock::build();
    let (library, file) = (clock.library(), clock.file());
    let settings = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("CLOCK_STEP_FILE", file.to_str().unwrap()),
        ("GANESH_ACK_WAIT", "3s"),
    ];
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let mut all = Vec::new();
    for (round, step) in [HOUR_SECS, -HOUR_SECS, 0].into_iter().enumerate() {
        // Held while the clock is set, and for longer than `ack_wait`.
        let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
        let held = events(&format!("held-{round}"), 300);
        publish(&jetstream, &held).await;
        ganesh
            .wait_for_metric("ganesh_in_flight_messages", 300.0)
            .await;
        clock.step(step);
        tokio::time::sleep(Duration::from_secs(4)).await;
        lock.rollback().await.unwrap();
        let behind = events(&format!("behind-{round}"), 300);
        publish(&jetstream, &behind).await;
        stack.wait_until_drained().await;
        if step < 0 {
            // The stream's timestamps are ahead by what it was set back.
            ganesh.wait_for_metric(AHEAD, 3_500.0).await;
        }
        all.extend(held.into_iter().chain(behind));
        // What is asked for is what Postgres says, whatever the time is.
        let newest: &Event = all.last().unwrap();
        let subject = newest.subject.as_deref().unwrap();
        let url = format!("{}/v1/subjects/{subject}/latest", ganesh.api);
        for _ in 0..2 {
            let answer = reqwest::get(&url).await.unwrap();
            let event: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(event["id"], newest.id.as_str());
        }
    }
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
    assert!(ganesh.terminate().await.success());
}
