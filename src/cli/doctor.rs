//! `ganesh doctor`: each dependency, one line a finding, with the fix.

mod cache;
mod links;
mod nats;
mod postgres;
mod reads;

use std::fmt::Display;
use std::time::Duration;

use anyhow::anyhow;
use clap::Command;

use super::{Failure, LOG_SETTINGS, print_line};
use crate::config::{Config, Group, flags, group_flags};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn command() -> Command {
    Command::new("doctor")
        .about(
            "Check each dependency: reachable, version, permissions, settings that break a promise \
             (exit code 0: nothing failed; 1: something did)",
        )
        .args(flags([
            "NATS_URL",
            "POSTGRES_URL",
            "POSTGRES_READ_URL",
            "REDIS_URL",
        ]))
        .args(group_flags(Group::Links))
        .args(group_flags(Group::Stream))
        .args(flags([
            "GANESH_MAX_IN_FLIGHT",
            "GANESH_MAX_IN_FLIGHT_BYTES",
            "GANESH_WRITERS",
            "GANESH_POSTGRES_SCHEMA",
            "GANESH_PARTITION_INTERVAL",
            "GANESH_RETENTION_DAYS",
        ]))
        .args(flags(LOG_SETTINGS))
}

/// Says what the checks find, and counts what failed.
struct Findings {
    dependency: &'static str,
    failed: usize,
}

impl Findings {
    fn ok(&self, finding: impl Display) {
        self.line("ok", finding);
    }

    fn warning(&self, finding: impl Display) {
        self.line("warning", finding);
    }

    fn failed(&mut self, finding: impl Display) {
        self.failed += 1;
        self.line("FAILED", finding);
    }

    fn line(&self, result: &str, finding: impl Display) {
        print_line(format_args!(
            "{result:<7}  {:<9} {finding}",
            self.dependency
        ));
    }
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let mut findings = Findings {
        dependency: "telemetry",
        failed: 0,
    };
    for variable in &config.telemetry.unread_variables {
        findings.warning(format_args!("ganesh does not read {variable}: unset it"));
    }
    links::collector(&config, &findings).await;
    findings.dependency = "nats";
    nats::check(&config, &mut findings).await;
    findings.dependency = "postgres";
    postgres::check(&config, &mut findings).await;
    findings.dependency = "cache";
    cache::check(&config, &mut findings).await;
    match findings.failed {
        0 => Ok(()),
        failed => Err(Failure::Running(anyhow!("{failed} checks failed"))),
    }
}
