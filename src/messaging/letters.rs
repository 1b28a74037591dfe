//! Dead letters: how a message becomes one, how it is read back, replayed and deleted.
//!
//! ```text
//!  message ─ publish ─▶ (object in the bucket, then) letter in EVENTS_DLQ ─ scan ─▶ Letter ─ replay ─▶ message
//! ```
//!
//! A letter is the message with its body, its headers (those that NATS or ganesh would act on under
//! another name) and `ganesh-dlq-` headers that say why, when and how often. Where a message has no room
//! for that, headers and body are an object of the bucket of the same name, and the letter names it. The
//! object is durable before the letter is, so every letter can be read.

pub mod bucket;
pub(crate) mod find;
pub mod publish;
pub(crate) mod replay;
pub(crate) mod scan;
pub mod sweep;
pub mod write;

use std::fmt::Display;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::json;

use self::bucket::Bucket;
use super::streams::DLQ_SUBJECT_PREFIX;
use crate::error::Error;
use crate::event::Timestamp;
use crate::event::replay::GENERATION;

/// Why the message became a letter: one of a closed list.
pub const REASON: &str = "ganesh-dlq-reason";
/// Why, for people: printable ASCII.
pub(crate) const DETAIL: &str = "ganesh-dlq-detail";
pub(crate) const STREAM: &str = "ganesh-dlq-stream";
pub(crate) const STREAM_SEQUENCE: &str = "ganesh-dlq-stream-sequence";
/// Its subject, exactly.
pub const SUBJECT: &str = "ganesh-dlq-subject";
pub(crate) const DELIVERIES: &str = "ganesh-dlq-deliveries";
/// When it became a letter.
pub(crate) const LAST_SEEN: &str = "ganesh-dlq-last-seen";
/// The id that leads to its trace, row and log lines.
pub(crate) const TRACE_ID: &str = "ganesh-dlq-trace-id";
/// The object that holds the message's headers and body, where the letter has no room for them.
pub(crate) const OBJECT: &str = "ganesh-dlq-object";
/// How long the body in the object is.
pub(crate) const BODY_BYTES: &str = "ganesh-dlq-body-bytes";
/// The message's headers as they were, where the client cannot read them.
pub(crate) const HEADERS_BASE64: &str = "ganesh-dlq-headers-base64";
/// The reason of a message that the client cannot read: its headers are in [`HEADERS_BASE64`], or in the
/// object as they were.
pub(crate) const UNREADABLE: &str = "unreadable";
/// Before the name of a header of the message that NATS or ganesh would act on.
pub const ORIGINAL_PREFIX: &str = "ganesh-dlq-original-";

const OUR_PREFIX: &str = "ganesh-dlq-";
const NATS_PREFIX: &str = "nats-";
/// The header in which the server gives the size of a body that it left out.
const MESSAGE_SIZE: &str = "Nats-Msg-Size";

/// A letter, as it was read.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its sequence in the dead-letter stream.
    pub(crate) sequence: u64,
    /// When that stream stored it.
    pub(crate) written_at: Timestamp,
    /// The body of the message, if it was read.
    pub body: Bytes,
    /// How long the body is.
    pub body_bytes: u64,
    subject: String,
    headers: HeaderMap,
    /// The headers in its object, once read.
    header_block: Option<Bytes>,
}

