//! The dead-letter stage: a message that has no row becomes a letter in a stream of
//! its own, durable before the original is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender};

use super::Backoff;
use super::settle::Settlement;
use crate::error::{Dependency, Error};
use crate::event::{DecodeReason, Event};
use crate::messaging::Delivery;
use crate::messaging::letters::bucket::Bucket;
use crate::messaging::letters::publish::{Placed, publish};
use crate::messaging::letters::write::Original;
use crate::telemetry::batch::BatchRecord;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::record::Failures;
use crate::telemetry::{Health, Metrics};

/// A letter that is not taken for so long, while NATS answers, is said to be refused: elections of a
/// cluster take seconds.
const REFUSED_AFTER: Duration = Duration::from_secs(10);
/// Letters whose acknowledgement is awaited at the same time.
const PUBLISHES_AT_ONCE: usize = 64;

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
    /// The event stream's name.
    pub stream: String,
    /// The dead-letter stream, and its bucket.
    pub bucket: Bucket,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it says that letters are refused.
    pub health: Health,
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
        let (mut failing_since, mut is_refused) = (None, false);
        let mut placed = None;
        while let Err(error) = self.publish(&letter, &mut placed).await {
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
        self.metrics.dead_letters(letter.reason).increment(1);
        Buried { letter, failures }
    }

    /// Returns when the letter, and its object if it needs one, are durable.
    async fn publish(&self, letter: &DeadLetter, placed: &mut Option<Placed>) -> Result<(), Error> {
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
        let why = (letter.reason.as_str(), letter.detail.as_str());
        publish(&self.bucket, &original, why, placed).await
    }
}
