//! A disk that is really full. That needs a file system of its own, and so the right to mount one;
//! where that is missing the test says so and ends (`server.rs` has the server's error alone).

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::REDELIVERED;
use super::server::errors;
use crate::support::events::{events, publish};
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::{PATIENCE, Stack, eventually, servers};

/// A cluster, its write-ahead log, and a little.
const DISK: &str = "size=160m";
/// What is left of it for the test's rows.
const FREE_BYTES: u64 = 6 << 20;

/// A small file system in memory.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
            .arg(folder.path())
            .output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self { folder })
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// Fills it but for so much.
    fn fill(&self, free_bytes: u64) {
        let stat = rustix::fs::statvfs(self.folder.path()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let zeros = vec![0; usize::try_from(free - free_bytes).unwrap()];
        std::fs::write(self.filler(), zeros).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has it open keeps it until he is done.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.folder.path())
            .status();
    }
}

async fn stack_on(disk: &Disk) -> Stack {
    let data = disk.folder.path().join("postgres");
    let environment = [
        ("DATA_DIR", data.to_str().unwrap()),
        ("POSTGRES_ARGS", "-c min_wal_size=32MB -c max_wal_size=32MB"),
    ];
    Stack::start_on(servers::postgres_with(&environment)).await
}

/// Where its log was full, Postgres ends, which may be only now: it is started again until all is
/// settled.
async fn wait_until_drained_starting_postgres(stack: &mut Stack) {
    let began = Instant::now();
    while stack.backlog().await > 0 {
        assert!(began.elapsed() < PATIENCE, "the backlog stays");
        stack.postgres.as_mut().unwrap().run_if_ended();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_is_waited_for_and_costs_no_row() {
    let Some(disk) = Disk::mount() else {
        eprintln!("not tried: no right to mount a file system here");
        return;
    };
    let mut stack = stack_on(&disk).await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "5s")]).await;
    disk.fill(FREE_BYTES);
    let all = events("e", 60_000);
    publish(&stack.jetstream().await, &all).await;
    // A table that cannot grow is 53100; a log that cannot is a panic of the server, which then
    // starts again and again.
    eventually("Postgres refuses", || async {
        let mut refused = 0.0;
        for code in ["resources", "unavailable", "connection"] {
            refused += ganesh.metric(&errors(code)).await;
        }
        refused >= 3.0
    })
    .await;
    assert!(stack.backlog().await > 0);
    let said = stack.postgres.as_ref().unwrap().log();
    assert!(said.contains("No space left on device"), "{said}");
    std::fs::remove_file(disk.filler()).unwrap();
    wait_until_drained_starting_postgres(&mut stack).await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}
