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

/// How long each dependency may take to answer.
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

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One line.
struct Finding {
    verdict: Verdict,
    what: &'static str,
    detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        write!(f, "{verdict}  {:<9} {}", self.what, self.detail)
    }
}

fn ok(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Verdict::Ok, what, detail)
}

fn warning(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Verdict::Warning, what, detail)
}

fn failed(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Verdict::Failed, what, detail)
}

fn finding(verdict: Verdict, what: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        verdict,
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
        .filter(|finding| finding.verdict == Verdict::Failed)
        .count();
    if failures > 0 {
        return Err(Failure::Running(anyhow!("{failures} checks failed")));
    }
    Ok(())
}
