//! Messages that the client library cannot read.
//!
//! The server stores whatever a producer calls headers, and subjects of any bytes. At a
//! delivery that it cannot parse, async-nats drops the connection, at every delivery again, and
//! what the server sent behind it is lost with the connection. Nothing says which message it
//! was. So after drops that look like it, everything that is delivered, and that the client has not
//! read ([`KnownReadable`]), is read by a plain request, whose answer is JSON with headers and body in base64.
//!
//! On a carriage return in a header value async-nats panics, until a release has
//! <https://github.com/nats-io/nats.rs/pull/1612>: see `connection::lost`.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::RawMessage;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::InFlight;
use super::delivery::ParsedDelivery;
use super::letters::HEADERS_BASE64;
use super::readable::KnownReadable;
use super::streams::api_error;
use crate::error::Error;

/// Messages read in one go at most; a further go follows where there are more.
const LOOKS_MAX: usize = 20_000;

pub(crate) struct Search {
    client: Client,
    consumer: PullConsumer,
    /// What need not be looked at.
    readable: Arc<KnownReadable>,
    /// Asks for a message of the consumer's stream.
    subject: String,
}

/// A message that cannot be read, as one that can: its headers are in [`HEADERS_BASE64`], and what is
/// no text in its subject is replaced.
pub(crate) struct Unreadable {
    pub(crate) parsed: ParsedDelivery,
    /// What the client library cannot parse.
    pub(crate) why: &'static str,
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: RawMessage,
}

impl Search {
    pub(crate) fn new(
        client: Client,
        consumer: PullConsumer,
        readable: Arc<KnownReadable>,
        api_prefix: &str,
    ) -> Self {
        let stream = &consumer.cached_info().stream_name;
        Self {
            subject: format!("{api_prefix}.STREAM.MSG.GET.{stream}"),
            client,
            consumer,
            readable,
        }
    }

    /// The consumer's `ack_wait`.
    pub(crate) fn ack_wait(&self) -> Duration {
        self.consumer.cached_info().config.ack_wait
    }

    /// Sequences that are delivered, not acknowledged up to the floor, not held here and not
    /// known to be readable; and whether these are all of them.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub(crate) async fn candidates(&self, in_flight: &InFlight) -> Result<(Vec<u64>, bool), Error> {
        let info = self.consumer.get_info().await;
        let info: Info = info.map_err(|error| api_error(&format!("consumer: {error}")))?;
        let delivered = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
        let made = info.created.unix_timestamp_nanos();
        let others = self.readable.others(delivered, made);
        // A letter that is on its way.
        let in_flight = in_flight.sequences();
        let unknown =
            (others.into_iter().flatten()).filter(|sequence| !in_flight.contains(sequence));
        let mut unknown: Vec<u64> = unknown.take(LOOKS_MAX + 1).collect();
        let is_all = unknown.len() <= LOOKS_MAX;
        unknown.truncate(LOOKS_MAX);
        Ok((unknown, is_all))
    }

    /// Notes that these can be read: no later search looks at them.
    pub(crate) fn note(&self, readable: impl Iterator<Item = u64>, consumer_generation: u64) {
        self.readable.add(readable, consumer_generation);
    }

    /// Reads a message and says what is wrong with it; `None` when nothing is.
    ///
    /// # Errors
    /// When JetStream does not answer, or with something else.
    pub(crate) async fn look(&self, sequence: u64) -> Result<Option<Unreadable>, Error> {
        let Some(stored) = self.read(sequence, json!({ "seq": sequence })).await? else {
            return Ok(None);
        };
        // What is not UTF-8 in a subject the answer has replaced by a character that may also be in
        // it. Then only a message on exactly that subject is found by it.
        let is_text = !stored.subject.contains(char::REPLACEMENT_CHARACTER) || {
            let by_subject = json!({ "seq": sequence, "next_by_subj": stored.subject });
            let found = self.read(sequence, by_subject).await?;
            found.is_some_and(|found| found.sequence == sequence)
        };
        unreadable(stored, is_text, self.consumer.cached_info())
            .map_err(|what| api_error(&format!("message {sequence}: its {what} is no base64")))
    }

    async fn read(&self, sequence: u64, request: Value) -> Result<Option<RawMessage>, Error> {
        let failed = |what: &dyn Display| api_error(&format!("message {sequence}: {what}"));
        let answer = self
            .client
            .request(self.subject.clone(), request.to_string().into())
            .await
            .map_err(|error| failed(&error))?;
        // A subject may stand in it as it was stored.
        let answer = String::from_utf8_lossy(&answer.payload);
        match serde_json::from_str(&answer).map_err(|error| failed(&error))? {
            Response::Ok(MessageAnswer { message }) => Ok(Some(message)),
            Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                Ok(None)
            }
            Response::Err { error } => Err(failed(&error)),
        }
    }
}

