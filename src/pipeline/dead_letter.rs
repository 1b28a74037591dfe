//! The dead-letter stage: a message that has no row becomes a letter in a stream of
//! its own, durable before the original is acknowledged.

use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender};

use super::Backoff;
use super::settle::Settlement;
use crate::error::{Class, Code, Dependency, Error};
use crate::event::{DecodeReason, Event, Timestamp};
use crate::messaging::Delivery;
use crate::messaging::streams::DLQ_SUBJECT_PREFIX;
use crate::telemetry::Metrics;
use crate::telemetry::batch::BatchRecord;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::record::Failures;

/// Letters whose acknowledgement is awaited at the same time.
const PUBLISHES_AT_ONCE: usize = 64;
/// A header value that is longer is cut: it is for people.
const DETAIL_MAX_BYTES: usize = 512;

/// Why a message became a dead letter: a closed list, and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It could not be decoded.
    Decode(DecodeReason),
    /// Postgres refused its row.
    RejectedRow,
    /// The client library cannot read it.
    Unreadable,
    /// It was delivered too often, and has no row.
    MaxDeliveries,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; DecodeReason::ALL.len() + 3] = {
        let mut all = [Self::RejectedRow; DecodeReason::ALL.len() + 3];
        let mut i = 0;
        while i < DecodeReason::ALL.len() {
            all[i] = Self::Decode(DecodeReason::ALL[i]);
            i += 1;
        }
        all[i + 1] = Self::Unreadable;
        all[i + 2] = Self::MaxDeliveries;
        all
    };

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode(reason) => reason.as_str(),
            Self::RejectedRow => "rejected_row",
            Self::Unreadable => "unreadable",
            Self::MaxDeliveries => "max_deliveries",
        }
    }

    /// Its place in [`Reason::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Decode(reason) => reason as usize,
            Self::RejectedRow => DecodeReason::ALL.len(),
            Self::Unreadable => DecodeReason::ALL.len() + 1,
            Self::MaxDeliveries => DecodeReason::ALL.len() + 2,
        }
    }
}

/// A message to be buried.
pub struct DeadLetter {
    /// The message.
    pub delivery: Delivery,
    /// Why, for metrics.
    pub reason: Reason,
    /// Why, for people; no payload.
    pub detail: String,
    /// Its event, if it has one: Postgres refused it.
    pub event: Option<Event>,
    /// The batch that it was in, if it came so far.
    pub batch: Option<Arc<BatchRecord>>,
}

/// A letter that the stream has acknowledged.
pub struct Buried {
    /// The letter.
    pub letter: DeadLetter,
    /// Attempts to publish it that failed.
    pub failures: Failures,
}

/// What the stage works with.
pub struct DeadLetterStage {
    /// JetStream.
    pub jetstream: Context,
    /// The event stream's name.
    pub stream: String,
    /// Where it counts.
    pub metrics: Metrics,
    /// A stream of nothing but bad messages must not fill the log.
    pub log: RateLimit,
    /// A stream that takes no letters must not either: all that wait try again and again.
    pub retries: RateLimit,
}

/// Buries until the input closes.
///
/// # Errors
/// None: a letter is published until the stream has it.
pub async fn run(
    stage: DeadLetterStage,
    input: Receiver<DeadLetter>,
    settle: Sender<Settlement>,
) -> Result<(), Error> {
    let letters = futures::stream::unfold(input, |mut input| async move {
        let letter = input.recv().await?;
        Some((letter, input))
    });
    letters
        .for_each_concurrent(PUBLISHES_AT_ONCE, |letter| async {
            let buried = stage.bury(letter).await;
            // Nobody left to settle it: dropping it releases the message.
            let _ = settle.send(Settlement::Letter(Box::new(buried))).await;
        })
        .await;
    Ok(())
}

impl DeadLetterStage {
    async fn bury(&self, letter: DeadLetter) -> Buried {
        if let Some(suppressed) = self.log.allow() {
            tracing::warn!(
                reason = letter.reason.as_str(),
                detail = letter.detail,
                stream_seq = letter.delivery.stream_sequence,
                trace_id = %letter.delivery.trace_id,
                suppressed,
                "dead letter"
            );
        }
        let mut failures = Failures::default();
        let mut backoff = Backoff::new();
        while let Err(error) = self.publish(&letter).await {
            self.metrics.dependency_error(&error);
            failures.add(&error);
            if let Some(suppressed) = self.retries.allow() {
                tracing::warn!(%error, suppressed, "a dead letter was not stored; trying again");
            }
            backoff.wait().await;
        }
        self.metrics.dead_letters(letter.reason).increment(1);
        Buried { letter, failures }
    }

    /// Returns when the stream has acknowledged the letter.
    async fn publish(&self, letter: &DeadLetter) -> Result<(), Error> {
        let message = &letter.delivery.message;
        let subject = format!("{DLQ_SUBJECT_PREFIX}{}", message.subject);
        let headers = headers(letter, &self.stream);
        let acknowledgement = self
            .jetstream
            .publish_with_headers(subject, headers, message.payload.clone())
            .await
            .map_err(|error| nats_error(Code::Connection, &error.to_string()))?;
        acknowledgement
            .await
            .map_err(|error| nats_error(Code::Response, &error.to_string()))?;
        Ok(())
    }
}

/// The original headers, and why, when and how often. NATS acts on headers that begin
/// with `Nats-` (expected stream, rollup, time to live), so those of the original
/// are kept under another name.
fn headers(letter: &DeadLetter, stream: &str) -> HeaderMap {
    let delivery = &letter.delivery;
    let mut headers = HeaderMap::new();
    for (name, values) in delivery.message.headers.iter().flat_map(HeaderMap::iter) {
        let name = kept_name(name);
        for value in values {
            headers.append(name.clone(), value.clone());
        }
    }
    let stored_at = delivery.published_at.to_string();
    let sequence = delivery.stream_sequence.to_string();
    let id = format!("{stream}:{sequence}:{stored_at}");
    let mut put = |name: &'static str, value: &str| headers.insert(name, header_value(value));
    put("Nats-Msg-Id", &id);
    put("ganesh-dlq-reason", letter.reason.as_str());
    put("ganesh-dlq-detail", &letter.detail);
    put("ganesh-dlq-stream", stream);
    put("ganesh-dlq-stream-sequence", &sequence);
    put("ganesh-dlq-subject", &delivery.message.subject);
    put("ganesh-dlq-deliveries", &delivery.delivered.to_string());
    put("ganesh-dlq-first-seen", &stored_at);
    put("ganesh-dlq-last-seen", &Timestamp::now().to_string());
    put("ganesh-dlq-trace-id", &delivery.trace_id.to_string());
    headers
}

fn kept_name(name: &HeaderName) -> HeaderName {
    let text: &str = name.as_ref();
    let nats_acts_on_it = text
        .get(..5)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("nats-"));
    if nats_acts_on_it {
        format!("ganesh-dlq-original-{text}")
            .parse()
            .unwrap_or_else(|_| name.clone())
    } else {
        name.clone()
    }
}

/// A value on one line, cut at a limit.
fn header_value(text: &str) -> HeaderValue {
    let one_line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let end = one_line.floor_char_boundary(DETAIL_MAX_BYTES);
    HeaderValue::from(&one_line[..end])
}

fn nats_error(code: Code, detail: &str) -> Error {
    Error::new(
        Dependency::Nats,
        Class::Transient,
        code,
        format!("publishing a dead letter: {detail}"),
    )
}
