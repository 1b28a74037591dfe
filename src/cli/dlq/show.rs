//! `ganesh dlq show`.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::anyhow;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::options::{RAW, SHARED, reader};
use super::{DeadLetters, Failure, ends_quietly, shown};
use crate::config::{Config, flags, link_flags};
use crate::event::replay::{FIRST_SEEN, FIRST_SEQUENCE};
use crate::messaging::letters::{
    self, DELIVERIES, DETAIL, LAST_SEEN, Letter, OBJECT, STREAM, STREAM_SEQUENCE, TRACE_ID,
};
use crate::text::on_lines;

const SEQUENCE: &str = "sequence";
/// Bytes shown of a body, and of binary headers.
const SHOWN_MAX_BYTES: usize = 4_096;
const HEX_LINE_BYTES: usize = 16;

pub(super) fn command() -> Command {
    Command::new("show")
        .about("Show one dead letter: why, the message's headers, and its body")
        .arg(
            Arg::new(SEQUENCE)
                .value_name("SEQUENCE")
                .value_parser(value_parser!(u64))
                .required(true)
                .help("The letter's sequence, as ganesh dlq list shows it"),
        )
        .args(flags([RAW].into_iter().chain(SHARED)))
        .args(link_flags(&["NATS"]))
}

pub(super) async fn run(config: &Config, matches: &ArgMatches) -> Result<(), Failure> {
    let mut given = reader(matches);
    let raw = given.boolean(RAW);
    let raw = given.finish(raw).map_err(Failure::usage)?;
    let sequence = *matches
        .get_one::<u64>(SEQUENCE)
        .expect("clap refuses show without a sequence");
    let dead_letters = DeadLetters::open(config).await?;
    let letter = letters::one(&dead_letters.stream, sequence).await?;
    let Some(mut letter) = letter else {
        return Err(Failure::Running(anyhow!(
            "{} holds no letter {sequence}: expected a sequence that ganesh dlq list shows",
            dead_letters.name
        )));
    };
    let read = letter.read_object(&dead_letters.bucket).await;
    let mut out = io::stdout().lock();
    let written = match &read {
        Ok(()) if raw => out.write_all(&letter.body),
        Ok(()) => out.write_all((about(&letter) + &message(&letter)).as_bytes()),
        Err(_) if raw => Ok(()),
        Err(_) => out.write_all(about(&letter).as_bytes()),
    };
    ends_quietly(written.and_then(|()| out.flush()))?;
    Ok(read?)
}

fn about(letter: &Letter) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}  {value}");
    };
    line("letter", &letter.sequence.to_string());
    line("written", &letter.written_at.to_string());
    line("reason", &shown(letter.reason()));
    line("subject", &shown(letter.subject()));
    line("generation", &letter.generation().to_string());
    for (name, header) in [
        ("detail", DETAIL),
        ("stream", STREAM),
        ("sequence", STREAM_SEQUENCE),
        ("first sequence", FIRST_SEQUENCE),
        ("deliveries", DELIVERIES),
        ("first seen", FIRST_SEEN),
        ("last seen", LAST_SEEN),
        ("trace id", TRACE_ID),
        ("object", OBJECT),
    ] {
        line(name, &shown(letter.header(header).unwrap_or("-")));
    }
    text
}

fn message(letter: &Letter) -> String {
    headers(letter) + &body(letter)
}

fn headers(letter: &Letter) -> String {
    if let Some(block) = letter.unreadable_headers() {
        let shown_bytes = block.len().min(SHOWN_MAX_BYTES);
        return format!(
            "headers         {} bytes that a NATS client cannot read\n  {}\n",
            block.len(),
            block[..shown_bytes].escape_ascii()
        );
    }
    let original = letter.original_headers();
    let mut lines: Vec<String> = original
        .iter()
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values
                .iter()
                .map(move |value| format!("  {name}: {}\n", shown(value.as_str())))
        })
        .collect();
    lines.sort_unstable();
    format!("headers         {}\n{}", lines.len(), lines.concat())
}

fn body(letter: &Letter) -> String {
    let body = &letter.body;
    let start = &body[..body.len().min(SHOWN_MAX_BYTES)];
    // What is cut in the middle of a character is still text.
    let (kind, mut text) = match std::str::from_utf8(start) {
        Ok(text) => ("text", as_text(text)),
        Err(error) if error.error_len().is_none() && start.len() < body.len() => {
            let whole = String::from_utf8_lossy(&start[..error.valid_up_to()]);
            ("text", as_text(&whole))
        }
        Err(_) => ("bytes", as_hex(start)),
    };
    if start.len() < body.len() {
        let rest = body.len() - start.len();
        let _ = writeln!(text, "… and {rest} bytes more: --raw writes all of it");
    }
    format!("body            {} bytes, as {kind}\n{text}", body.len())
}

fn as_text(text: &str) -> String {
    let mut shown = on_lines(text);
    if !shown.is_empty() && !shown.ends_with('\n') {
        shown.push('\n');
    }
    shown
}

fn as_hex(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (number, line) in bytes.chunks(HEX_LINE_BYTES).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii: String = line
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        let offset = number * HEX_LINE_BYTES;
        let _ = writeln!(dump, "{offset:08x}  {:<47}  {ascii}", hex.join(" "));
    }
    dump
}
