//! What a letter is made of. Pure: what fits where is tested without a server.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{
    BODY_BYTES, DELIVERIES, DETAIL, HEADERS_BASE64, LAST_SEEN, ORIGINAL_PREFIX, REASON, STREAM,
    STREAM_SEQUENCE, SUBJECT, TRACE_ID, UNREADABLE, is_acted_on, lines,
};
use crate::event::replay::{self, FIRST_SEEN, FIRST_SEQUENCE, GENERATION};
use crate::event::{Timestamp, TraceId};
use crate::text::printable;

/// A detail that is longer is cut: it is for people.
pub const DETAIL_MAX_BYTES: usize = 512;
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
    pub published_at: Timestamp,
    /// How often it was delivered.
    pub deliveries: u64,
    /// The id that leads to its trace.
    pub trace_id: TraceId,
}

#[derive(Debug, Clone)]
pub(crate) struct OutgoingLetter {
    /// Its headers. Without the name of the object, which is not known here.
    pub headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the message is too large for a letter: then [`Content`] goes to an object.
    pub(crate) needs_object: bool,
}

/// The content of an object: headers, then body.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// The headers as NATS writes them; of a message that the client cannot read, as they came.
    pub(crate) headers: Bytes,
    pub(crate) body: Bytes,
}

/// The subject on which a letter is published, with what the subjects of its stream begin with. Letters have headers, and of a message with headers the
/// client cannot read a subject with white space in it (the header has the subject as it was).
pub fn letter_subject(prefix: &str, subject: &str) -> String {
    let subject = &subject.replace(char::is_whitespace, "_");
    if subject.len() <= SUBJECT_MAX_BYTES {
        return format!("{prefix}{subject}");
    }
    let start = &subject[..subject.floor_char_boundary(SUBJECT_MAX_BYTES)];
    // Whole tokens, if there is more than one: filters by the first ones find it then.
    let start = start.rsplit_once('.').map_or(start, |(tokens, _)| tokens);
    format!("{prefix}{start}")
}

/// Builds the letter of a message, of at most so many bytes.
pub(crate) fn outgoing(
    original: &Original<'_>,
    reason: &str,
    detail: &str,
    payload_max_bytes: usize,
) -> OutgoingLetter {
    let mut own = own_headers(original, reason, detail);
    let kept = kept_headers(original.headers, reason);
    let headers_bytes = block_len(&own) + block_len(&kept);
    if headers_bytes <= HEADERS_MAX_BYTES
        && headers_bytes + original.body.len() <= payload_max_bytes
    {
        for (name, value) in lines(&kept) {
            own.append(name.clone(), value.clone());
        }
        return OutgoingLetter {
            headers: own,
            body: original.body.clone(),
            needs_object: false,
        };
    }
    own.insert(BODY_BYTES, HeaderValue::from(original.body.len()));
    OutgoingLetter {
        headers: own,
        body: Bytes::new(),
        needs_object: true,
    }
}

/// The message of a letter that is too large for one.
pub(crate) fn content(original: &Original<'_>, reason: &str) -> Content {
    let headers = original.headers;
    let unreadable = headers
        .filter(|_| reason == UNREADABLE)
        .and_then(|headers| STANDARD.decode(headers.get(HEADERS_BASE64)?.as_str()).ok());
    let readable = || headers.map(block).unwrap_or_default();
    Content {
        headers: unreadable.unwrap_or_else(readable).into(),
        body: original.body.clone(),
    }
}

/// A name for the object of a letter, which no other one has. It is a token of a subject.
pub(super) fn object_name(original: &Original<'_>) -> String {
    let (stream, sequence) = (original.stream, original.sequence);
    let (micros, random) = (original.published_at.micros(), rand::random::<u32>());
    format!("{stream}:{sequence}:{micros}:{random:08x}")
}

/// The `Nats-Msg-Id` of a letter: a message becomes one letter.
fn letter_id(original: &Original<'_>) -> String {
    let (stream, sequence) = (original.stream, original.sequence);
    format!("{stream}:{sequence}:{}", original.published_at)
}

/// The headers that say why, when and how often.
fn own_headers(original: &Original<'_>, reason: &str, detail: &str) -> HeaderMap {
    let first = replay::first_delivery(original.headers, original.published_at);
    let first_seen = first.map_or(original.published_at, |first| first.seen);
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

/// The message's headers. Those that NATS acts on (expected stream, rollup, time to live) or that
/// are named like ganesh's get another name.
fn kept_headers(headers: Option<&HeaderMap>, reason: &str) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers.into_iter().flat_map(lines) {
        // Of a message that the client cannot read, ganesh wrote them.
        let name = match reason {
            UNREADABLE => name.clone(),
            _ => kept_name(name),
        };
        kept.append(name, value.clone());
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

/// A value without line breaks, on which the client would panic.
fn on_one_line(text: &str) -> HeaderValue {
    HeaderValue::from(text.replace(['\r', '\n'], " "))
}

/// Length of [`block`].
pub(super) fn block_len(headers: &HeaderMap) -> usize {
    let line_bytes = |(name, value): (&HeaderName, &HeaderValue)| {
        let name: &str = name.as_ref();
        name.len() + ": \r\n".len() + value.as_str().len()
    };
    "NATS/1.0\r\n\r\n".len() + lines(headers).map(line_bytes).sum::<usize>()
}

/// Headers as NATS writes them (ADR-4).
fn block(headers: &HeaderMap) -> Vec<u8> {
    let mut block = String::from("NATS/1.0\r\n");
    for (name, value) in lines(headers) {
        for piece in [name.as_ref(), ": ", value.as_str(), "\r\n"] {
            block.push_str(piece);
        }
    }
    block.push_str("\r\n");
    block.into_bytes()
}

/// The headers of what [`block`] wrote; a line that it cannot have written is left out.
pub(super) fn read_block(block: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = String::from_utf8_lossy(block);
    for line in text.split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(": ")
            && let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        {
            headers.append(name, value);
        }
    }
    headers
}
