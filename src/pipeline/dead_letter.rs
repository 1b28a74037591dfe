//! The dead-letter stage: a message that has no row becomes a letter in a stream of
//! its own, durable before the original is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use futures::StreamExt;

use super::queue::Receiver;
use super::settle;
use crate::backoff::Backoff;
use crate::error::{Dependency, Error};
use crate::message::timings::Failures;
use crate::message::{DeadLetter, PublishedLetter};
use crate::messaging::InFlight;
use crate::messaging::letters::bucket::Bucket;
use crate::messaging::letters::publish::{Placed, publish};
use crate::messaging::letters::write::Original;
use crate::observe::Observer;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// A letter counts as refused when its publish fails for this long while NATS answers. Leader elections
/// take seconds.
const REFUSED_AFTER: Duration = Duration::from_secs(10);
/// Letters whose acknowledgement is awaited at the same time.
const PUBLISHES_AT_ONCE: usize = 64;

/// What the stage works with.
pub(crate) struct DeadLetterStage {
    /// The event stream's name.
    pub(crate) stream: String,
    /// The dead-letter stream, and its bucket.
    pub(crate) bucket: Bucket,
    /// Takes the acknowledgements.
    pub(crate) client: Client,
    /// The register of what is held.
    pub(crate) in_flight: Arc<InFlight>,
    /// Records each settled message; `None` when telemetry is off.
    pub(crate) observer: Option<Observer>,
    pub(crate) metrics: Metrics,
    /// Where it says that letters are refused.
    pub(crate) health: Health,
    /// Limits the line for each dead letter.
    pub(crate) log: RateLimit,
    /// Limits the line for each failed publish: all waiting letters retry.
    pub(crate) retries: RateLimit,
}

/// Buries until the queue is closed and empty. A letter is published until the stream has it.
pub(crate) async fn run(stage: DeadLetterStage, queue: Receiver<DeadLetter>) -> Result<(), Error> {
    let letters = futures::stream::unfold(queue, |mut queue| async move {
        let letters = queue.recv().await?;
        Some((futures::stream::iter(letters), queue))
    });
    letters
        .flatten()
        .for_each_concurrent(PUBLISHES_AT_ONCE, |letter| async {
            let published = stage.bury(letter).await;
            let mut observer = stage.observer.clone();
            settle::ack_dead_letter(
                &stage.client,
                &stage.in_flight,
                observer.as_mut(),
                published,
            )
            .await;
        })
        .await;
    Ok(())
}

impl DeadLetterStage {
    async fn bury(&self, letter: DeadLetter) -> PublishedLetter {
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
        self.metrics.dead_letters[letter.reason].increment(1);
        PublishedLetter { letter, failures }
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
            published_at: delivery.published_at,
            deliveries: delivery.delivered,
            trace_id: delivery.trace_id,
        };
        let why = (letter.reason.into_str(), letter.detail.as_str());
        publish(&self.bucket, &original, why, placed).await
    }
}
