//! `ganesh dlq replay`: publishes messages again, and deletes the letter of each that the stream took.
//!
//! ```text
//!  scan ─▶ refused? ─▶ pace ─▶ read ─▶ publish ─▶ acknowledged, and no duplicate? ─▶ delete
//! ```
//!
//! A crash at any point leaves the letter: the next replay finds its message in the stream (an answer
//! that says duplicate), or publishes it again, which is the same event.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;

use anyhow::anyhow;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use clap::{ArgMatches, Command};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::options::{
    DRY_RUN, FILTERS, MAX_GENERATION, RATE, SHARED, Selection, reader, selection,
};
use super::{DeadLetters, Failure, shown, stop_at_signal};
use crate::cli::say;
use crate::config::{Config, flags};
use crate::error::Error;
use crate::messaging::letters::bucket::Bucket;
use crate::messaging::letters::{self, Letter, replay};
use crate::produce::pacer::{Pace, Pacer};

/// Messages whose acknowledgement is awaited at the same time, and their bytes.
const IN_FLIGHT_MAX: usize = 64;
const IN_FLIGHT_MAX_BYTES: u64 = 8 << 20;
/// A command ends after this many letters that the server did not take or delete.
const FAILURES_MAX: u64 = 10;
/// Letters that stay are named, this many of them.
const NAMED_MAX: u64 = 20;
const RATE_MAX: u64 = 10_000_000;
const GENERATION_MAX: u64 = 1_000_000;

pub(super) fn command() -> Command {
    Command::new("replay")
        .about("Publish the messages of dead letters again, and delete the letters")
        .after_help(
            "Publishes the messages of dead letters again, on their original subjects, and deletes each \
             letter once the stream has acknowledged its message. An event that was stored meanwhile is \
             stored once all the same.\n\n\
             A message that fails again is a new letter of the next generation. Letters that were not \
             replayed stay; then the exit code is 1. Ctrl-C ends it and says how far it came.",
        )
        .args(flags(
            FILTERS
                .into_iter()
                .chain([DRY_RUN, RATE, MAX_GENERATION])
                .chain(SHARED),
        ))
}

struct ReplayOptions {
    selection: Selection,
    dry_run: bool,
    rate_per_second: u32,
    max_generation: u32,
}

pub(super) async fn run(config: &Config, matches: &ArgMatches) -> Result<(), Failure> {
    let mut given = reader(matches);
    let options = ReplayOptions {
        selection: selection(&mut given),
        dry_run: given.boolean(DRY_RUN),
        rate_per_second: given.integer(RATE, 0, RATE_MAX),
        max_generation: given.integer(MAX_GENERATION, 1, GENERATION_MAX),
    };
    let options = given.finish(options).map_err(Failure::usage)?;
    let letters = DeadLetters::open(config).await?;
    let stop = stop_at_signal()?;
    let counting = letters.count(&options.selection.filter);
    let Some(count) = stop.run_until_cancelled(counting).await else {
        return Ok(()); // Nothing was done yet.
    };
    let count = count?.letters;
    say(letters.found(count, options.selection.limit));
    let mut run = Run {
        letters: &letters,
        options: &options,
        stop,
        pacer: Pacer::new(options.rate_per_second),
        in_flight: JoinSet::new(),
        in_flight_bytes: 0,
        tally: ReplayTally::of(count.min(options.selection.limit)),
        bar: bar(count.min(options.selection.limit), options.dry_run),
    };
    let ended = run.all().await;
    run.bar.finish_and_clear();
    let interrupted = if run.stop.is_cancelled() {
        ", then interrupted"
    } else {
        ""
    };
    let done = if options.dry_run {
        "would be replayed"
    } else {
        "replayed"
    };
    say(format_args!("{done}: {}{interrupted}", run.tally));
    ended?;
    match run.tally.kept() {
        0 => Ok(()),
        _ if options.dry_run => Ok(()),
        kept => Err(Failure::Running(anyhow!(
            "{kept} letters were not replayed"
        ))),
    }
}

