//! The event: `CloudEvents` 1.0 as it comes over NATS, read from a message and written to one.
//!
//! ```text
//!                       ┌ Content-Type: application/cloudevents… ─▶ structured ┐
//!  message ─ headers ───┼ ce-specversion ────────────────────────▶ binary ─────┼─▶ Event
//!            (one pass) └ neither ───────────────────────────────▶ plain ──────┘
//! ```
//!
//! Nothing here does I/O. Text data is not copied: an event's data is a slice of the message's payload.

mod attributes;
mod binary;
mod canonical;
mod error;
mod headers;
mod marker;
mod numbers;
mod plain;
pub(crate) mod replay;
mod structured;
mod timestamp;
mod trace_context;
mod trace_id;

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use memchr::memchr2_iter;
use serde::de::IgnoredAny;
use xxhash_rust::xxh3::Xxh3Default;

pub(crate) use self::attributes::SUBJECT_MAX_BYTES;
pub use self::attributes::{
    EXTENSION_NAME_MAX_BYTES, EXTENSIONS_MAX_BYTES, EXTENSIONS_MAX_COUNT, ID_MAX_BYTES,
};
pub use self::binary::encode_binary;
pub use self::canonical::canonical_json;
pub use self::error::{DecodeError, DecodeReason};
pub(crate) use self::marker::is_marker;
pub use self::numbers::EXPONENT_MAX;
pub use self::structured::{encode_structured, to_json, to_json_as_stored};
pub use self::timestamp::Timestamp;
pub use self::trace_context::{TraceContext, trace_context};
pub use self::trace_id::TraceId;

/// How deeply arrays and objects may nest in JSON data. Postgres takes a few thousand levels, but
/// readers do not: `serde_json` stops at 127, and the API wraps an event into a few levels more.
pub const JSON_DEPTH_MAX_LEVELS: usize = 100;

/// One event: the attributes of `CloudEvents` 1.0 and its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Identifies the event within its source; not empty, at most [`ID_MAX_BYTES`].
    pub id: String,
    /// The context in which the event happened; not empty, at most [`attributes::SOURCE_MAX_BYTES`].
    pub source: String,
    /// The kind of event; not empty, at most [`attributes::TYPE_MAX_BYTES`].
    pub event_type: String,
    /// The thing that the event is about, within its source; not empty, at most
    /// [`attributes::SUBJECT_MAX_BYTES`].
    pub subject: Option<String>,
    /// When it happened; when the stream stored its message, if the producer did not say.
    pub time: Timestamp,
    /// The media type of the data, as given; at most [`attributes::DATACONTENTTYPE_MAX_BYTES`].
    pub datacontenttype: Option<String>,
    /// The schema of the data; at most [`attributes::DATASCHEMA_MAX_BYTES`].
    pub dataschema: Option<String>,
    /// Extension attributes in the canonical text form that `CloudEvents` defines for each of its types.
    /// Binary mode has no other, so the same event is the same row in whichever mode it came, and
    /// queries need not know the mode.
    pub extensions: BTreeMap<String, String>,
    /// The data.
    pub data: Data,
}

impl Event {
    /// The data's media type as another mode or format must state it: the given one, or else what its
    /// absence implies (JSON format, section 3.1.2).
    fn stated_content_type(&self) -> Option<&str> {
        self.datacontenttype.as_deref().or(match self.data {
            Data::None => None,
            Data::Json(_) => Some("application/json"),
            Data::Binary(_) => Some("application/octet-stream"),
        })
    }
}

/// The data of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// No data: an empty body, or no member for it.
    None,
    /// One JSON text in UTF-8, valid, without white space around it.
    Json(Bytes),
    /// Anything else; not empty.
    Binary(Bytes),
}

impl Data {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Json(bytes) | Self::Binary(bytes) => bytes.len(),
        }
    }

    pub(crate) fn json(&self) -> Option<&Bytes> {
        match self {
            Self::Json(text) => Some(text),
            Self::None | Self::Binary(_) => None,
        }
    }

    pub(crate) fn binary(&self) -> Option<&Bytes> {
        match self {
            Self::Binary(bytes) => Some(bytes),
            Self::None | Self::Json(_) => None,
        }
    }

    /// Data of a body with the content type that came with it, if one did: JSON where the type says so,
    /// bytes where it says something else; JSON, if it is that, where nothing is said.
    fn of_body(body: &Bytes, content_type: Option<&str>) -> Result<Self, DecodeError> {
        if body.is_empty() {
            return Ok(Self::None);
        }
        match content_type {
            Some(media_type) if is_json(media_type) => json_text(body).map(Self::Json),
            Some(_) => Ok(Self::Binary(body.clone())),
            None => Ok(json_text(body).map_or_else(|_| Self::Binary(body.clone()), Self::Json)),
        }
    }
}