/// The message as one that can be read; `None` when it can be read as it is.
fn unreadable(
    stored: RawMessage,
    is_text: bool,
    consumer: &Info,
) -> Result<Option<Unreadable>, &'static str> {
    let encoded = stored.headers.unwrap_or_default();
    let headers = BASE64_STANDARD.decode(&encoded).map_err(|_| "headers")?;
    let Err(why) = check(&stored.subject, is_text, &headers) else {
        return Ok(None);
    };
    let body = BASE64_STANDARD.decode(&stored.payload);
    let body = body.map_err(|_| "body")?;
    let mut kept = HeaderMap::new();
    kept.insert(HEADERS_BASE64, encoded.as_str());
    // Of these fields the server reads the stream sequence alone where each message is
    // acknowledged by itself, and that is what our consumer asks for.
    let reply = Subject::from(format!(
        "$JS.ACK.{}.{}.1.{}.1.{}.0",
        consumer.stream_name,
        consumer.name,
        stored.sequence,
        stored.time.unix_timestamp_nanos()
    ));
    let message = Message {
        length: stored.subject.len() + reply.len() + encoded.len() + body.len(),
        subject: stored.subject.into(),
        reply: Some(reply),
        payload: Bytes::from(body),
        headers: Some(kept),
        status: None,
        description: None,
    };
    let parsed = ParsedDelivery::read(message).expect("its reply subject is one of a delivery");
    Ok(Some(Unreadable { parsed, why }))
}

/// Says what async-nats cannot parse in a message with this subject (as JSON has it; `is_text`
/// unless it is not UTF-8) and these headers. It follows `Connection::try_read_op` there.
pub(super) fn check(subject: &str, is_text: bool, headers: &[u8]) -> Result<(), &'static str> {
    if !is_text {
        return Err("its subject is not UTF-8");
    }
    if headers.is_empty() {
        return Ok(());
    }
    if subject.contains(char::is_whitespace) {
        return Err("its subject has a space in it");
    }
    let headers = std::str::from_utf8(headers).map_err(|_| "its headers are not UTF-8")?;
    let mut lines = headers.lines().peekable();
    let version = lines.next().and_then(|line| line.strip_prefix("NATS/1.0"));
    let status = version.ok_or("its headers do not begin with NATS/1.0")?;
    let status = status.trim().split(' ').next().unwrap_or_default();
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return Err("its header block begins with a status that is no number of three digits");
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or("a header line has no colon")?;
        if name.parse::<HeaderName>().is_err() {
            return Err("a header name has a character that none may have");
        }
        let mut value = value.trim_start().to_owned();
        while let Some(folded) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(folded);
        }
        if value.trim_end().parse::<HeaderValue>().is_err() {
            // By a panic, which ends the client.
            return Err("a header value has a carriage return in it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_the_client_library_cannot_read_is_told_from_what_it_can() {
        let whole = |lines: &str| format!("NATS/1.0{lines}\r\n\r\n").into_bytes();
        let good: [(&str, Vec<u8>); 9] = [
            ("events.a", Vec::new()),
            ("events.\u{fffd}", whole("")),
            ("events.a", whole("\r\na: b\r")),
            ("events.a", whole("\r\na: b\nc: d")),
            ("events.\u{a0}", Vec::new()),
            ("events.ü", whole("")),
            ("events.a", whole("\r\na: b\r\nc:\r\nd: e:f")),
            ("events.a", whole("\r\na: b\r\n folded")),
            ("events.a", whole(" 503 no responders\r\na: b")),
        ];
        for (subject, headers) in good {
            let checked = check(subject, true, &headers);
            assert_eq!(checked, Ok(()), "{subject} {headers:?}");
        }
        assert!(check("events.\u{fffd}", false, &[]).is_err());
        let bad: [(&str, Vec<u8>); 8] = [
            ("events.a", whole("\r\na: b\rc")),
            ("events.a", whole("\r\na: b\r\n c\rd")),
            ("events.\u{a0}", whole("")),
            ("events.a", b"NATS/1.0\r\na: \xff\r\n\r\n".to_vec()),
            ("events.a", b"HTTP/1.0\r\na: b\r\n\r\n".to_vec()),
            ("events.a", whole(" oops")),
            ("events.a", whole("\r\nno colon")),
            ("events.a", whole("\r\na b: c")),
        ];
        for (subject, headers) in bad {
            assert!(
                check(subject, true, &headers).is_err(),
                "{subject} {headers:?}"
            );
        }
    }
}
