//! `ganesh produce`.

use anyhow::anyhow;
use clap::Command;
use percent_encoding::utf8_percent_encode;

use super::admin_client::reachable;
use super::shutdown::Signals;
use super::startup::{StartDeadline, wait_for};
use super::{Failure, TELEMETRY_SETTINGS, print_line};
use crate::api::ENCODED;
use crate::config::{Config, Group, flags, group_flags, link_flags};
use crate::error::Class;
use crate::produce::options::Options;
use crate::produce::report::{ListedEvent, Report};
use crate::produce::{self, Stop, Target, connect};
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
            "GANESH_HTTP_ADDR",
            "GANESH_API_TOKEN",
        ]))
        .args(link_flags(&["NATS", "OTEL"]))
        .args(flags(TELEMETRY_SETTINGS))
        .after_help(
            "A message that is not acknowledged within 5 s is sent again under the same Nats-Msg-Id; after 90 s \
             it has failed.\n\
             Ctrl-C or SIGTERM ends the sending, waits 10 s for acknowledgements and reports; a second one \
             reports at once.\n\
             Exit code 1: messages failed.",
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
    let report = produce::run(&config.nats, &options, target?, spans, &stop)
        .await
        .map_err(|error| match error.class {
            Class::Fatal => Failure::Usage(error.detail),
            _ => Failure::Running(error.into()),
        })?;
    print(&report, &options, &config)?;
    match report.counts.failed {
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
        print_line(serde_json::to_string(report)?);
        return Ok(());
    }
    for event in &report.events {
        print_line(look_up(event, config));
    }
    if u64::try_from(report.events.len())? < report.counts.published {
        print_line(report);
    }
    Ok(())
}

/// An event, and the commands that ask for it, if there is an API.
fn look_up(event: &ListedEvent, config: &Config) -> String {
    let (id, event_type, trace_id) = (&event.id, &event.event_type, &event.trace_id);
    let subject = event.subject.as_deref();
    let mut lines = vec![match subject {
        Some(subject) => format!("event     {id}, type {event_type}, subject {subject}"),
        None => format!("event     {id}, type {event_type}"),
    }];
    if let Some(api) = config.http.api_addr {
        let curl = if config.http.api_tokens.tokens.is_empty() {
            "curl"
        } else {
            "curl -H \"Authorization: Bearer $GANESH_API_TOKEN\""
        };
        let curl = format!("{curl} http://{}/v1", reachable(api));
        if let Some(subject) = subject {
            let subject = utf8_percent_encode(subject, ENCODED);
            lines.push(format!("newest    {curl}/subjects/{subject}/latest"));
        }
        let id = utf8_percent_encode(id, ENCODED);
        lines.push(format!("by id     {curl}/events/{id}"));
    }
    lines.push(format!("trace id  {trace_id}"));
    lines.join("\n")
}