struct ReplayTally {
    count: u64,
    replayed: u64,
    kept: BTreeMap<Kept, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Refused,
    Duplicate,
    Failed,
}

enum ReplayOutcome {
    Replayed,
    /// It would be; its subject and the id.
    WouldBe(String),
    Kept(Kept, String),
}

impl ReplayTally {
    fn of(count: u64) -> Self {
        Self {
            count,
            replayed: 0,
            kept: BTreeMap::new(),
        }
    }

    fn kept(&self) -> u64 {
        self.kept.values().sum()
    }

    fn failed(&self) -> u64 {
        self.kept.get(&Kept::Failed).copied().unwrap_or(0)
    }
}

impl fmt::Display for ReplayTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.replayed, self.count)?;
        for (kept, count) in &self.kept {
            let why = match kept {
                Kept::Refused => "cannot be",
                Kept::Duplicate => "were duplicates",
                Kept::Failed => "failed",
            };
            write!(f, ", {count} {why}")?;
        }
        Ok(())
    }
}

struct Run<'a> {
    letters: &'a DeadLetters,
    options: &'a ReplayOptions,
    stop: CancellationToken,
    pacer: Pacer,
    in_flight: JoinSet<(u64, u64, ReplayOutcome)>,
    in_flight_bytes: u64,
    tally: ReplayTally,
    bar: ProgressBar,
}

impl Run<'_> {
    /// All letters, until one of the limits, and whatever is under way then.
    async fn all(&mut self) -> Result<(), Error> {
        let filter = &self.options.selection.filter;
        let mut scan = self.letters.scan(filter);
        let started = Instant::now();
        let stop = self.stop.clone();
        let mut ended = Ok(());
        for _ in 0..self.tally.count {
            self.wait_for_room().await;
            if stop.is_cancelled() || self.tally.failed() >= FAILURES_MAX {
                break;
            }
            let letter = match stop.run_until_cancelled(scan.next()).await {
                Some(Ok(Some(letter))) => letter,
                Some(Ok(None)) | None => break,
                Some(Err(error)) => {
                    ended = Err(error);
                    break;
                }
            };
            self.one(letter, started).await;
        }
        while let Some(settled) = self.in_flight.join_next().await {
            self.settle(settled);
        }
        scan.close().await;
        ended
    }

    async fn one(&mut self, letter: Letter, started: Instant) {
        let DeadLetters {
            jetstream,
            stream,
            bucket,
            ..
        } = self.letters;
        let (sequence, bytes) = (letter.sequence, letter.body_bytes);
        let replaying = Replaying {
            jetstream: jetstream.clone(),
            stream: stream.clone(),
            bucket: bucket.clone(),
            max_generation: self.options.max_generation,
            dry_run: self.options.dry_run,
        };
        let payload_max_bytes = jetstream.client().max_payload();
        if let Err(refusal) = replay::check(&letter, self.options.max_generation, payload_max_bytes)
        {
            return self.keep(sequence, Kept::Refused, &refusal);
        }
        if !self.options.dry_run && !self.pace(started).await {
            return;
        }
        self.in_flight_bytes += bytes;
        self.in_flight
            .spawn(async move { (sequence, bytes, replaying.one(sequence).await) });
        // One after the other, so that they are said in their order.
        if self.options.dry_run
            && let Some(settled) = self.in_flight.join_next().await
        {
            self.settle(settled);
        }
    }

    /// Waits until the next letter is due. Returns false after a signal.
    async fn pace(&mut self, started: Instant) -> bool {
        while let Pace::Wait(until) = self.pacer.next(started.elapsed()) {
            let due = sleep_until(started + until);
            if self.stop.clone().run_until_cancelled(due).await.is_none() {
                return false;
            }
        }
        true
    }

    /// Settles finished replays, and waits while too many are in flight.
    async fn wait_for_room(&mut self) {
        while let Some(settled) = self.in_flight.try_join_next() {
            self.settle(settled);
        }
        while self.in_flight.len() >= IN_FLIGHT_MAX || self.in_flight_bytes >= IN_FLIGHT_MAX_BYTES {
            let Some(settled) = self.in_flight.join_next().await else {
                return;
            };
            self.settle(settled);
        }
    }

    fn settle(&mut self, settled: Result<(u64, u64, ReplayOutcome), tokio::task::JoinError>) {
        let (sequence, bytes, outcome) = match settled {
            Ok(settled) => settled,
            Err(join) => std::panic::resume_unwind(join.into_panic()),
        };
        self.in_flight_bytes -= bytes;
        match outcome {
            ReplayOutcome::Replayed => {
                self.tally.replayed += 1;
                self.bar.inc(1);
            }
            ReplayOutcome::WouldBe(what) => {
                self.tally.replayed += 1;
                say(format_args!("{sequence:>9}  {what}"));
            }
            ReplayOutcome::Kept(kept, why) => self.keep(sequence, kept, &why),
        }
    }

    fn keep(&mut self, sequence: u64, kept: Kept, why: &str) {
        *self.tally.kept.entry(kept).or_default() += 1;
        let said = match self.tally.kept() {
            ..=NAMED_MAX => format!("letter {sequence} stays: {}", shown(why)),
            count if count == NAMED_MAX + 1 => "further letters stay, and are counted".to_owned(),
            _ => String::new(),
        };
        if !said.is_empty() {
            self.bar.suspend(|| eprintln!("{said}"));
        }
        self.bar.inc(1);
    }
}

