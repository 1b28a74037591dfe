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
use clap::{ArgMatches, Command};
use futures::stream::{Stream, StreamExt, try_unfold};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::options::{
    DRY_RUN, FILTERS, MAX_GENERATION, RATE, SHARED, Selection, reader, selection,
};
use super::{DeadLetters, Failure, interrupted, shown};
use crate::cli::print_line;
use crate::cli::shutdown::stop_on_signal;
use crate::config::{Config, flags, link_flags};
use crate::error::Error;
use crate::messaging::letters::scan::Scan;
use crate::messaging::letters::{self, Letter, replay};
use crate::messaging::reported;
use crate::produce::pacer::{Pace, Pacer};

/// Messages whose acknowledgement is awaited at the same time, and their bytes.
const IN_FLIGHT_MAX: usize = 64;
const IN_FLIGHT_MAX_BYTES: u32 = 8 << 20;
/// A command ends after this many letters that the server did not take or delete.
const FAILURES_MAX: u64 = 10;
/// Letters that stay are named, this many of them.
const NAMED_MAX: u64 = 20;
const FIRST_UNNAMED: u64 = NAMED_MAX + 1;
const RATE_MAX: u64 = 10_000_000;
const GENERATION_MAX: u64 = 1_000_000;

pub(super) fn command() -> Command {
    Command::new("replay")
        .about("Publish the messages of dead letters again, and delete the letters")
        .after_help(
            "Publishes the messages of dead letters again, on their original subjects, as far as \
             GANESH_STREAM takes these, and deletes each letter once the stream has acknowledged its message. An event that was stored meanwhile is \
             stored once all the same.\n\n\
             A message that fails again is a new letter of the next generation. Letters that were not \
             replayed stay; then the exit code is 1. Ctrl-C ends it and says how far it came.",
        )
        .args(flags(
            FILTERS
                .into_iter()
                .chain([DRY_RUN, RATE, MAX_GENERATION, "GANESH_STREAM"])
                .chain(SHARED),
        ))
        .args(link_flags(&["NATS"]))
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
    let name = &config.nats.stream;
    let events = reported::stream(&letters.jetstream, name).await?;
    let events = events.ok_or_else(|| {
        anyhow!(
            "stream {name} (GANESH_STREAM) does not exist: expected the one that the letters are of"
        )
    })?;
    let limits = replay::ReplayLimits {
        stream: events.config,
        max_generation: options.max_generation,
        payload_max_bytes: letters.jetstream.client().max_payload(),
    };
    let stop = stop_on_signal(|| ())?;
    let counting = letters.count(&options.selection.filter);
    let Some(count) = stop.run_until_cancelled(counting).await else {
        return Ok(()); // Nothing was done yet.
    };
    let count = count?;
    print_line(letters.found(count, options.selection.limit));
    let replaying = Replaying {
        letters: &letters,
        options: &options,
        limits: &limits,
        room: Semaphore::new(IN_FLIGHT_MAX_BYTES as usize),
    };
    let mut tally = ReplayTally::new(count.min(options.selection.limit), options.dry_run);
    let ended = replaying.all(&mut tally, &stop).await;
    tally.bar.finish_and_clear();
    let done = if options.dry_run {
        "would be replayed"
    } else {
        "replayed"
    };
    print_line(format_args!("{done}: {tally}{}", interrupted(&stop)));
    if tally.replayed > 0 && !options.dry_run {
        print_line("a message that fails again becomes a new letter: see ganesh dlq list");
    }
    ended?;
    match tally.kept() {
        0 => Ok(()),
        _ if options.dry_run => Ok(()),
        kept => Err(Failure::Running(anyhow!(
            "{kept} letters were not replayed"
        ))),
    }
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

/// What became of the letters, and how far that is shown.
struct ReplayTally {
    count: u64,
    replayed: u64,
    kept: BTreeMap<Kept, u64>,
    bar: ProgressBar,
}

impl ReplayTally {
    fn new(count: u64, dry_run: bool) -> Self {
        Self {
            count,
            replayed: 0,
            kept: BTreeMap::new(),
            bar: bar(count, dry_run),
        }
    }

    fn kept(&self) -> u64 {
        self.kept.values().sum()
    }

    fn failed(&self) -> u64 {
        self.kept.get(&Kept::Failed).copied().unwrap_or(0)
    }

    fn add(&mut self, sequence: u64, outcome: ReplayOutcome) {
        self.bar.inc(1);
        match outcome {
            ReplayOutcome::Replayed => self.replayed += 1,
            ReplayOutcome::WouldBe(what) => {
                self.replayed += 1;
                print_line(format_args!("{sequence:>9}  {what}"));
            }
            ReplayOutcome::Kept(kept, why) => {
                *self.kept.entry(kept).or_default() += 1;
                let line = match self.kept() {
                    ..=NAMED_MAX => format!("letter {sequence} stays: {}", shown(&why)),
                    FIRST_UNNAMED => "further letters stay, and are counted".to_owned(),
                    _ => return,
                };
                self.bar.suspend(|| eprintln!("{line}"));
            }
        }
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

struct Replaying<'a> {
    letters: &'a DeadLetters,
    options: &'a ReplayOptions,
    limits: &'a replay::ReplayLimits,
    /// Bytes of messages that are in flight.
    room: Semaphore,
}

impl Replaying<'_> {
    /// All letters, until a signal or too many failures; then whatever is under way.
    async fn all(&self, tally: &mut ReplayTally, stop: &CancellationToken) -> Result<(), Error> {
        let mut scan = self.letters.scan(&self.options.selection.filter);
        let mut ended = Ok(());
        let ending = stop.child_token();
        // A dry run says them in their order.
        let in_flight_max = if self.options.dry_run {
            1
        } else {
            IN_FLIGHT_MAX
        };
        let replays = self
            .due(&mut scan)
            .take(usize::try_from(tally.count).unwrap_or(usize::MAX))
            .take_until(ending.cancelled())
            .map(|due| async {
                let (letter, refusal) = due?;
                let outcome = match refusal {
                    Some(refusal) => ReplayOutcome::Kept(Kept::Refused, refusal),
                    None => self.one(&letter).await,
                };
                Ok((letter.sequence, outcome))
            })
            .buffer_unordered(in_flight_max);
        let mut replays = Box::pin(replays);
        while let Some(replayed) = replays.next().await {
            match replayed {
                Ok((sequence, outcome)) => tally.add(sequence, outcome),
                Err(error) => ended = Err(error),
            }
            if ended.is_err() || tally.failed() >= FAILURES_MAX {
                ending.cancel();
            }
        }
        drop(replays);
        scan.close().await;
        ended
    }

    /// The letters, each when it is due, without its body; and why it cannot be replayed.
    fn due(&self, scan: &mut Scan) -> impl Stream<Item = Result<(Letter, Option<String>), Error>> {
        let pacer = Pacer::new(self.options.rate_per_second);
        let started = Instant::now();
        try_unfold((scan, pacer), move |(scan, mut pacer)| async move {
            let Some(letter) = scan.next().await? else {
                return Ok(None);
            };
            let refusal = replay::check(&letter, self.limits);
            if refusal.is_ok() && !self.options.dry_run {
                while let Pace::Wait(until) = pacer.next(started.elapsed()) {
                    sleep_until(started + until).await;
                }
            }
            Ok(Some(((letter, refusal.err()), (scan, pacer))))
        })
    }

    async fn one(&self, found: &Letter) -> ReplayOutcome {
        let failed = |error: Error| ReplayOutcome::Kept(Kept::Failed, error.detail);
        let bytes = u32::try_from(found.body_bytes).unwrap_or(u32::MAX);
        let room = self.room.acquire_many(bytes.min(IN_FLIGHT_MAX_BYTES));
        let _room = room.await.expect("it is never closed");
        let mut letter = match letters::one(&self.letters.stream, found.sequence).await {
            Ok(Some(letter)) => letter,
            Ok(None) => {
                return ReplayOutcome::Kept(Kept::Refused, "somebody deleted it".to_owned());
            }
            Err(error) => return failed(error),
        };
        if let Err(error) = letter.read_object(&self.letters.bucket).await {
            return failed(error);
        }
        match replay::replay(&letter, self.limits) {
            Err(refusal) => ReplayOutcome::Kept(Kept::Refused, refusal),
            Ok(replay) if self.options.dry_run => {
                let (subject, id) = (shown(&replay.subject), shown(&replay.id));
                ReplayOutcome::WouldBe(format!("{subject}  as {id}"))
            }
            Ok(replay) => self.publish(&letter, replay).await,
        }
    }

    async fn publish(&self, letter: &Letter, replay: replay::Replay) -> ReplayOutcome {
        let id = replay.id;
        let published = self
            .letters
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
            Ok(_) => match letters::delete(&self.letters.bucket, letter).await {
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
