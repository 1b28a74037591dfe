//! A disk that is really full. That needs a file system of its own, and so the right to mount one;
//! where that is missing the test says so and ends (`server.rs` has the server's error alone).

use std::path::PathBuf;
use std::process::Command;

use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

use super::REDELIVERED;
use super::server::errors;
use crate::support::events::{events, publish};
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::servers::Server;
use crate::support::{Stack, eventually};

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
    let templates = concat!(env!("CARGO_TARGET_TMPDIR"), "/postgres-template");
    std::fs::create_dir_all(templates).unwrap();
    let environment = [
        ("TEMPLATE_DIR", templates),
        ("DATA_DIR", data.to_str().unwrap()),
        ("POSTGRES_ARGS", "-c min_wal_size=32MB -c max_wal_size=32MB"),
    ];
    let postgres = Server::start("postgres", &environment);
    let port = postgres.port();
    let database_url = format!("postgresql://ganesh:ganesh@127.0.0.1:{port}/ganesh");
    let options = || PgPoolOptions::new().max_connections(2);
    eventually("Postgres answers", || async {
        options().connect(&database_url).await.is_ok()
    })
    .await;
    Stack {
        pool: options().connect(&database_url).await.unwrap(),
        postgres: Some(postgres),
        database_url,
        ..Stack::start().await
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_is_waited_for_and_costs_no_row() {
    let Some(disk) = Disk::mount() else {
        eprintln!("not tried: no right to mount a file system here");
        return;
    };
    let stack = stack_on(&disk).await;
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
    std::fs::remove_file(disk.filler()).unwrap();
    // Where its log was full, Postgres has ended.
    let mut stack = stack;
    stack.postgres.as_mut().unwrap().run_if_ended();
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}
