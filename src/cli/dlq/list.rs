//! `ganesh dlq list`.

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::{ArgMatches, Command};
use serde_json::json;

use super::options::{FILTERS, JSON, SHARED, reader, selection};
use super::{DeadLetters, Failure, ends_quietly, shown};
use crate::config::{Config, flags, link_flags};
use crate::event::replay::{FIRST_SEEN, GENERATION};
use crate::messaging::letters::{
    DELIVERIES, DETAIL, LAST_SEEN, Letter, STREAM, STREAM_SEQUENCE, TRACE_ID,
};
use crate::text::printable;

/// On a terminal a line is no longer than most are wide.
const DETAIL_ON_TERMINAL_MAX_BYTES: usize = 80;

pub(super) fn command() -> Command {
    Command::new("list")
        .about("List dead letters, oldest first, after their number")
        .args(flags(FILTERS.into_iter().chain([JSON]).chain(SHARED)))
        .args(link_flags(&["NATS"]))
}

pub(super) async fn run(config: &Config, matches: &ArgMatches) -> Result<(), Failure> {
    let mut given = reader(matches);
    let options = (selection(&mut given), given.boolean(JSON));
    let (selection, as_json) = given.finish(options).map_err(Failure::usage)?;
    let letters = DeadLetters::open(config).await?;
    let count = letters.count(&selection.filter).await?;
    let found = letters.found(count, selection.limit);
    if as_json {
        eprintln!("{found}");
    }
    let mut scan = letters.scan(&selection.filter);
    let mut out = BufWriter::new(io::stdout().lock());
    let line = if as_json { json_line } else { table_line };
    let head = match (as_json, count) {
        (true, _) => String::new(),
        (false, 0) => format!("{found}\n"),
        (false, _) => format!("{found}\n{}\n", table_head()),
    };
    let mut written = out.write_all(head.as_bytes());
    for _ in 0..count.min(selection.limit) {
        let Some(letter) = scan.next().await? else {
            break; // Somebody deleted some meanwhile.
        };
        written = written.and_then(|()| writeln!(out, "{}", line(&letter)));
        if written.is_err() {
            break;
        }
    }
    scan.close().await;
    ends_quietly(written.and_then(|()| out.flush()))
}

fn table_head() -> String {
    row(
        ["SEQUENCE", "WRITTEN", "REASON", "DELIVERIES", "BYTES"],
        "SUBJECT",
        "DETAIL",
    )
}

fn table_line(letter: &Letter) -> String {
    let detail = letter.header(DETAIL).unwrap_or_default();
    let detail = if io::stdout().is_terminal() {
        printable(detail, DETAIL_ON_TERMINAL_MAX_BYTES)
    } else {
        shown(detail)
    };
    row(
        [
            &letter.sequence.to_string(),
            &letter.written_at.to_string(),
            &shown(letter.reason()),
            &shown(letter.header(DELIVERIES).unwrap_or("-")),
            &letter.body_bytes.to_string(),
        ],
        &shown(letter.subject()),
        &detail,
    )
}

fn row(
    [sequence, written, reason, deliveries, bytes]: [&str; 5],
    subject: &str,
    detail: &str,
) -> String {
    format!(
        "{sequence:>9}  {written:<27}  {reason:<22}  {deliveries:>10}  {bytes:>8}  {subject:<24}  {detail}"
    )
}

fn json_line(letter: &Letter) -> String {
    let number = |name| letter.header(name)?.parse::<u64>().ok();
    json!({
        "sequence": letter.sequence,
        "written_at": letter.written_at.to_string(),
        "reason": letter.reason(),
        "detail": letter.header(DETAIL),
        "subject": letter.subject(),
        "stream": letter.header(STREAM),
        "stream_sequence": number(STREAM_SEQUENCE),
        "deliveries": number(DELIVERIES),
        "generation": number(GENERATION),
        "first_seen": letter.header(FIRST_SEEN),
        "last_seen": letter.header(LAST_SEEN),
        "trace_id": letter.header(TRACE_ID),
        "bytes": letter.body_bytes,
        "object": letter.object(),
    })
    .to_string()
}