/// The parts of a message that the codec reads: everything but I/O.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The NATS subject on which it was published.
    pub subject: &'a str,
    /// Its headers, if it has any.
    pub headers: Option<&'a HeaderMap>,
    /// Its body.
    pub payload: &'a Bytes,
    /// The stream that holds it.
    pub stream: &'a str,
    /// Its sequence in that stream.
    pub stream_sequence: u64,
    /// When the stream stored it: the same at every delivery.
    pub published_at: Timestamp,
}

/// Reads the event of a message: structured when the content type says so, binary when there is a
/// `ce-specversion`, else plain if `accept_plain` (`CloudEvents` NATS binding 3). The same
/// message gives the same event at every delivery, and so does a replay of it ([`replay`]).
///
/// # Errors
///
/// When the message is not an event; no later delivery of it will be.
pub fn decode(message: &Message<'_>, accept_plain: bool) -> Result<Event, DecodeError> {
    attributes::check_nats_subject(message.subject)?;
    let headers = headers::Headers::scan(message.headers);
    let first = replay::read(&headers, message.published_at)?;
    let message = &match first {
        None => *message,
        Some(first) => Message {
            published_at: first.seen,
            stream_sequence: first.sequence,
            ..*message
        },
    };
    if headers.is_structured() {
        structured::decode(message, &headers)
    } else if headers.is_binary() {
        binary::decode(message, &headers)
    } else if accept_plain {
        plain::decode(message, &headers, first.map(|first| first.id))
    } else {
        Err(DecodeError::new(
            DecodeReason::PlainNotAccepted,
            "neither a structured nor a binary CloudEvent (no content-type application/cloudevents+json, \
             no ce-specversion), and plain messages are not accepted here",
        ))
    }
}

/// The `Nats-Msg-Id` of an event, by which a stream drops what is published twice within its window:
/// 32 hexadecimal digits made of source and id. A hash, because the server holds all ids of the window
/// in memory, and these two can have 2 KiB.
pub fn message_id(event: &Event) -> String {
    let mut hasher = Xxh3Default::new();
    // The length keeps ("a", "bc") apart from ("ab", "c").
    hasher.update(&event.source.len().to_le_bytes());
    hasher.update(event.source.as_bytes());
    hasher.update(event.id.as_bytes());
    format!("{:032x}", hasher.digest128())
}

/// Returns whether a media type is JSON: `*/json` or `*/*+json`, parameters aside (JSON format,
/// section 3.1.1).
fn is_json(media_type: &str) -> bool {
    let subtype = essence(media_type)
        .split_once('/')
        .map(|(_, subtype)| subtype);
    let suffix = subtype.and_then(|subtype| subtype.rsplit('+').next());
    suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// The JSON text of a body, without the white space around it and without a copy.
fn json_text(body: &Bytes) -> Result<Bytes, DecodeError> {
    let text = std::str::from_utf8(body).map_err(|_| {
        DecodeError::new(
            DecodeReason::InvalidEncoding,
            "the data is JSON, but not in UTF-8",
        )
    })?;
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| json_error("the data", &error))?;
    check_limits(text)?;
    Ok(body.slice_ref(text.as_bytes()))
}

/// Says where JSON breaks, without the parser's own words: they can quote the payload.
fn json_error(what: &str, error: &serde_json::Error) -> DecodeError {
    DecodeError::new(
        DecodeReason::InvalidJson,
        format!(
            "{what} is not valid JSON: it breaks at line {}, column {}",
            error.line(),
            error.column()
        ),
    )
}

/// Refuses valid JSON that costs others far more than its size.
fn check_limits(json: &str) -> Result<(), DecodeError> {
    check_depth(json)?;
    numbers::check_exponents(json)
}

/// Refuses valid JSON that nests deeper than [`JSON_DEPTH_MAX_LEVELS`]; the parser itself does not
/// recurse and has no limit.
fn check_depth(json: &str) -> Result<(), DecodeError> {
    // Nearly every text has fewer brackets than levels are accepted.
    let openers = memchr2_iter(b'[', b'{', json.as_bytes()).count();
    if openers <= JSON_DEPTH_MAX_LEVELS || depth(json) <= JSON_DEPTH_MAX_LEVELS {
        return Ok(());
    }
    Err(DecodeError::new(
        DecodeReason::InvalidJson,
        format!(
            "the data is JSON nested too deep: at most {JSON_DEPTH_MAX_LEVELS} levels are accepted"
        ),
    ))
}

fn depth(json: &str) -> usize {
    let mut deepest = 0_usize;
    let mut current = 0_usize;
    let mut in_string = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                current += 1;
                deepest = deepest.max(current);
            }
            b']' | b'}' if !in_string => current = current.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
