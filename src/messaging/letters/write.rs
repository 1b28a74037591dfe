//! Writing letters: pure, so that what fits where can be tested without a server.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::{
    BYTES, DELIVERIES, DETAIL, FIRST_HALF, HEADERS_BYTES, LAST_SEEN, ORIGINAL_PREFIX, OTHER_PART,
    PART, REASON, SECOND_HALF, STREAM, STREAM_SEQUENCE, SUBJECT, TRACE_ID, UNREADABLE,
    first_half_id, is_acted_on,
};
use crate::event::replay::{self, FIRST_SEEN, FIRST_SEQUENCE, GENERATION};
use crate::event::{Timestamp, TraceId};
use crate::messaging::streams::DLQ_SUBJECT_PREFIX;
use crate::text::printable;

/// A detail that is longer is cut: it is for people.
pub const DETAIL_MAX_BYTES: usize = 512;
/// Our headers, but for those that follow from the message: these parts of them vary between two
/// attempts at one letter (times, deliveries, detail), and where a letter is cut must not.
const OUR_HEADERS_MAX_BYTES: usize = 2_048;
/// JetStream stores no message with more headers.
pub(super) const HEADERS_MAX_BYTES: usize = 65_535;
/// A subject that is longer is cut in the letter's own subject, or the server, whose command lines
/// have 4,096 bytes by default, would refuse the letter for ever. The header has all of it.
const SUBJECT_MAX_BYTES: usize = 3_072;

/// The message that becomes a letter.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// Its subject.
    pub subject: &'a str,
    /// Its headers.
    pub headers: Option<&'a HeaderMap>,
    /// Its body.
    pub body: &'a Bytes,
    /// The stream that it came from.
    pub stream: &'a str,
    /// Its sequence there.
    pub sequence: u64,
    /// When that stream stored it.
    pub stored_at: Timestamp,
    /// How often it was delivered.
    pub deliveries: u64,
    /// The id that leads to its trace.
    pub trace_id: TraceId,
}

/// One message for the dead-letter stream.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A letter, ready to be published.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// In one message.
    Whole(Part),
    /// In two; the second one must be told the sequence of the first: [`Part::follow`].
    Halves(Part, Part),
}

impl Part {
    /// A half again, under an id that the stream does not know yet. The one that it stored at this
    /// sequence was deleted, or follows one that was, and the stream would call another one of that id a
    /// duplicate.
    #[must_use]
    pub fn instead_of(mut self, sequence: u64) -> Self {
        let id = self.headers.get("Nats-Msg-Id");
        let id = id.map_or_else(String::new, |id| format!("{id}:{sequence}"));
        self.headers.insert("Nats-Msg-Id", id);
        self
    }

    /// Says where the first half is.
    #[must_use]
    pub fn follow(mut self, first_sequence: u64) -> Self {
        self.headers
            .insert(OTHER_PART, HeaderValue::from(first_sequence));
        self
    }
}

/// The sequence of the first half that a second one follows: [`Part::follow`].
pub fn followed(headers: &HeaderMap) -> Option<u64> {
    headers.get(OTHER_PART)?.as_str().parse().ok()
}

/// The subject on which a letter is published. Letters have headers, and of a message with headers the
/// client cannot read a subject with white space in it (the header has the subject as it was).
pub fn letter_subject(subject: &str) -> String {
    let subject = &subject.replace(char::is_whitespace, "_");
    if subject.len() <= SUBJECT_MAX_BYTES {
        return format!("{DLQ_SUBJECT_PREFIX}{subject}");
    }
    let start = &subject[..subject.floor_char_boundary(SUBJECT_MAX_BYTES)];
    // Whole tokens, if there is more than one: filters by the first ones find it then.
    let start = start.rsplit_once('.').map_or(start, |(tokens, _)| tokens);
    format!("{DLQ_SUBJECT_PREFIX}{start}")
}

