//! The processes that are measured: `ganesh serve` and `ganesh produce`, this same program.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::config::Config;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How to start them on the servers of the bench.
pub(super) struct Processes {
    program: PathBuf,
    /// Flags of the bench would not reach them otherwise.
    settings: [(&'static str, String); 3],
}

/// A running `serve`.
pub(super) struct Serve {
    child: Child,
}

/// What a `produce` reported (src/produce/report.rs).
#[derive(Debug, Deserialize)]
pub(super) struct Produce {
    pub(super) published: u64,
    pub(super) failed: u64,
    pub(super) rate_per_second: f64,
    pub(super) send_delay_ms: Quantiles,
}

#[derive(Debug, Deserialize)]
pub(super) struct Quantiles {
    pub(super) p99: f64,
}

impl Processes {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let urls = [
            ("NATS_URL", &config.nats.url),
            ("POSTGRES_URL", &config.postgres.url),
            ("REDIS_URL", &config.cache.url),
        ];
        Ok(Self {
            program: std::env::current_exe()?,
            settings: urls.map(|(name, url)| (name, url.expose().to_owned())),
        })
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(subcommand)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env("GANESH_LOG", "warn")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        command
    }

    /// Starts one, and waits until it is ready.
    pub(super) async fn serve(&self) -> anyhow::Result<Serve> {
        // Free now, and likely in a moment.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let admin = format!("127.0.0.1:{port}");
        let mut command = self.command("serve");
        command
            .env("GANESH_ADMIN_ADDR", &admin)
            .env("GANESH_HTTP_ADDR", "off")
            .stdout(Stdio::null());
        let mut child = command.spawn().context("ganesh serve")?;
        let began = Instant::now();
        loop {
            let answer = reqwest::get(format!("http://{admin}/readyz")).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(Serve { child });
            }
            if let Some(status) = child.try_wait()? {
                bail!("ganesh serve ended at its start: {status}");
            }
            ensure!(
                began.elapsed() < START_TIMEOUT,
                "ganesh serve is not ready after 60 s"
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Runs one to its end.
    pub(super) async fn produce(&self, arguments: &[&str]) -> anyhow::Result<Produce> {
        let mut command = self.command("produce");
        command.arg("--json").args(arguments);
        let output = command
            .stdout(Stdio::piped())
            .output()
            .await
            .context("ganesh produce")?;
        ensure!(
            output.status.success(),
            "ganesh produce ended with {}",
            output.status
        );
        serde_json::from_slice(&output.stdout).context("the report of ganesh produce")
    }
}

impl Serve {
    /// Resident memory, in bytes.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kibibytes * 1_024)
    }

    /// Ends it in good order.
    pub(super) async fn terminate(mut self) -> anyhow::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            kill_process(id, Signal::TERM)?;
        }
        let status = self.child.wait().await?;
        ensure!(status.success(), "ganesh serve ended with {status}");
        Ok(())
    }
}
