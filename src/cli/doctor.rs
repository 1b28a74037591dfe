//! `ganesh doctor`: each dependency, one line a finding, with the fix.

mod cache;
mod nats;
mod postgres;

use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use clap::Command;

use super::{Failure, LOG_SETTINGS, say};
use crate::config::{Config, Group, flags, group_flags};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn command() -> Command {
    Command::new("doctor")
        .about(
            "Check each dependency: reachable, version, permissions, settings that break a promise \
             (exit code 0: nothing failed; 1: something did)",
        )
        .args(flags(["NATS_URL", "POSTGRES_URL", "REDIS_URL"]))
        .args(group_flags(Group::Stream))
        .args(flags([
            "GANESH_MAX_IN_FLIGHT",
            "GANESH_MAX_IN_FLIGHT_BYTES",
            "GANESH_WRITERS",
            "GANESH_PARTITION_INTERVAL",
            "GANESH_RETENTION_DAYS",
        ]))
        .args(flags(LOG_SETTINGS))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckResult {
    Ok,
    Warning,
    Failed,
}

struct Finding {
    result: CheckResult,
    what: &'static str,
    detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.result {
            CheckResult::Ok => "ok     ",
            CheckResult::Warning => "warning",
            CheckResult::Failed => "FAILED ",
        };
        write!(f, "{word}  {:<9} {}", self.what, self.detail)
    }
}

fn ok(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(CheckResult::Ok, what, detail)
}

fn warning(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(CheckResult::Warning, what, detail)
}

fn failed(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(CheckResult::Failed, what, detail)
}

fn finding(result: CheckResult, what: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        result,
        what,
        detail: detail.into(),
    }
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let mut findings = nats::check(&config).await;
    findings.extend(postgres::check(&config).await);
    findings.extend(cache::check(&config).await);
    for finding in &findings {
        say(finding);
    }
    let failures = findings
        .iter()
        .filter(|finding| finding.result == CheckResult::Failed)
        .count();
    if failures > 0 {
        return Err(Failure::Running(anyhow!("{failures} checks failed")));
    }
    Ok(())
}