impl Letter {
    fn new(
        sequence: u64,
        written_at: Timestamp,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Self {
        let size = |name| headers.get(name)?.as_str().parse().ok();
        let in_object = headers.get(OBJECT).and_then(|_| size(BODY_BYTES));
        let body_bytes = in_object
            .or_else(|| size(MESSAGE_SIZE))
            .unwrap_or(body.len() as u64);
        Self {
            sequence,
            written_at,
            body,
            body_bytes,
            subject: text(&headers, SUBJECT)
                .or_else(|| subject.strip_prefix(DLQ_SUBJECT_PREFIX))
                .unwrap_or(subject)
                .to_owned(),
            headers,
            header_block: None,
        }
    }

    /// Why the message became a letter; empty when the letter is not of ganesh.
    pub fn reason(&self) -> &str {
        self.header(REASON).unwrap_or_default()
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// How often the message was replayed.
    pub(crate) fn generation(&self) -> u32 {
        let generation = self.header(GENERATION);
        generation.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// One of the headers that say why, when and how often.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    /// The object that has headers and body of the message, if it has no room for them itself.
    pub fn object(&self) -> Option<&str> {
        self.header(OBJECT)
    }

    /// The message's own headers, under their own names. Empty where the client could not read them, and
    /// where they are in an object that was not read.
    pub fn original_headers(&self) -> HeaderMap {
        if let Some(block) = &self.header_block {
            return write::read_block(block);
        }
        let mut original = HeaderMap::new();
        for (name, value) in lines(&self.headers) {
            let name: &str = name.as_ref();
            let name = match name.strip_prefix(ORIGINAL_PREFIX) {
                Some(own) => own,
                None if is_acted_on(name) => continue,
                None => name,
            };
            // Whoever may publish to the dead-letter stream may name headers as it likes.
            if let Ok(name) = name.parse::<HeaderName>() {
                original.append(name, value.clone());
            }
        }
        original
    }

    /// The message's headers as they were, if the client could not read them.
    pub fn unreadable_headers(&self) -> Option<Bytes> {
        if self.reason() != UNREADABLE {
            return None;
        }
        let in_header = || STANDARD.decode(self.header(HEADERS_BASE64).unwrap_or_default());
        let in_object = self.header_block.clone();
        Some(in_object.unwrap_or_else(|| in_header().unwrap_or_default().into()))
    }

    /// Reads what it has in an object, if it has.
    ///
    /// # Errors
    /// When the object is not there, or does not arrive whole.
    pub async fn read_object(&mut self, bucket: &Bucket) -> Result<(), Error> {
        let Some(name) = self.object() else {
            return Ok(());
        };
        let content = bucket.read(name).await?;
        self.body = content.body;
        self.body_bytes = self.body.len() as u64;
        self.header_block = Some(content.headers);
        Ok(())
    }
}

/// Returns a letter, or `None` if there is none of this sequence. Its object is not read.
///
/// # Errors
/// When JetStream does not answer.
pub async fn one<I>(stream: &Stream<I>, sequence: u64) -> Result<Option<Letter>, Error> {
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(Letter::new(
            message.sequence,
            Timestamp::from_nanos(message.time.unix_timestamp_nanos()),
            &message.subject,
            message.headers,
            message.payload,
        ))),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            _ => Err(super::streams::api_error(&format!(
                "reading letter {sequence}: {error}"
            ))),
        },
    }
}

/// Deletes a letter and then its object; a missing letter is deleted. [`sweep`] removes an object
/// that stays behind.
///
/// # Errors
/// When JetStream does not answer, or rejects the deletion.
pub(crate) async fn delete(bucket: &Bucket, letter: &Letter) -> Result<(), Error> {
    delete_message(&bucket.jetstream, &bucket.name, letter.sequence).await?;
    if let Some(name) = letter.object()
        && let Err(error) = bucket.remove(name).await
    {
        tracing::warn!(%error, "the letter is deleted; ganesh serve will remove its object");
    }
    Ok(())
}

/// Deletes one message of a stream; one that is gone already is deleted.
async fn delete_message(jetstream: &Context, stream: &str, sequence: u64) -> Result<(), Error> {
    let failed = |why: &dyn Display| {
        super::streams::api_error(&format!("deleting message {sequence} of {stream}: {why}"))
    };
    // The client's own call has the server overwrite the message with noise, which takes longer.
    let request = json!({ "seq": sequence, "no_erase": true });
    let subject = format!("STREAM.MSG.DELETE.{stream}");
    let answer = jetstream.request(subject, &request).await;
    match answer.map_err(|error| failed(&error))? {
        Response::Err { error } if !is_gone(&error) => Err(failed(&error)),
        Response::Err { .. } | Response::Ok(IgnoredAny) => Ok(()),
    }
}

/// A message that was deleted, or lies before the first one.
fn is_gone(error: &async_nats::jetstream::Error) -> bool {
    [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::SEQUENCE_NOT_FOUND].contains(&error.error_code())
}

/// The lines of a header block.
fn lines(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let headers = headers.iter();
    headers.flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(HeaderValue::as_str)
}

/// Headers that the server or ganesh acts on, in any spelling.
fn is_acted_on(name: &str) -> bool {
    [NATS_PREFIX, OUR_PREFIX].iter().any(|prefix| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}
