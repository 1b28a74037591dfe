//! `ganesh produce`.

use std::collections::HashMap;

use anyhow::anyhow;
use clap::{Arg, ArgMatches, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::startup::{Deadline, wait_for};
use super::{Failure, option_argument, say};
use crate::config::{Config, Setting, given};
use crate::produce::options::{OPTIONS, Options, flag};
use crate::produce::report::Report;
use crate::produce::{self, Error, Stop, Target, connect};
use crate::telemetry::span_queue::SpanQueue;

pub(super) fn command() -> Command {
    Command::new("produce")
        .about("Publish sample events at a rate, and report how that went")
        .long_about(
            "Publishes sample events at a rate, and reports how that went.\n\n\
             What is not acknowledged within 5 s is sent again under the same Nats-Msg-Id, and has failed \
             after 90 s. Ctrl-C or SIGTERM ends the sending, waits 10 s for acknowledgements and reports; \
             a second one reports at once. Exit code 1 when messages failed.\n\n\
             With --read-rate it also judges reads: stale reads are answers older than an event \
             that the service had acknowledged a second before, and there must be none; staleness is for how long, \
             when a read began, the stream had held an event that the answer did not show.",
        )
        .args(OPTIONS.iter().map(argument))
}

/// Adds the configuration's settings. One flag of theirs says something else here:
/// `--subjects` is how many the events are about, so the stream's are `--stream-subjects`.
pub(super) fn with_settings(command: Command, settings: impl Iterator<Item = Arg>) -> Command {
    command
        .args(settings)
        .mut_arg("GANESH_SUBJECTS", |arg| arg.long("stream-subjects"))
}

fn argument(option: &Setting) -> Arg {
    option_argument(option, flag(option), "Producer")
}

pub(super) async fn run(
    config: Config,
    matches: &ArgMatches,
    spans: Option<SpanQueue>,
) -> Result<(), Failure> {
    let options = read_options(matches).map_err(Failure::Usage)?;
    let stop = Stop::default();
    listen(&stop)?;
    let found = stop.sending.run_until_cancelled(find(&config, &options));
    let Some(target) = found.await else {
        return Ok(()); // Stopped before there was anything to report.
    };
    let report = match produce::run(&config, &options, target?, spans, &stop).await {
        Ok(report) => report,
        Err(Error::Misfit(words)) => return Err(Failure::Usage(words)),
        Err(error) => return Err(Failure::Running(error.into())),
    };
    print(&report, options.json)?;
    match report.failed {
        0 => Ok(()),
        failed => Err(Failure::Running(anyhow!(
            "{failed} messages were not acknowledged within 90 s: the stream may hold them or not"
        ))),
    }
}

/// All mistakes at once, one a line.
fn read_options(matches: &ArgMatches) -> Result<Options, String> {
    let mut values = HashMap::new();
    let mut mistakes = Vec::new();
    for option in OPTIONS {
        match given(option, matches, |variable| std::env::var_os(variable)) {
            Ok(value) => values.extend(value.map(|value| (option.env, value))),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    let options = Options::read(|env| values.get(env).cloned());
    match options {
        Ok(options) if mistakes.is_empty() => Ok(options),
        Ok(_) => Err(mistakes.join("\n")),
        Err(further) => Err([mistakes, vec![further]].concat().join("\n")),
    }
}

/// Waits for NATS, and for the stream, which `serve` makes.
async fn find(config: &Config, options: &Options) -> Result<Target, Failure> {
    let deadline = Deadline::after(config.startup_timeout);
    let connection = wait_for("NATS (NATS_URL)", deadline, || {
        connect::connect(&config.nats, options.max_acks_in_flight)
    })
    .await?;
    let stream = format!("stream {}", config.nats.stream);
    let stream_subjects = wait_for(&stream, deadline, || {
        connect::stream_subjects(&connection, &config.nats)
    })
    .await?;
    Ok(Target {
        connection,
        stream_subjects,
    })
}

/// The first signal stops the sending, the second one the waiting.
fn listen(stop: &Stop) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        stop.sending.cancel();
        either(&mut interrupt, &mut terminate).await;
        stop.waiting.cancel();
    });
    Ok(())
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        say(serde_json::to_string(report)?);
    } else {
        say(report);
    }
    Ok(())
}
