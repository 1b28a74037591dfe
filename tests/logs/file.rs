//! `app.log` in `GANESH_LOG_DIR`: what is in it, and that it costs lines at worst.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{objects, with_message};
use crate::support::events::{events, publish};
use crate::support::ganesh::run;
use crate::support::servers::send_signal;
use crate::support::{Ganesh, PATIENCE, Stack, eventually};

const LOST: &str = "log lines are lost: the log file cannot be written";
const WERE_LOST: &str = "log lines did not reach the log file";

/// A folder, and `app.log` in it.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.log");
    (folder, file)
}

/// A `serve` that logs there, many lines a second: each statement of its background tasks.
async fn serve(stack: &Stack, folder: &Path) -> Ganesh {
    let settings = [
        ("GANESH_LOG_DIR", folder.to_str().unwrap()),
        ("GANESH_LOG", "info,sqlx=debug"),
    ];
    stack.serve(&settings).await
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

async fn grows(file: &Path) {
    let length = || fs::metadata(file).map_or(0, |file| file.len());
    let before = length();
    eventually("the log file grows", || async { length() > before }).await;
}

async fn store(stack: &Stack, prefix: &str) {
    let before = stack.rows().await;
    publish(&stack.jetstream().await, &events(prefix, 100)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, before + 100);
}

/// SIGTERM, and all that it has logged on standard error.
async fn terminated(mut ganesh: Ganesh) -> String {
    send_signal(ganesh.pid(), Signal::TERM);
    assert!(ganesh.wait().await.success());
    ganesh.log()
}

#[tokio::test]
async fn app_log_gets_every_line_to_the_last_as_standard_error_does() {
    let stack = Stack::start().await;
    let (folder, _) = folder();
    // Made when missing.
    let inner = folder.path().join("a/b");
    let file = inner.join("app.log");
    let ganesh = serve(&stack, &inner).await;
    store(&stack, "e").await;
    let log = terminated(ganesh).await;
    // Two threads may be in another order here than there.
    let sorted = |log: &str| {
        let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&read(&file)), sorted(&log));
    assert_eq!(with_message(&log, "stopped").len(), 1);
    // The next process appends.
    terminated(serve(&stack, &inner).await).await;
    assert_eq!(with_message(&read(&file), "stopped").len(), 2);
}

#[tokio::test]
async fn app_log_is_json_beside_text_on_standard_error() {
    let stack = Stack::start().await;
    let (folder, file) = folder();
    let settings = [
        ("GANESH_LOG_DIR", folder.path().to_str().unwrap()),
        ("GANESH_LOG_FORMAT", "text"),
    ];
    let ganesh = stack.serve(&settings).await;
    assert!(ganesh.log().contains(" INFO "), "{}", ganesh.log());
    eventually("the log file has the line", || async {
        with_message(&read(&file), "serving").len() == 1
    })
    .await;
}

#[tokio::test]
async fn app_log_survives_rotation_by_renaming_by_truncating_and_by_removing_the_folder() {
    let stack = Stack::start().await;
    let (folder, file) = folder();
    let inner = folder.path().join("logs");
    let file = inner.join(file.file_name().unwrap());
    let ganesh = serve(&stack, &inner).await;
    grows(&file).await;
    fs::rename(&file, inner.join("app.log.1")).unwrap();
    grows(&file).await;
    // As logrotate's copytruncate does it. A writer that kept its offset would leave a hole.
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(0)
        .unwrap();
    grows(&file).await;
    assert!(!read(&file).contains('\0'));
    objects(&read(&file));
    fs::remove_dir_all(&inner).unwrap();
    grows(&file).await;
    objects(&read(&file));
    store(&stack, "e").await;
    assert!(
        with_message(&ganesh.log(), LOST).is_empty(),
        "{}",
        ganesh.log()
    );
}

#[tokio::test]
async fn a_full_disk_costs_lines_which_are_counted_and_said_once() {
    let stack = Stack::start().await;
    let (folder, file) = folder();
    // Every write fails with ENOSPC.
    symlink("/dev/full", &file).unwrap();
    let ganesh = serve(&stack, folder.path()).await;
    store(&stack, "full").await;
    eventually("it is said", || async {
        !with_message(&ganesh.log(), LOST).is_empty()
    })
    .await;
    store(&stack, "said").await;
    let lines = with_message(&ganesh.log(), LOST);
    assert_eq!(lines.len(), 1, "{}", ganesh.log());
    assert!(lines[0]["why"].as_str().unwrap().contains("No space left"));
    fs::remove_file(&file).unwrap();
    grows(&file).await;
    eventually("what was lost is said", || async {
        !with_message(&ganesh.log(), WERE_LOST).is_empty()
    })
    .await;
    let log = terminated(ganesh).await;
    let mut lines = with_message(&log, LOST);
    lines.extend(with_message(&log, WERE_LOST));
    let lost: u64 = lines
        .iter()
        .map(|line| line["lines"].as_u64().unwrap())
        .sum();
    let (said, written) = (log.lines().count(), objects(&read(&file)).len());
    assert_eq!(u64::try_from(said - written).unwrap(), lost, "{log}");
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_neither_messages_nor_the_end() {
    let stack = Stack::start().await;
    let (folder, file) = folder();
    assert!(
        Command::new("mkfifo")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
    // Takes 64 KiB, and after that every write waits for a reader that never comes.
    let _reader = fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    let ganesh = serve(&stack, folder.path()).await;
    // Each request logs a statement.
    let ask = async || {
        let url = format!("{}/v1/events/unknown?source=/x", ganesh.api);
        assert_eq!(reqwest::get(url).await.unwrap().status(), 404);
    };
    let work = async {
        while ganesh.log().len() < 256 << 10 {
            for _ in 0..50 {
                ask().await;
            }
        }
        store(&stack, "e").await;
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("what hangs is the disk, and nothing else");
    let started = Instant::now();
    assert!(ganesh.terminate().await.success());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_ends_the_start_with_2_but_no_command_that_only_asks() {
    let (folder, file) = folder();
    fs::write(&file, "").unwrap();
    // Under a file there is no folder.
    let nowhere = file.join("logs");
    let settings = [
        ("GANESH_LOG_DIR", nowhere.to_str().unwrap()),
        ("GANESH_ADMIN_ADDR", "127.0.0.1:1"),
    ];
    for command in ["serve", "produce", "migrate"] {
        let output = run(None, &[command], &settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        let start = format!("ganesh: GANESH_LOG_DIR={}: ", nowhere.display());
        assert!(
            said.starts_with(&start) && said.contains("expected"),
            "{said}"
        );
    }
    for command in ["healthcheck", "log-level"] {
        let output = run(None, &[command], &settings);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
    }
    drop(folder);
}
