//! Dead letters: how a message becomes one, how it is read back, replayed and deleted.
//!
//! ```text
//!  message ─ write ─▶ letter, or two halves ─▶ EVENTS_DLQ ─ scan ─▶ Letter ─ replay ─▶ message
//! ```
//!
//! A letter is the message with its body, its headers (those that NATS or ganesh would act on under
//! another name) and `ganesh-dlq-` headers that say why, when and how often. One that would pass the
//! server's maximum payload is two messages: the first half holds the start of the body, the second
//! one the rest, the message's headers, and the sequence of the first. The second half is the letter:
//! it is written last, so a letter that is there is whole.

pub mod replay;
pub mod scan;
pub mod write;

use std::time::Duration;

use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::streams::DLQ_SUBJECT_PREFIX;
use crate::error::Error;
use crate::event::Timestamp;
use crate::event::replay::GENERATION;

/// Why the message became a letter: one of a closed list.
pub const REASON: &str = "ganesh-dlq-reason";
/// Why, for people: printable ASCII.
pub const DETAIL: &str = "ganesh-dlq-detail";
/// The stream that the message came from.
pub const STREAM: &str = "ganesh-dlq-stream";
/// Its sequence there.
pub const STREAM_SEQUENCE: &str = "ganesh-dlq-stream-sequence";
/// Its subject, exactly.
pub const SUBJECT: &str = "ganesh-dlq-subject";
/// How often it was delivered.
pub const DELIVERIES: &str = "ganesh-dlq-deliveries";
/// When it became a letter.
pub const LAST_SEEN: &str = "ganesh-dlq-last-seen";
/// The id that leads to its trace, row and log lines.
pub const TRACE_ID: &str = "ganesh-dlq-trace-id";
/// Which half of a letter in two messages this is.
pub const PART: &str = "ganesh-dlq-part";
/// The sequence of the first half, on the second one.
pub const OTHER_PART: &str = "ganesh-dlq-other-part";
/// The bytes that the bodies of the two halves have together.
pub const BYTES: &str = "ganesh-dlq-bytes";
/// How many bytes at the start of the body are the message's headers, where the letter's have no room
/// for these.
pub const HEADERS_BYTES: &str = "ganesh-dlq-headers-bytes";
/// The message's headers as they were, where the client cannot read them.
pub const HEADERS_BASE64: &str = "ganesh-dlq-headers-base64";
/// The reason of a message that the client cannot read: its headers are in [`HEADERS_BASE64`], or before
/// its body ([`HEADERS_BYTES`]).
pub const UNREADABLE: &str = "unreadable";
/// Before the name of a header of the message that NATS or ganesh would act on.
pub const ORIGINAL_PREFIX: &str = "ganesh-dlq-original-";

const OUR_PREFIX: &str = "ganesh-dlq-";
const NATS_PREFIX: &str = "nats-";
const FIRST_HALF: &str = "1/2";
const SECOND_HALF: &str = "2/2";
/// How long a first half without the second one is taken for a letter that is being written: one
/// follows the other at once, unless the stream takes it no more; then, where it was deleted
/// meanwhile, the first half is written again.
const FIRST_HALF_KEPT: Duration = Duration::from_mins(10);
/// Told by the server where a body was left out.
const MESSAGE_SIZE: &str = "Nats-Msg-Size";

/// How much of a letter there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All of it, in one message.
    Whole,
    /// All of it, in two messages; the sequence of the first one.
    Halves(u64),
    /// This half only: the other one is missing, or does not belong to it.
    Half(&'static str),
}

/// A letter, as it was read.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its sequence in the dead-letter stream.
    pub sequence: u64,
    /// When that stream stored it.
    pub written_at: Timestamp,
    /// How much of it there is.
    pub form: Form,
    /// The body of the message; of a half what it has of it, empty where bodies were left out.
    pub body: Bytes,
    /// How long the body is.
    pub body_bytes: u64,
    subject: String,
    headers: HeaderMap,
    unreadable_headers: Option<Bytes>,
}