struct Replaying {
    jetstream: Context,
    stream: Stream,
    bucket: Bucket,
    max_generation: u32,
    dry_run: bool,
}

impl Replaying {
    async fn one(self, sequence: u64) -> ReplayOutcome {
        let failed = |error: Error| ReplayOutcome::Kept(Kept::Failed, error.detail);
        let mut letter = match letters::one(&self.stream, sequence).await {
            Ok(Some(letter)) => letter,
            Ok(None) => {
                return ReplayOutcome::Kept(Kept::Refused, "somebody deleted it".to_owned());
            }
            Err(error) => return failed(error),
        };
        if let Err(error) = letter.read_object(&self.bucket).await {
            return failed(error);
        }
        let payload_max_bytes = self.jetstream.client().max_payload();
        let replay = match replay::replay(&letter, self.max_generation, payload_max_bytes) {
            Ok(replay) => replay,
            Err(refusal) => return ReplayOutcome::Kept(Kept::Refused, refusal),
        };
        if self.dry_run {
            let (subject, id) = (shown(&replay.subject), shown(&replay.id));
            return ReplayOutcome::WouldBe(format!("{subject}  as {id}"));
        }
        self.publish(&letter, replay).await
    }

    async fn publish(&self, letter: &Letter, replay: replay::Replay) -> ReplayOutcome {
        let id = replay.id;
        let published = self
            .jetstream
            .publish_with_headers(replay.subject, replay.headers, replay.body)
            .await;
        let acknowledged = match published {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Err(error) => {
                ReplayOutcome::Kept(Kept::Failed, format!("the stream did not take it: {error}"))
            }
            Ok(acknowledgement) if acknowledgement.duplicate => ReplayOutcome::Kept(
                Kept::Duplicate,
                format!(
                    "duplicate: the stream took a message with the id {id} before, as number {}, so this \
                     was no replay; delete the letter if that message was settled",
                    acknowledgement.sequence
                ),
            ),
            Ok(_) => match letters::delete(&self.bucket, letter).await {
                Ok(()) => ReplayOutcome::Replayed,
                Err(error) => ReplayOutcome::Kept(
                    Kept::Failed,
                    format!("its message was published as {id}, but {}", error.detail),
                ),
            },
        }
    }
}

fn bar(count: u64, dry_run: bool) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() && !dry_run {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len}, {per_sec}, {eta} left")
        .expect("a valid template");
    ProgressBar::with_draw_target(Some(count), target).with_style(style)
}
