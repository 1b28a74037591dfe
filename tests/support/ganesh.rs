//! The real binary, and `ganesh serve`.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tempfile::TempDir;

use super::servers::{free_port, send_signal};
use super::{PATIENCE, Stack, binary, eventually};

/// What a process may open after [`Ganesh::limit_files`], at most.
pub const FILES_MAX: usize = 1_024;

/// A running `ganesh serve`.
pub struct Ganesh {
    child: Child,
    admin: String,
    /// Where its API listens.
    pub api: String,
    folder: TempDir,
    log: PathBuf,
}

/// A command of the binary that sees these servers and settings, and no others of this machine.
pub fn command(stack: Option<&Stack>, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    with(binary::command(arguments, &[]), stack, settings)
}

/// The same of another build.
pub fn command_of(
    program: &str,
    stack: &Stack,
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> Command {
    with(
        binary::command_of(program, arguments, &[]),
        Some(stack),
        settings,
    )
}

fn with(mut command: Command, stack: Option<&Stack>, settings: &[(&str, &str)]) -> Command {
    if let Some(stack) = stack {
        command
            .env("NATS_URL", stack.nats_url())
            .env("POSTGRES_URL", &stack.database_url)
            .env("REDIS_URL", stack.redis_url());
    }
    command.envs(settings.iter().copied());
    command
}

/// Runs a command of the binary to its end.
pub fn run(stack: Option<&Stack>, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    binary::output(command(stack, arguments, settings))
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.expect("the kernel tells VmRSS") * 1024
}

impl Ganesh {
    /// Starts `ganesh serve`; it may not be ready yet.
    pub fn serve(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        Self::serve_of(binary::GANESH, stack, settings)
    }

    /// The same of another build.
    pub fn serve_of(program: &str, stack: &Stack, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (api_port, admin_port) = (free_port(), free_port());
        let log = folder.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let child = command_of(program, stack, &["serve"], &[])
            .env("GANESH_HTTP_ADDR", format!("127.0.0.1:{api_port}"))
            .env("GANESH_ADMIN_ADDR", format!("127.0.0.1:{admin_port}"))
            .envs(settings.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            child,
            admin: format!("http://127.0.0.1:{admin_port}"),
            api: format!("http://127.0.0.1:{api_port}"),
            folder,
            log,
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its admin endpoints are: address and port.
    pub fn admin_address(&self) -> String {
        self.admin.trim_start_matches("http://").to_owned()
    }

    /// Waits until `/readyz` says yes.
    pub async fn wait_until_ready(&self) {
        let started = Instant::now();
        loop {
            let answer = reqwest::get(format!("{}/readyz", self.admin)).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where an admin path is.
    pub fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.admin)
    }

    /// GET of an admin path: status and body.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.admin)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The value of a series, such as `ganesh_messages_settled_total{outcome="stored"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.admin("/metrics").await;
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in {text}"))
    }

    /// Waits until a series has at least this value.
    pub async fn wait_for_metric(&self, series: &str, at_least: f64) {
        eventually(&format!("{series} >= {at_least}"), || async {
            self.metric(series).await >= at_least
        })
        .await;
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid())
    }

    /// Has it open no more files than that; those that are open stay.
    pub fn limit_files(&self, files: usize) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let limit = Rlimit {
            current: Some(files as u64),
            maximum: Some(FILES_MAX as u64),
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }

    /// SIGTERM, and its exit status.
    pub async fn terminate(mut self) -> ExitStatus {
        send_signal(self.pid(), Signal::TERM);
        self.wait().await
    }

    /// Waits for its exit.
    pub async fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "still runs: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// kill -9.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Ganesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of ganesh in {} ---", self.folder.path().display());
            eprintln!("{}", self.log());
        }
    }
}

/// `ganesh produce`, until it is dropped.
pub struct Load(Child);

impl Load {
    /// One with these options.
    pub fn start(stack: &Stack, options: &[&str]) -> Self {
        let arguments = [&["produce"], options].concat();
        let mut producer = command(Some(stack), &arguments, &[]);
        producer.stdout(Stdio::null()).stderr(Stdio::null());
        Self(producer.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
