//! The dead letter of one message. The letters have no index: their headers are read from the first
//! that may be it, for a bounded time.

use std::time::Duration;

use async_nats::HeaderValue;
use async_nats::jetstream::Context;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::scan::{Filter, Scan};
use super::{Letter, STREAM, STREAM_SEQUENCE, TRACE_ID};
use crate::config::is_subject;
use crate::error::Error;
use crate::event::Timestamp;
use crate::event::replay::FIRST_SEQUENCE;
use crate::messaging::streams::api_error;

/// For deleting the consumer. Callers wait only a little longer than the search may take.
const CLOSE_LIMIT: Duration = Duration::from_millis(50);
/// The clocks of a cluster's servers differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// Letters of longer subjects are on a part of it.
const SUBJECT_MAX_BYTES: usize = 1_024;

/// Which letter is wanted.
#[derive(Debug, Clone)]
pub(crate) enum LetterSearch<'a> {
    /// Of this message, or of a replay of it.
    Message {
        stream: &'a str,
        sequence: u64,
        /// When its stream stored it, and on which subject, where that is known.
        known: Option<(Timestamp, &'a str)>,
    },
    /// With this trace id.
    Trace(&'a str),
    /// Of an event, as far as headers name it.
    Event {
        id: &'a str,
        source: Option<&'a str>,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct FoundLetters {
    /// The last that matches.
    pub(crate) letter: Option<Letter>,
    /// Every letter that can match was looked at.
    pub(crate) is_complete: bool,
    /// Letters whose body would have to be read to tell.
    pub(crate) not_looked_into: u64,
}

/// Looks for a letter, for so long at most.
///
/// # Errors
/// When JetStream does not answer, or there is no such stream.
pub(crate) async fn find(
    jetstream: &Context,
    letters: &str,
    wanted: &LetterSearch<'_>,
    limit: Duration,
) -> Result<FoundLetters, Error> {
    let until = Instant::now() + limit;
    let stream = jetstream.get_stream(letters).await;
    let stream = stream.map_err(|error| api_error(&format!("stream {letters}: {error}")))?;
    let last = stream.cached_info().state.last_sequence;
    let mut found = FoundLetters::default();
    if stream.cached_info().state.messages == 0 {
        found.is_complete = true;
        return Ok(found);
    }
    let mut scan = Scan::open(&stream, &wanted.filter(), last);
    loop {
        match tokio::time::timeout_at(until, scan.next()).await {
            Ok(Ok(Some(letter))) => match wanted.is(&letter) {
                Some(true) => found.letter = Some(letter),
                Some(false) => {}
                None => found.not_looked_into += 1,
            },
            Ok(Ok(None)) => {
                found.is_complete = true;
                break;
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
    }
    // Where this is too slow, the server removes the consumer later.
    let _ = tokio::time::timeout(CLOSE_LIMIT, scan.close()).await;
    Ok(found)
}

impl LetterSearch<'_> {
    fn filter(&self) -> Filter {
        let Self::Message {
            known: Some((published_at, subject)),
            ..
        } = self
        else {
            return Filter::default();
        };
        let is_whole = subject.len() <= SUBJECT_MAX_BYTES && is_subject(subject);
        let before = i64::try_from(CLOCKS_DIFFER.as_micros()).expect("a minute");
        Filter {
            subject: is_whole.then(|| (*subject).to_owned()),
            since: Some(Timestamp::from_micros(published_at.micros() - before)),
            ..Filter::default()
        }
    }

    /// Whether it is this one; `None` if its headers do not tell.
    fn is(&self, letter: &Letter) -> Option<bool> {
        match self {
            Self::Message {
                stream, sequence, ..
            } => {
                let names = |name| letter.header(name)?.parse().ok();
                let is_named = [STREAM_SEQUENCE, FIRST_SEQUENCE]
                    .iter()
                    .any(|name| names(name) == Some(*sequence));
                Some(is_named && letter.header(STREAM) == Some(*stream))
            }
            Self::Trace(id) => Some(letter.header(TRACE_ID) == Some(*id)),
            Self::Event { id, source } => is_event(letter, id, *source),
        }
    }
}

fn is_event(letter: &Letter, id: &str, source: Option<&str>) -> Option<bool> {
    let headers = letter.original_headers();
    let value = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| {
            let name: &str = name.as_ref();
            name.eq_ignore_ascii_case(wanted)
        });
        let (_, values) = found?;
        values.first().map(HeaderValue::as_str)
    };
    let text = |value: &str| percent_decode_str(value).decode_utf8_lossy().into_owned();
    let is_structured = value("content-type").is_some_and(|kind| {
        kind.to_ascii_lowercase()
            .starts_with("application/cloudevents")
    });
    if let Some(found) = value("ce-id") {
        let is_source = |source| value("ce-source").map(text).as_deref() == Some(source);
        return Some(text(found) == id && source.is_none_or(is_source));
    }
    // Where they are in an object, there is no header here at all.
    if is_structured || letter.object().is_some() {
        return None;
    }
    let own = value("Nats-Msg-Id").unwrap_or_default();
    let place = letter.header(STREAM).zip(letter.header(STREAM_SEQUENCE));
    let by_place = place.is_some_and(|(stream, sequence)| format!("{stream}:{sequence}") == id);
    Some(own == id || by_place)
}
