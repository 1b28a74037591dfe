//! `ganesh dlq purge`.

use std::io::{self, IsTerminal, Write};

use anyhow::anyhow;
use clap::{ArgMatches, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::options::{FILTERS, SHARED, Selection, YES, reader, selection};
use super::{DeadLetters, Failure, stop_at_signal};
use crate::cli::say;
use crate::config::{Config, flags};
use crate::error::Error;
use crate::messaging::letters;
use crate::messaging::letters::scan::Count;

const IN_FLIGHT_MAX: usize = 64;

pub(super) fn command() -> Command {
    Command::new("purge")
        .about("Delete dead letters for good, after asking")
        .args(flags(FILTERS.into_iter().chain([YES]).chain(SHARED)))
}

pub(super) async fn run(config: &Config, matches: &ArgMatches) -> Result<(), Failure> {
    let mut given = reader(matches);
    let options = (selection(&mut given), given.boolean(YES));
    let (selection, yes) = given.finish(options).map_err(Failure::usage)?;
    if !yes && !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "dlq purge deletes for good, and there is no terminal to ask on: expected --yes (GANESH_DLQ_YES)"
                .to_owned(),
        ));
    }
    let letters = DeadLetters::open(config).await?;
    let Count {
        letters: count,
        objects,
    } = letters.count(&selection.filter).await?;
    say(letters.found(count, selection.limit));
    let count = count.min(selection.limit);
    if count == 0 {
        return Ok(());
    }
    if !yes && !is_confirmed(count)? {
        say("nothing was deleted");
        return Ok(());
    }
    // From here on a signal must not leave it open how far this came.
    let stop = stop_at_signal()?;
    if selection.is_by_subject_only() && objects == 0 {
        return at_once(&letters, &selection, count).await;
    }
    let (deleted, ended) = one_by_one(&letters, &selection, count, &stop).await;
    let interrupted = if stop.is_cancelled() {
        ", then interrupted"
    } else {
        ""
    };
    say(format_args!("deleted: {deleted} of {count}{interrupted}"));
    Ok(ended?)
}

fn is_confirmed(count: u64) -> io::Result<bool> {
    eprint!("Delete {count} dead letters for good? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let answer = answer.trim();
    Ok(answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes"))
}

/// The server deletes by subject in one step; not what was written since the count.
async fn at_once(letters: &DeadLetters, selection: &Selection, count: u64) -> Result<(), Failure> {
    let name = &letters.name;
    let answer = letters
        .stream
        .purge()
        .sequence(letters.last_sequence + 1)
        .filter(selection.filter.letter_subjects())
        .await
        .map_err(|error| anyhow!("purging {name}: {error}"))?;
    let deleted = answer.purged;
    say(format_args!("deleted: {deleted} of {count}"));
    if deleted < count {
        return Err(Failure::Running(anyhow!(
            "the server deleted {deleted} letters of {name} where {count} were counted: the others had \
             gone meanwhile, or are still there (ganesh dlq list)"
        )));
    }
    Ok(())
}

/// How many were deleted, and what ended it early.
async fn one_by_one(
    letters: &DeadLetters,
    selection: &Selection,
    count: u64,
    stop: &CancellationToken,
) -> (u64, Result<(), Error>) {
    let mut scan = letters.scan(&selection.filter);
    let mut deletions = JoinSet::new();
    let (mut deleted, mut ended) = (0, Ok(()));
    let mut settle = |settled: Result<Result<(), Error>, tokio::task::JoinError>| match settled {
        Ok(Ok(())) => {
            deleted += 1;
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    };
    for _ in 0..count {
        if deletions.len() >= IN_FLIGHT_MAX
            && let Some(settled) = deletions.join_next().await
        {
            ended = settle(settled);
        }
        if ended.is_err() {
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
        let bucket = letters.bucket.clone();
        deletions.spawn(async move { letters::delete(&bucket, &letter).await });
    }
    while let Some(settled) = deletions.join_next().await {
        ended = ended.and(settle(settled));
    }
    scan.close().await;
    (deleted, ended)
}
