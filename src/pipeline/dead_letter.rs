//! The dead-letter stage: a message that has no row becomes a letter in a stream of
//! its own, durable before the original is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures::StreamExt;

use super::queue::Receiver;
use super::settle;
use crate::backoff::Backoff;
use crate::error::{Class, Code, Dependency, Error};
use crate::message::timings::Failures;
use crate::message::{BuriedLetter, DeadLetter};
use crate::messaging::Held;
use crate::messaging::letters::write::{self, Original, Outgoing, Part};
use crate::observe::Observer;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// A letter that is not taken for so long, while NATS answers, is said to be refused: elections of a
/// cluster take seconds.
const REFUSED_AFTER: Duration = Duration::from_secs(10);
/// Letters whose acknowledgement is awaited at the same time.
const PUBLISHES_AT_ONCE: usize = 64;

/// What the stage works with.
pub struct DeadLetterStage {
    /// JetStream.
    pub jetstream: Context,
    /// The event stream's name.
    pub stream: String,
    /// The dead-letter stream's.
    pub dlq_stream: String,
    /// The register of what is held.
    pub held: Arc<Held>,
    /// Is told of every settled message, unless telemetry is off.
    pub observer: Option<Observer>,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it says that letters are refused.
    pub health: Health,
    /// A stream of nothing but bad messages must not fill the log.
    pub log: RateLimit,
    /// A stream that takes no letters must not either: all that wait try again and again.
    pub retries: RateLimit,
}

/// Buries until the queue is closed and empty. A letter is published until the stream has it.
pub async fn run(stage: DeadLetterStage, queue: Receiver<DeadLetter>) -> Result<(), Error> {
    let letters = futures::stream::unfold(queue, |mut queue| async move {
        let letters = queue.recv().await?;
        Some((futures::stream::iter(letters), queue))
    });
    letters
        .flatten()
        .for_each_concurrent(PUBLISHES_AT_ONCE, |letter| async {
            let buried = stage.bury(letter).await;
            let mut observer = stage.observer.clone();
            let client = stage.jetstream.client();
            settle::letter(&client, &stage.held, observer.as_mut(), buried).await;
        })
        .await;
    Ok(())
}

impl DeadLetterStage {
    async fn bury(&self, letter: DeadLetter) -> BuriedLetter {
        if let Some(suppressed) = self.log.allow() {
            tracing::warn!(
                reason = letter.reason.into_str(),
                detail = letter.detail,
                stream_seq = letter.delivery.stream_sequence,
                trace_id = %letter.delivery.trace_id,
                suppressed,
                "dead letter"
            );
        }
        let mut failures = Failures::default();
        let mut backoff = Backoff::new();
        let (mut failing_since, mut is_refused) = (None, false);
        while let Err(error) = self.publish(&letter).await {
            if !self.health.is_up(Dependency::Nats) {
                failing_since = None;
            } else if failing_since.get_or_insert_with(Instant::now).elapsed() >= REFUSED_AFTER
                && !is_refused
            {
                is_refused = true;
                self.health.add_refused_letter();
            }
            self.metrics.dependency_error(&error);
            failures.add(&error);
            if let Some(suppressed) = self.retries.allow() {
                tracing::warn!(%error, suppressed, "a dead letter was not stored; trying again");
            }
            backoff.wait().await;
        }
        if is_refused {
            self.health.remove_refused_letter();
        }
        self.metrics.dead_letters[letter.reason].increment(1);
        BuriedLetter { letter, failures }
    }

    /// Returns when the stream has acknowledged the letter, all of it.
    async fn publish(&self, letter: &DeadLetter) -> Result<(), Error> {
        let delivery = &letter.delivery;
        let original = Original {
            subject: &delivery.message.subject,
            headers: delivery.message.headers.as_ref(),
            body: &delivery.message.payload,
            stream: &self.stream,
            sequence: delivery.stream_sequence,
            stored_at: delivery.published_at,
            deliveries: delivery.delivered,
            trace_id: delivery.trace_id,
        };
        let payload_max_bytes = self.jetstream.client().max_payload();
        let reason = letter.reason.into_str();
        let subject = write::letter_subject(original.subject);
        match write::outgoing(&original, reason, &letter.detail, payload_max_bytes) {
            Outgoing::Whole(part) => {
                self.publish_part(&subject, part).await?;
            }
            Outgoing::Halves(first, second) => self.publish_halves(&subject, first, second).await?,
        }
        Ok(())
    }

    /// Of what earlier attempts stored something may have been deleted since then: the first half, where
    /// the stream was full and somebody made room; or both, as whoever replays or purges a letter does.
    /// What the stream calls a duplicate tells which, and what it still holds.
    async fn publish_halves(
        &self,
        subject: &str,
        mut first: Part,
        second: Part,
    ) -> Result<(), Error> {
        let first = loop {
            let published = self.publish_part(subject, first.clone()).await?;
            if !published.duplicate || self.stored(published.sequence).await?.is_some() {
                break published;
            }
            first = first.instead_of(published.sequence);
        };
        let mut second = second.follow(first.sequence);
        let mut stale = None;
        loop {
            let published = self.publish_part(subject, second.clone()).await?;
            if !published.duplicate {
                self.remove(stale).await;
                return Ok(());
            }
            let stored = self.stored(published.sequence).await?;
            let Some(followed) = stored.map(|half| write::followed(&half.headers)) else {
                break; // The letter was whole, and somebody deleted it.
            };
            if let Some(sequence) = followed
                && self.stored(sequence).await?.is_some()
            {
                break; // It is whole, with this first half or with another one.
            }
            stale = Some(published.sequence);
            second = second.instead_of(published.sequence);
        }
        let is_ours = !first.duplicate;
        self.remove(is_ours.then_some(first.sequence)).await;
        Ok(())
    }

    /// What the dead-letter stream holds at this sequence.
    async fn stored(&self, sequence: u64) -> Result<Option<StreamMessage>, Error> {
        let stream = self.dlq_stream().await?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(nats_error(Code::Response, &error.to_string())),
        }
    }

    /// Removes half of a letter that nobody needs. Where that is not allowed it stays, and is listed.
    async fn remove(&self, sequence: Option<u64>) {
        let Some(sequence) = sequence else { return };
        let removed = match self.dlq_stream().await {
            Ok(stream) => stream
                .delete_message(sequence)
                .await
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = removed {
            tracing::warn!(
                sequence,
                error,
                "half of a dead letter that nobody needs stays"
            );
        }
    }

    async fn dlq_stream(&self) -> Result<Stream<()>, Error> {
        let stream = self.jetstream.get_stream_no_info(&self.dlq_stream).await;
        stream.map_err(|error| nats_error(Code::Response, &error.to_string()))
    }

    /// Where the stream holds the part, from now on or from an earlier attempt.
    async fn publish_part(&self, subject: &str, part: Part) -> Result<PublishAck, Error> {
        let acknowledgement = self
            .jetstream
            .publish_with_headers(subject.to_owned(), part.headers, part.body)
            .await
            .map_err(|error| nats_error(Code::Connection, &error.to_string()))?;
        acknowledgement
            .await
            .map_err(|error| nats_error(Code::Response, &error.to_string()))
    }
}

fn nats_error(code: Code, detail: &str) -> Error {
    Error::new(
        Dependency::Nats,
        Class::Transient,
        code,
        format!("publishing a dead letter: {detail}"),
    )
}
