//! `ganesh produce`.

use anyhow::anyhow;
use clap::Command;
use percent_encoding::utf8_percent_encode;

use super::shutdown::Signals;
use super::startup::{StartDeadline, wait_for};
use super::{Failure, TELEMETRY_SETTINGS, say};
use crate::api::ENCODED;
use crate::config::{Config, Group, flags, group_flags};
use crate::produce::options::Options;
use crate::produce::report::{ListedEvent, Report};
use crate::produce::{self, Error, Stop, Target, connect};
use crate::telemetry::span_queue::SpanQueue;

pub(super) fn command() -> Command {
    Command::new("produce")
        .about("Publish sample events at a rate, and report how that went")
        .args(group_flags(Group::Produce))
        .args(flags([
            "NATS_URL",
            "GANESH_STARTUP_TIMEOUT",
            "GANESH_STREAM",
            "GANESH_SUBJECTS",
            "GANESH_CONSUMER",
            "GANESH_API_TOKEN",
        ]))
        .args(flags(TELEMETRY_SETTINGS))
        .after_help(
            "A message that is not acknowledged within 5 s is sent again under the same Nats-Msg-Id; after 90 s \
             it has failed.\n\
             Ctrl-C or SIGTERM ends the sending, waits 10 s for acknowledgements and reports; a second one \
             reports at once.\n\
             Exit code 1: messages failed.\n\n\
             With --read-rate it also judges reads. A read is stale when it shows less than what the service \
             acknowledged\na second before; there must be none. Staleness: for how long, when a read began, \
             the stream had held an event\nthat the answer did not show.",
        )
}

pub(super) async fn run(
    config: Config,
    options: Options,
    spans: Option<SpanQueue>,
) -> Result<(), Failure> {
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
    print(&report, &options, &config)?;
    match report.failed {
        0 => Ok(()),
        failed => Err(Failure::Running(anyhow!(
            "{failed} messages were not acknowledged within 90 s: the stream may hold them or not"
        ))),
    }
}

/// Waits for NATS, and for the stream, which `serve` makes.
async fn find(config: &Config, options: &Options) -> Result<Target, Failure> {
    let deadline = StartDeadline::after(config.startup_timeout);
    let connection = wait_for("NATS (NATS_URL)", deadline, || {
        connect::connect(&config.nats, options.max_acks_in_flight)
    })
    .await?;
    let stream = format!("stream {}", config.nats.stream);
    let stream_subjects = wait_for(&stream, deadline, || {
        connect::stream_subjects(&connection.0, &config.nats)
    })
    .await?;
    Ok(Target {
        connection,
        stream_subjects,
    })
}

/// The first signal stops the sending, the second one the waiting.
fn listen(stop: &Stop) -> std::io::Result<()> {
    let mut signals = Signals::listen()?;
    let stop = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        stop.sending.cancel();
        signals.next().await;
        stop.waiting.cancel();
    });
    Ok(())
}

fn print(report: &Report, options: &Options, config: &Config) -> anyhow::Result<()> {
    if options.json {
        say(serde_json::to_string(report)?);
        return Ok(());
    }
    for event in &report.events {
        say(look_up(event, options, config));
    }
    if u64::try_from(report.events.len())? < report.published {
        say(report);
    }
    Ok(())
}

/// An event, and the commands that ask for it.
fn look_up(event: &ListedEvent, options: &Options, config: &Config) -> String {
    let url = &options.api_url;
    let curl = match config.http.api_token {
        Some(_) => "curl -H \"Authorization: Bearer $GANESH_API_TOKEN\"",
        None => "curl",
    };
    let (id, event_type, trace_id) = (&event.id, &event.event_type, &event.trace_id);
    let subject = event.subject.as_deref().map(|subject| {
        let path = utf8_percent_encode(subject, ENCODED);
        format!(", subject {subject}\nnewest    {curl} {url}/v1/subjects/{path}/latest")
    });
    let subject = subject.unwrap_or_default();
    let path = utf8_percent_encode(id, ENCODED);
    format!(
        "event     {id}, type {event_type}{subject}\n\
         by id     {curl} {url}/v1/events/{path}\n\
         trace id  {trace_id}"
    )
}
