//! `ganesh dlq purge`.

use std::io::{self, IsTerminal, Write};

use clap::{ArgMatches, Command};
use futures::stream::{StreamExt, try_unfold};
use tokio_util::sync::CancellationToken;

use super::options::{FILTERS, SHARED, YES, reader, selection};
use super::{DeadLetters, Failure, interrupted};
use crate::cli::print_line;
use crate::cli::shutdown::stop_on_signal;
use crate::config::{Config, flags, link_flags};
use crate::error::Error;
use crate::messaging::letters;
use crate::messaging::letters::scan::Filter;

const IN_FLIGHT_MAX: usize = 64;

pub(super) fn command() -> Command {
    Command::new("purge")
        .about("Delete dead letters for good, after asking")
        .args(flags(FILTERS.into_iter().chain([YES]).chain(SHARED)))
        .args(link_flags(&["NATS"]))
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
    let count = letters.count(&selection.filter).await?;
    print_line(letters.found(count, selection.limit));
    let count = count.min(selection.limit);
    if count == 0 {
        return Ok(());
    }
    if !yes && !is_confirmed(count)? {
        print_line("nothing was deleted");
        return Ok(());
    }
    // From here on a signal must not leave it open how far this came.
    let stop = stop_on_signal(|| ())?;
    let (deleted, ended) = delete(&letters, &selection.filter, count, &stop).await;
    let interrupted = interrupted(&stop);
    print_line(format_args!("deleted: {deleted} of {count}{interrupted}"));
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

/// How many were deleted, and what ended it early.
async fn delete(
    letters: &DeadLetters,
    filter: &Filter,
    count: u64,
    stop: &CancellationToken,
) -> (u64, Result<(), Error>) {
    let mut scan = letters.scan(filter);
    let (mut deleted, mut ended) = (0, Ok(()));
    let ending = stop.child_token();
    let found = try_unfold(&mut scan, |scan| async {
        let letter = scan.next().await?;
        Ok(letter.map(|letter| (letter, scan)))
    });
    let deletions = found
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .take_until(ending.cancelled())
        .map(|letter| async { letters::delete(&letters.bucket, &letter?).await })
        .buffer_unordered(IN_FLIGHT_MAX);
    let mut deletions = Box::pin(deletions);
    while let Some(result) = deletions.next().await {
        match result {
            Ok(()) => deleted += 1,
            Err(error) => {
                ended = ended.and(Err(error));
                ending.cancel(); // What is under way ends.
            }
        }
    }
    drop(deletions);
    scan.close().await;
    (deleted, ended)
}
