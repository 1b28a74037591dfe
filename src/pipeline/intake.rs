//! Intake: registers deliveries, decodes them, and queues their events.

use std::sync::Arc;

use async_nats::{Client, HeaderMap, Message};
use tokio::time::{Instant, sleep_until};

use super::queue::Sender;
use super::scheduler::BatchScheduler;
use super::settle;
use crate::config::Config;
use crate::event;
use crate::labels::Reason;
use crate::message::timings::now_nanos;
use crate::message::{DeadLetter, Decoded, Delivery};
use crate::messaging::delivery::ParsedDelivery;
use crate::messaging::in_flight::{Admission, InFlight};
use crate::messaging::pull::{PullEnd, PulledMessages, Pulls};
use crate::messaging::readable::KnownReadable;
use crate::telemetry::Metrics;
use crate::telemetry::logs::RateLimit;

/// Headers whose memory overhead the in-flight limit ignores.
const HEADERS_UNCOUNTED: usize = 32;
/// Bytes that each further header counts; 131 were measured for short ones.
const HEADER_BYTES: usize = 150;

/// Where messages go.
pub(crate) struct Outputs {
    /// Events, to the writers.
    pub(crate) decoded: Sender<Decoded>,
    /// Events that were delivered too often, to be tried alone.
    pub(crate) scheduler: Arc<BatchScheduler>,
    /// What is no event, or cannot be read.
    pub(crate) dead_letters: Sender<DeadLetter>,
}

/// Reads pulls, and hands each message to the queue, the scheduler or the dead letters.
pub(crate) struct Intake {
    pub(crate) pulls: Pulls,
    /// Takes the acknowledgements of markers.
    pub(crate) client: Client,
    /// Is told what was read.
    pub(crate) readable: Arc<KnownReadable>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) outputs: Outputs,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Metrics,
    /// Limits the log line for inbox messages that are no JetStream delivery: any client can send them.
    pub(crate) invalid_deliveries: RateLimit,
}

/// The client is closed.
pub(crate) struct ClientClosed;

/// Sleeps until `time`; for ever if `None`.
pub(crate) async fn sleep_until_or_never(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Intake {
    /// Reads pulls until `other` is done.
    pub(crate) async fn read_until<T>(
        &mut self,
        other: impl Future<Output = T>,
    ) -> Result<T, ClientClosed> {
        let mut other = std::pin::pin!(other);
        loop {
            let overdue_at = self.pulls.overdue_at();
            tokio::select! {
                done = &mut other => return Ok(done),
                pulled = self.pulls.next() => {
                    self.accept(pulled.ok_or(ClientClosed)?).await;
                }
                // `other` may wait for the capacity that this frees.
                () = sleep_until_or_never(overdue_at) => {
                    self.pulls.drop_overdue();
                }
            }
        }
    }

    /// Takes messages into the register, decodes them, and hands them on. Returns how their pull ended.
    pub(crate) async fn accept(&mut self, pulled: PulledMessages) -> Option<PullEnd> {
        let parsed: Vec<ParsedDelivery> = pulled
            .messages
            .into_iter()
            .filter_map(|message| match ParsedDelivery::read(message) {
                Ok(parsed) => Some(parsed),
                Err(subject) => {
                    if let Some(suppressed) = self.invalid_deliveries.allow() {
                        tracing::warn!(subject, suppressed, "not a delivery of a consumer");
                    }
                    None
                }
            })
            .collect();
        let redelivered = parsed
            .iter()
            .filter(|parsed| parsed.metadata.delivered > 1)
            .count();
        self.metrics.received.increment(parsed.len() as u64);
        self.metrics.redelivered.increment(redelivered as u64);
        let sequences = parsed.iter().map(|parsed| parsed.metadata.stream_sequence);
        self.readable.add(sequences, pulled.consumer_generation);
        let admissions = parsed.iter().map(|parsed| Admission {
            ack_subject: parsed.ack_subject.clone(),
            bytes: bytes_in_memory(&parsed.message),
        });
        let guards = self.in_flight.admit(admissions, pulled.consumer_generation);
        let nats = &self.config.nats;
        let mut deliveries: Vec<Delivery> = guards
            .into_iter()
            .zip(parsed)
            .map(|(guard, parsed)| parsed.into_delivery(&nats.stream, guard))
            .collect();
        let is_marker =
            |delivery: &mut Delivery| event::is_marker(&codec_input(&nats.stream, delivery));
        let markers: Vec<Delivery> = deliveries.extract_if(.., is_marker).collect();
        let pipeline = &self.config.pipeline;
        let (mut decoded, letters) = decode(&nats.stream, pipeline.accept_plain, deliveries);
        self.outputs.dead_letters.send_each(letters);
        if redelivered > 0 {
            let too_often = |d: &mut Decoded| d.delivery.delivered > pipeline.max_deliveries;
            let alone = decoded.extract_if(.., too_often).collect();
            self.outputs.scheduler.park_alone(alone);
        }
        self.outputs.decoded.send(decoded);
        if !markers.is_empty() {
            settle::ack_markers(&self.client, &self.in_flight, &self.metrics, markers).await;
        }
        pulled.end
    }
}

/// The message's length, and 150 bytes more for each header value after the 32nd.
fn bytes_in_memory(message: &Message) -> usize {
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    let values: usize = headers.map(|(_, values)| values.len()).sum();
    message.length + values.saturating_sub(HEADERS_UNCOUNTED) * HEADER_BYTES
}

/// What the codec reads of a delivery.
fn codec_input<'a>(stream: &'a str, delivery: &'a Delivery) -> event::Message<'a> {
    event::Message {
        subject: &delivery.message.subject,
        headers: delivery.message.headers.as_ref(),
        payload: &delivery.message.payload,
        stream,
        stream_sequence: delivery.stream_sequence,
        published_at: delivery.published_at,
    }
}

/// Decodes deliveries of this stream. `accept_plain`: messages that are no CloudEvents become
/// events, too.
fn decode(
    stream: &str,
    accept_plain: bool,
    deliveries: Vec<Delivery>,
) -> (Vec<Decoded>, Vec<DeadLetter>) {
    let (mut decoded, mut letters) = (Vec::with_capacity(deliveries.len()), Vec::new());
    let began = now_nanos();
    for mut delivery in deliveries {
        delivery.timings.mark_decode_began(began);
        match decode_one(stream, accept_plain, delivery) {
            Ok(event) => decoded.push(event),
            Err(letter) => letters.push(letter),
        }
    }
    (decoded, letters)
}

#[allow(
    clippy::result_large_err,
    reason = "both are a delivery; boxing costs an allocation"
)]
fn decode_one(
    stream: &str,
    accept_plain: bool,
    mut delivery: Delivery,
) -> Result<Decoded, DeadLetter> {
    let result = event::decode(&codec_input(stream, &delivery), accept_plain);
    delivery.timings.mark_decoded(now_nanos());
    match result {
        Ok(event) => Ok(Decoded { delivery, event }),
        Err(error) => Err(DeadLetter {
            reason: Reason::Decode(error.reason()),
            detail: error.to_string(),
            delivery,
            event: None,
            batch: None,
        }),
    }
}