/// The letter of a message: the same at every attempt, but for times and counts.
pub fn outgoing(
    original: &Original<'_>,
    reason: &str,
    detail: &str,
    payload_max_bytes: usize,
) -> Outgoing {
    let own = own_headers(original, reason, detail);
    let own_max = own_max_bytes(original);
    let kept = kept_headers(original.headers, reason);
    let mut headers = own.clone();
    let (fixed, body) = if own_max + block_len(&kept) <= HEADERS_MAX_BYTES.min(payload_max_bytes) {
        headers = with(headers, &kept);
        (own_max + block_len(&kept), original.body.clone())
    } else {
        let block = block(&kept);
        headers.insert(HEADERS_BYTES, HeaderValue::from(block.len()));
        let body = Bytes::from([&block[..], &original.body[..]].concat());
        (own_max, body)
    };
    if fixed + body.len() <= payload_max_bytes {
        return Outgoing::Whole(Part { headers, body });
    }
    let mut first = own;
    first.insert("Nats-Msg-Id", first_half_id(&letter_id(original)));
    for (half, part) in [(&mut first, FIRST_HALF), (&mut headers, SECOND_HALF)] {
        half.insert(PART, part);
        half.insert(BYTES, HeaderValue::from(body.len()));
    }
    let cut = (fixed + body.len() - payload_max_bytes).min(body.len());
    Outgoing::Halves(
        Part {
            headers: first,
            body: body.slice(..cut),
        },
        Part {
            headers,
            body: body.slice(cut..),
        },
    )
}

/// By which the stream drops what is written twice: a message is one letter.
fn letter_id(original: &Original<'_>) -> String {
    let Original {
        stream,
        sequence,
        stored_at,
        ..
    } = original;
    format!("{stream}:{sequence}:{stored_at}")
}

fn own_max_bytes(original: &Original<'_>) -> usize {
    OUR_HEADERS_MAX_BYTES + original.subject.len() + 2 * original.stream.len()
}

/// Why, when and how often.
fn own_headers(original: &Original<'_>, reason: &str, detail: &str) -> HeaderMap {
    let first = replay::first_delivery(original.headers, original.stored_at);
    let first_seen = first.map_or(original.stored_at, |first| first.seen);
    let first_sequence = first.map_or(original.sequence, |first| first.sequence);
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| headers.insert(name, on_one_line(value));
    put("Nats-Msg-Id", &letter_id(original));
    put(REASON, reason);
    put(DETAIL, &printable(detail, DETAIL_MAX_BYTES));
    put(STREAM, original.stream);
    put(STREAM_SEQUENCE, &original.sequence.to_string());
    put(SUBJECT, original.subject);
    put(DELIVERIES, &original.deliveries.to_string());
    put(
        GENERATION,
        &first.map_or(0, |first| first.generation).to_string(),
    );
    put(FIRST_SEEN, &first_seen.to_string());
    put(FIRST_SEQUENCE, &first_sequence.to_string());
    put(LAST_SEEN, &Timestamp::now().to_string());
    put(TRACE_ID, &original.trace_id.to_string());
    headers
}

/// The message's headers, those that NATS acts on (expected stream, rollup, time to live) or that
/// are named like ours under another name.
fn kept_headers(headers: Option<&HeaderMap>, reason: &str) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        // Of a message that the client cannot read, ganesh wrote them.
        let name = match reason {
            UNREADABLE => name.clone(),
            _ => kept_name(name),
        };
        for value in values {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

fn kept_name(name: &HeaderName) -> HeaderName {
    let text: &str = name.as_ref();
    if !is_acted_on(text) {
        return name.clone();
    }
    let kept = format!("{ORIGINAL_PREFIX}{text}");
    kept.parse()
        .expect("a header's name stays one behind letters and dashes")
}

fn with(mut headers: HeaderMap, more: &HeaderMap) -> HeaderMap {
    for (name, values) in more.iter() {
        for value in values {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// A value that no line break can end: the client refuses it, by a panic, otherwise.
fn on_one_line(text: &str) -> HeaderValue {
    text.parse()
        .unwrap_or_else(|_| HeaderValue::from(text.replace(['\r', '\n'], " ")))
}

/// Length of [`block`].
pub(super) fn block_len(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| name.len() + ": \r\n".len() + value.as_str().len())
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// Headers as NATS writes them (ADR-4), in the same order at every attempt.
fn block(headers: &HeaderMap) -> Vec<u8> {
    let mut sorted: Vec<(&str, &Vec<HeaderValue>)> = headers
        .iter()
        .map(|(name, values)| (name.as_ref(), values))
        .collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    let mut block = String::from("NATS/1.0\r\n");
    for (name, values) in sorted {
        for value in values {
            for piece in [name, ": ", value.as_str(), "\r\n"] {
                block.push_str(piece);
            }
        }
    }
    block.push_str("\r\n");
    block.into_bytes()
}

/// Adds what [`block`] wrote; what it cannot have written is left out.
pub(super) fn read_block(block: &[u8], headers: &mut HeaderMap) {
    let text = String::from_utf8_lossy(block);
    for line in text.split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(": ")
            && let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        {
            headers.append(name, value);
        }
    }
}
