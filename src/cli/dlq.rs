//! `ganesh dlq`: lists, shows, replays and deletes dead letters.

mod options;

mod list;
mod purge;
mod replay;
mod show;

use std::io;

use anyhow::anyhow;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use clap::{ArgMatches, Command};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::config::Config;
use crate::error::{Class, Error};
use crate::messaging::connection;
use crate::messaging::letters::bucket::Bucket;
use crate::messaging::letters::scan::{Filter, Scan};
use crate::telemetry::{Health, Metrics};
use crate::text::printable;

/// A column or a header of a letter that is longer is cut where a person reads it.
const SHOWN_MAX_BYTES: usize = 1_024;

pub(super) fn command() -> Command {
    Command::new("dlq")
        .about("List, show, replay or delete dead letters")
        .after_help(
            "Lists, shows, replays or deletes dead letters: the messages that could not be decoded, or \
             whose rows Postgres refused. They are in GANESH_DLQ_STREAM, each as it came, with the reason.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(list::command())
        .subcommand(show::command())
        .subcommand(replay::command())
        .subcommand(purge::command())
}

pub(super) async fn run(config: Config, matches: &ArgMatches) -> Result<(), Failure> {
    let (name, matches) = matches
        .subcommand()
        .expect("clap refuses dlq without a subcommand");
    match name {
        "list" => list::run(&config, matches).await,
        "show" => show::run(&config, matches).await,
        "replay" => Box::pin(replay::run(&config, matches)).await,
        "purge" => purge::run(&config, matches).await,
        _ => unreachable!("clap knows no other subcommand"),
    }
}

/// The dead-letter stream at the start of the command; later letters are for the next one.
struct DeadLetters {
    jetstream: Context,
    stream: Stream,
    bucket: Bucket,
    name: String,
    last_sequence: u64,
}

impl DeadLetters {
    async fn open(config: &Config) -> Result<Self, Failure> {
        // Nobody scrapes a command.
        let metrics = Metrics::default();
        let health = Health::new(metrics.clone());
        let (client, _) = connection::connect("ganesh", &config.nats, 1, &health, &metrics)
            .await
            .map_err(|error| match error.class {
                Class::Fatal => Failure::Usage(format!("NATS (NATS_URL): {}", error.detail)),
                _ => Failure::Running(anyhow!(
                    "NATS at {} (NATS_URL) does not answer: {}",
                    config.nats.url,
                    error.detail
                )),
            })?;
        let jetstream = connection::jetstream(client, &config.nats);
        let name = config.nats.dlq_stream.clone();
        let stream = jetstream.get_stream(&name).await.map_err(|error| {
            anyhow!("stream {name} (GANESH_DLQ_STREAM): {error}: expected the one that ganesh serve makes")
        })?;
        let last_sequence = stream.cached_info().state.last_sequence;
        Ok(Self {
            // It publishes no letters.
            bucket: Bucket::new(jetstream.clone(), &name),
            jetstream,
            stream,
            name,
            last_sequence,
        })
    }

    fn scan(&self, filter: &Filter) -> Scan {
        Scan::open(&self.stream, filter, self.last_sequence)
    }

    async fn count(&self, filter: &Filter) -> Result<u64, Error> {
        Box::pin(self.scan(filter).count()).await
    }

    /// How many letters match, and how many of them `limit` lets through, in words.
    fn found(&self, count: u64, limit: u64) -> String {
        let letters = if count == 1 { "letter" } else { "letters" };
        let found = format!("{count} dead {letters} found in {}", self.name);
        if limit < count {
            format!("{found}, of which the first {limit}")
        } else {
            found
        }
    }
}

/// For the last line of a command, which says how far it came.
fn interrupted(stop: &CancellationToken) -> &'static str {
    if stop.is_cancelled() {
        ", then interrupted"
    } else {
        ""
    }
}

/// Text of a message or a letter, safe for a terminal: any publisher may have chosen it.
fn shown(text: &str) -> String {
    printable(text, SHOWN_MAX_BYTES)
}

/// A closed pipe is success.
fn ends_quietly(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
