//! `ganesh bench`.

use std::time::{Duration, Instant};

use clap::Command;

use super::{Failure, LOG_SETTINGS, print_line};
use crate::bench::{self, BenchOptions, BenchServers};
use crate::config::{Config, Group, flags, group_flags};

pub(super) fn command() -> Command {
    Command::new("bench")
        .about("Measure empty servers, a bare loop on them, and ganesh on them (Linux)")
        .args(group_flags(Group::Bench))
        .args(flags(["NATS_URL", "POSTGRES_URL", "REDIS_URL", "GANESH_STREAM", "GANESH_CONSUMER"]))
        .args(flags(LOG_SETTINGS))
        .after_help(
            "The servers must be empty, and the machine idle: `make bench` starts servers for it. ganesh runs with the \
             settings of this environment.",
        )
}

const CONNECT_EVERY: Duration = Duration::from_millis(200);

/// Waits until the servers answer.
async fn connect(config: &Config) -> anyhow::Result<Result<BenchServers, String>> {
    let deadline = Instant::now() + config.startup_timeout;
    loop {
        match BenchServers::connect(config).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(CONNECT_EVERY).await,
            result => return result,
        }
    }
}

pub(super) async fn run(config: Config, options: BenchOptions) -> Result<(), Failure> {
    let servers = connect(&config).await?.map_err(Failure::Usage)?;
    let report = bench::run(&config, &options, &servers).await?;
    if options.json {
        print_line(serde_json::to_string(&report)?);
    } else {
        print_line(report);
    }
    Ok(())
}
