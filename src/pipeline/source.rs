//! The source: pulls what there is room for, and reads every pull to its end.
//!
//! The server counts what it has sent as delivered even when nobody has read it, so
//! a pull asks for no more than may be held, and is never abandoned with messages
//! on their way.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt;
use futures::stream::ReadyChunks;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Backoff;
use crate::config::Config;
use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::delivery::Arrived;
use crate::messaging::held::{Arrival, Room, SUBJECTS_MAX_BYTES};
use crate::messaging::{Delivery, Held};
use crate::telemetry::Metrics;
use crate::telemetry::logs::RateLimit;

/// Messages of one pull at most.
const PULL_MAX_MESSAGES: usize = 4_096;
/// A pull that is not filled ends after this: the longest that a shutdown waits for it.
const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// How long after its expiry the end of a pull may take to arrive; then the request
/// or its end was lost with a connection. A machine that is merely starved must not get
/// here: the next pull would ask for the room of messages that are still on their way.
/// One second was too short under a load of ten times the processors.
const PULL_END_GRACE: Duration = Duration::from_secs(4);
/// Messages handed on at once at most: few channel operations, and decode starts early.
const CHUNK_MAX_MESSAGES: usize = 256;

/// Reads deliveries of one consumer.
pub struct Source {
    client: Client,
    consumer: PullConsumer,
    held: Arc<Held>,
    metrics: Metrics,
    stream: String,
    max_in_flight: usize,
    /// Who publishes on our inbox can do so at any rate.
    strangers: RateLimit,
}

/// How a pull ended.
#[derive(Debug, PartialEq, Eq)]
enum PullEnd {
    /// Filled, expired, or ended by the server in the ordinary way.
    Ordinary,
    /// The server refused it, or does not answer.
    Failed(String),
    /// Nobody takes our output any more.
    Closed,
}

/// Pulls until `stop`.
///
/// # Errors
/// When the subscription cannot be made: the client is closed.
pub async fn run(
    source: Source,
    output: Sender<Vec<Delivery>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let inbox = source.client.new_inbox();
    let subscription = source
        .client
        .subscribe(format!("{inbox}.*"))
        .await
        .map_err(|error| nats_error(Code::Connection, &error.to_string()))?;
    let mut messages = subscription.ready_chunks(CHUNK_MAX_MESSAGES);
    let mut backoff = Backoff::new();
    for pull in 0u64.. {
        let room = tokio::select! {
            biased; // there is mostly room: a stop must not wait for luck
            () = stop.cancelled() => break,
            room = source.held.room(source.least_room()) => room,
        };
        let reply = Subject::from(format!("{inbox}.{pull}"));
        match source.pull(room, reply, &mut messages, &output).await {
            PullEnd::Ordinary => backoff = Backoff::new(),
            PullEnd::Closed => break,
            PullEnd::Failed(why) => {
                tracing::warn!(why, "pulling messages failed; trying again");
                source
                    .metrics
                    .dependency_error(&nats_error(Code::Response, &why));
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = backoff.wait() => {}
                }
            }
        }
    }
    Ok(())
}

impl Source {
    /// A source for this consumer.
    pub fn new(
        client: Client,
        consumer: PullConsumer,
        held: Arc<Held>,
        metrics: Metrics,
        config: &Config,
    ) -> Self {
        Self {
            client,
            consumer,
            held,
            metrics,
            stream: config.nats.stream.clone(),
            max_in_flight: config.pipeline.max_in_flight,
            strangers: RateLimit::default(),
        }
    }

    /// Below this it is better to wait than to pull: room for any message, and for
    /// enough of them that a pull is worth its round trip.
    fn least_room(&self) -> Room {
        Room {
            messages: (self.max_in_flight / 8).clamp(1, PULL_MAX_MESSAGES / 4),
            bytes: self.client.max_payload() + SUBJECTS_MAX_BYTES,
        }
    }

    /// One pull request, read to its end.
    async fn pull(
        &self,
        room: Room,
        reply: Subject,
        messages: &mut ReadyChunks<Subscriber>,
        output: &Sender<Vec<Delivery>>,
    ) -> PullEnd {
        let wanted = room.messages.min(PULL_MAX_MESSAGES);
        let request = BatchConfig {
            batch: wanted,
            max_bytes: room.bytes,
            expires: Some(PULL_EXPIRES),
            ..BatchConfig::default()
        };
        if let Err(error) = self.consumer.request_batch(request, reply.clone()).await {
            return PullEnd::Failed(error.to_string());
        }
        let deadline = Instant::now() + PULL_EXPIRES + PULL_END_GRACE;
        let mut missing = wanted;
        while missing > 0 {
            let chunk = match tokio::time::timeout_at(deadline, messages.next()).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return PullEnd::Closed,
                Err(_) => return PullEnd::Failed("the end of a pull did not arrive".to_owned()),
            };
            let (deliveries, end) = self.take(chunk, &reply);
            missing = missing.saturating_sub(deliveries.len());
            if !deliveries.is_empty() && output.send(deliveries).await.is_err() {
                return PullEnd::Closed;
            }
            if let Some(end) = end {
                return end;
            }
        }
        PullEnd::Ordinary
    }

    fn mention_stranger(&self, subject: &str) {
        if let Some(suppressed) = self.strangers.allow() {
            tracing::warn!(subject, suppressed, "not a delivery of a consumer");
        }
    }

    /// Takes the messages of a chunk into the register, and finds the end of the pull in it.
    fn take(&self, chunk: Vec<Message>, reply: &Subject) -> (Vec<Delivery>, Option<PullEnd>) {
        let mut end = None;
        let mut arrived = Vec::with_capacity(chunk.len());
        for message in chunk {
            match message.status {
                None | Some(StatusCode::OK) => match Arrived::read(message) {
                    Ok(message) => arrived.push(message),
                    Err(subject) => self.mention_stranger(&subject),
                },
                // The end of an earlier pull, whose loss we had assumed.
                Some(_) if message.subject != *reply => {}
                Some(status) => end = Some(end_of_pull(status, message.description.as_deref())),
            }
        }
        let redelivered = arrived.iter().filter(|a| a.metadata.delivered > 1).count();
        self.metrics.received.increment(arrived.len() as u64);
        self.metrics.redelivered.increment(redelivered as u64);
        let ids = self.held.hold(arrived.iter().map(|arrived| Arrival {
            reply: arrived.reply.clone(),
            bytes: arrived.message.length,
        }));
        let deliveries = ids
            .into_iter()
            .zip(arrived)
            .map(|(id, arrived)| arrived.into_delivery(&self.stream, id, &self.held))
            .collect();
        (deliveries, end)
    }
}

/// Status messages of pull requests (ADR-13).
fn end_of_pull(status: StatusCode, description: Option<&str>) -> PullEnd {
    let description = description.unwrap_or("");
    match status {
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => PullEnd::Ordinary,
        // "Batch Completed" and "Message Size Exceeds MaxBytes": the next pull goes on.
        StatusCode::REQUEST_TERMINATED
            if description.eq_ignore_ascii_case("batch completed")
                || description.eq_ignore_ascii_case("message size exceeds maxbytes") =>
        {
            PullEnd::Ordinary
        }
        StatusCode::NO_RESPONDERS => {
            PullEnd::Failed("JetStream does not answer, or the consumer is gone".to_owned())
        }
        status => PullEnd::Failed(format!("{status} {description}")),
    }
}

fn nats_error(code: Code, detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, code, detail)
}