impl Letter {
    fn read(
        sequence: u64,
        written_at: Timestamp,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Self {
        let size = |name| headers.get(name)?.as_str().parse().ok();
        let body_bytes = size(MESSAGE_SIZE).unwrap_or(body.len() as u64);
        let form = match text(&headers, PART) {
            Some(FIRST_HALF) => Form::Half(FIRST_HALF),
            Some(_) => Form::Half(SECOND_HALF),
            None => Form::Whole,
        };
        let mut letter = Self {
            sequence,
            written_at,
            form,
            body,
            body_bytes,
            subject: text(&headers, SUBJECT)
                .or_else(|| subject.strip_prefix(DLQ_SUBJECT_PREFIX))
                .unwrap_or(subject)
                .to_owned(),
            headers,
            unreadable_headers: None,
        };
        if letter.form == Form::Whole {
            letter.take_headers_of_body();
        }
        letter
    }

    /// Why the message became a letter; empty when the letter is not of ganesh.
    pub fn reason(&self) -> &str {
        self.header(REASON).unwrap_or_default()
    }

    /// The subject of the message.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// How often the message was replayed.
    pub fn generation(&self) -> u32 {
        let generation = self.header(GENERATION);
        generation.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// One of the headers that say why, when and how often.
    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    /// The message's own headers, under their own names. Empty where the client could not read them.
    pub fn original_headers(&self) -> HeaderMap {
        let mut original = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            let name: &str = name.as_ref();
            let name = match name.strip_prefix(ORIGINAL_PREFIX) {
                Some(own) => own,
                None if is_acted_on(name) => continue,
                None => name,
            };
            // Whoever may publish to the dead-letter stream may name headers as it likes.
            let Ok(name) = name.parse::<HeaderName>() else {
                continue;
            };
            for value in values {
                original.append(name.clone(), value.clone());
            }
        }
        original
    }

    /// The message's headers as they were, if the client could not read them.
    pub fn unreadable_headers(&self) -> Option<Bytes> {
        if self.reason() != UNREADABLE {
            return None;
        }
        let in_header = self.header(HEADERS_BASE64).unwrap_or_default();
        let before_body = self.unreadable_headers.clone();
        Some(before_body.unwrap_or_else(|| STANDARD.decode(in_header).unwrap_or_default().into()))
    }

    /// The sequence of the first half, if this is a second one.
    fn other_part(&self) -> Option<u64> {
        write::followed(&self.headers)
    }

    fn is_first_half(&self) -> bool {
        self.form == Form::Half(FIRST_HALF)
    }

    /// Whether it is a first half whose second one may be on its way: deleted, it would be missing there.
    pub fn is_being_written(&self) -> bool {
        let age_micros = Timestamp::now().micros() - self.written_at.micros();
        let kept_micros = i64::try_from(FIRST_HALF_KEPT.as_micros()).unwrap_or(i64::MAX);
        self.is_first_half() && age_micros < kept_micros
    }

    /// Whether `first` is the first half of this second one.
    fn is_continued_from(&self, first: &Self) -> bool {
        let ids = first.header("Nats-Msg-Id").zip(self.header("Nats-Msg-Id"));
        let total = self.header(BYTES).and_then(|text| text.parse().ok());
        ids.is_some_and(|(first, second)| are_ids_of_one_letter(first, second))
            && Some(first.body_bytes + self.body_bytes) == total
            && first.is_first_half()
    }

    /// Makes a whole letter of this second half. `first` may come without its body, if this did.
    fn continue_from(&mut self, first: &Self) {
        self.form = Form::Halves(first.sequence);
        self.body_bytes += first.body_bytes;
        if (first.body.len() + self.body.len()) as u64 == self.body_bytes {
            self.body = [&first.body[..], &self.body[..]].concat().into();
        }
        self.take_headers_of_body();
    }

    /// The message's headers that stand before its body become headers. Bodies may have been left out.
    fn take_headers_of_body(&mut self) {
        let bytes = self
            .header(HEADERS_BYTES)
            .and_then(|text| text.parse::<u64>().ok());
        let Some(bytes) = bytes.filter(|bytes| *bytes <= self.body_bytes) else {
            return;
        };
        let is_read = self.body.len() as u64 == self.body_bytes;
        self.body_bytes -= bytes;
        let Ok(bytes) = usize::try_from(bytes) else {
            return;
        };
        if is_read {
            let block = self.body.split_to(bytes);
            if self.reason() == UNREADABLE {
                self.unreadable_headers = Some(block);
            } else {
                write::read_block(&block, &mut self.headers);
            }
        }
    }
}

/// One message of the dead-letter stream, or `None` if it has none of this sequence.
///
/// # Errors
/// When JetStream does not answer.
async fn get(stream: &Stream, sequence: u64) -> Result<Option<Letter>, Error> {
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(Letter::read(
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

/// Gives a second half what the first one holds, if that is there. Letters of another form stay.
///
/// # Errors
/// When JetStream does not answer.
async fn complete(stream: &Stream, letter: &mut Letter) -> Result<(), Error> {
    let Some(sequence) = letter.other_part() else {
        return Ok(());
    };
    if let Some(first) = get(stream, sequence).await?
        && letter.is_continued_from(&first)
    {
        letter.continue_from(&first);
    }
    Ok(())
}

/// One letter, or `None` if there is none of this sequence. That of a first half is the half.
///
/// # Errors
/// When JetStream does not answer.
pub async fn one(stream: &Stream, sequence: u64) -> Result<Option<Letter>, Error> {
    let Some(mut letter) = get(stream, sequence).await? else {
        return Ok(None);
    };
    complete(stream, &mut letter).await?;
    Ok(Some(letter))
}

/// Deletes a letter; one that is gone already is deleted. The second half goes first: what a crash
/// in between leaves is a first half, which says nothing by itself.
///
/// # Errors
/// When JetStream does not answer, or refuses.
pub async fn delete(jetstream: &Context, stream: &str, letter: &Letter) -> Result<(), Error> {
    delete_message(jetstream, stream, letter.sequence).await?;
    match letter.form {
        Form::Halves(first) => delete_message(jetstream, stream, first).await,
        Form::Whole | Form::Half(_) => Ok(()),
    }
}

async fn delete_message(jetstream: &Context, stream: &str, sequence: u64) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<async_nats::jetstream::Error>,
    }
    // The client's own call has the server overwrite the message with noise, which takes longer.
    let request = json!({ "seq": sequence, "no_erase": true });
    let answer: Answer = jetstream
        .request(format!("STREAM.MSG.DELETE.{stream}"), &request)
        .await
        .map_err(|error| deletion_error(sequence, &error.to_string()))?;
    match answer.error {
        Some(error) if !is_gone(&error) => Err(deletion_error(sequence, &error.to_string())),
        _ => Ok(()),
    }
}

/// A message that was deleted, or lies before the first one.
fn is_gone(error: &async_nats::jetstream::Error) -> bool {
    [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::SEQUENCE_NOT_FOUND].contains(&error.error_code())
}

fn deletion_error(sequence: u64, detail: &str) -> Error {
    super::streams::api_error(&format!("deleting letter {sequence}: {detail}"))
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

/// The `Nats-Msg-Id` of the first half of the letter with this one.
fn first_half_id(id: &str) -> String {
    format!("{id}:{FIRST_HALF}")
}

/// Either half may have been written again: `Part::instead_of`.
fn are_ids_of_one_letter(first: &str, second: &str) -> bool {
    let is = |id: &str, whole: &str| {
        id.strip_prefix(whole)
            .is_some_and(|again| again.is_empty() || again.starts_with(':'))
    };
    first
        .split_once(&first_half_id(""))
        .is_some_and(|(letter, _)| is(first, &first_half_id(letter)) && is(second, letter))
}
