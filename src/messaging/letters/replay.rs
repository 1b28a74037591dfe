//! The message that a letter is replayed as. Pure.

use std::fmt;

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::write::{HEADERS_MAX_BYTES, block_len};
use super::{Letter, STREAM, STREAM_SEQUENCE, UNREADABLE, is_acted_on};
use crate::event::replay::{FIRST_SEEN, FIRST_SEQUENCE, GENERATION, GENERATION_MARK};

#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) subject: String,
    /// Its headers, and those that make it the same event again.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Its `Nats-Msg-Id`.
    pub(crate) id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not written by ganesh.
    Foreign,
    /// Its headers cannot be written by the client either.
    Unreadable,
    /// Its subject has white space in it, as a message without headers may have: what a replay sends
    /// has headers, and with them the client cannot read it.
    Subject,
    /// It failed too often.
    Generation(u32),
    /// With the headers of a replay it is larger than the server's maximum.
    TooLarge {
        /// Its bytes, or those of its body if that alone is too large.
        bytes: u64,
        /// The server's maximum.
        max_bytes: usize,
    },
    /// With those of a replay its headers have more bytes than JetStream stores.
    HeadersTooLarge(usize),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str(
                "it does not say from which stream, sequence and time its message is: not written by ganesh",
            ),
            Self::Unreadable => f.write_str(
                "the headers of its message are not what a NATS client can read or write; ganesh dlq show \
                 has them: publish the event anew",
            ),
            Self::Subject => f.write_str(
                "its subject has white space in it, and a replay has headers, with which no NATS client \
                 can read that: publish the event anew, on another subject",
            ),
            Self::Generation(generation) => write!(
                f,
                "it was replayed {generation} times and failed each time; --max-generation {} replays it \
                 once more",
                generation + 1
            ),
            Self::TooLarge { bytes, max_bytes } => write!(
                f,
                "its message has {bytes} bytes, and the server takes {max_bytes}: raise the server's \
                 max_payload above {bytes} to replay it"
            ),
            Self::HeadersTooLarge(bytes) => write!(
                f,
                "with those of a replay it has {bytes} bytes of headers, and JetStream stores \
                 {HEADERS_MAX_BYTES}: publish the event anew"
            ),
        }
    }
}

/// Whether a letter can be replayed, by what it says without its body.
///
/// # Errors
/// Why it is not replayed.
pub(crate) fn check(
    letter: &Letter,
    max_generation: u32,
    payload_max_bytes: usize,
) -> Result<(), Refusal> {
    if letter.reason() == UNREADABLE {
        return Err(Refusal::Unreadable);
    }
    if letter.subject().contains(char::is_whitespace) {
        return Err(Refusal::Subject);
    }
    first_place(letter).ok_or(Refusal::Foreign)?;
    let generation = letter.generation();
    if generation >= max_generation {
        return Err(Refusal::Generation(generation));
    }
    fits(letter.body_bytes, payload_max_bytes)
}

fn fits(bytes: u64, max_bytes: usize) -> Result<(), Refusal> {
    if bytes > max_bytes as u64 {
        return Err(Refusal::TooLarge { bytes, max_bytes });
    }
    Ok(())
}

/// Builds the message of a replay, one generation further. Headers that NATS acts on (expected
/// sequence, rollup, time to live) are left out: they took effect when the message was first
/// published.
///
/// # Errors
/// Why it is not replayed.
pub(crate) fn replay(
    letter: &Letter,
    max_generation: u32,
    payload_max_bytes: usize,
) -> Result<Replay, Refusal> {
    check(letter, max_generation, payload_max_bytes)?;
    let (stream, seen, sequence) = first_place(letter).ok_or(Refusal::Foreign)?;
    let generation = letter.generation();
    let original = letter.original_headers();
    let first_id = first_id(&original, generation);
    let first_id = first_id.unwrap_or_else(|| format!("{stream}:{sequence}"));
    let generation = generation + 1;
    let id = format!("{first_id}{GENERATION_MARK}{generation}");
    let mut headers = HeaderMap::new();
    for (name, values) in original.iter() {
        if !is_acted_on(name.as_ref()) {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    headers.insert("Nats-Msg-Id", id.as_str());
    // Another stream would make another source of a plain message.
    headers.insert("Nats-Expected-Stream", stream);
    headers.insert(GENERATION, HeaderValue::from(u64::from(generation)));
    headers.insert(FIRST_SEEN, seen);
    headers.insert(FIRST_SEQUENCE, sequence);
    let headers_bytes = block_len(&headers);
    if headers_bytes > HEADERS_MAX_BYTES {
        return Err(Refusal::HeadersTooLarge(headers_bytes));
    }
    fits(
        (headers_bytes + letter.body.len()) as u64,
        payload_max_bytes,
    )?;
    Ok(Replay {
        subject: letter.subject().to_owned(),
        headers,
        body: letter.body.clone(),
        id,
    })
}

/// Stream, time and sequence of the first delivery.
fn first_place(letter: &Letter) -> Option<(&str, &str, &str)> {
    let sequence = letter
        .header(FIRST_SEQUENCE)
        .or_else(|| letter.header(STREAM_SEQUENCE))?;
    Some((letter.header(STREAM)?, letter.header(FIRST_SEEN)?, sequence))
}

/// The `Nats-Msg-Id` of the first delivery, if it had one.
fn first_id(original: &HeaderMap, generation: u32) -> Option<String> {
    let (_, values) = original.iter().find(|(name, _)| {
        let name: &str = name.as_ref();
        name.eq_ignore_ascii_case("nats-msg-id")
    })?;
    let id = values.first()?.as_str();
    if id.is_empty() {
        return None;
    }
    let suffix = format!("{GENERATION_MARK}{generation}");
    match generation {
        0 => Some(id.to_owned()),
        _ => Some(id.strip_suffix(&suffix).unwrap_or(id).to_owned()),
    }
}
