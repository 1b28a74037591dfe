//! Lag: what the consumer still has before it, asked of the server; and what it will never have.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::InFlight;
use super::consumer::{self, ConsumerWatch};
use super::removed::{Positions, Removed};
use super::reported::{self, ReportedConsumer, ReportedStream};
use super::requirements::filters;
use super::streams::api_error;
use crate::config::{Config, NatsConfig};
use crate::event::Timestamp;
use crate::telemetry::Metrics;

const ASK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two requests for a message: the server reads it from disk.
const ASK_OLDEST_EVERY: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ANY_SUBJECT: &str = ">";

/// Watches the consumer: whether it breaks a promise, its pending counts, the age of its oldest
/// pending message, and how many messages the stream removed before they were delivered.
pub(crate) struct Lag {
    pub(crate) jetstream: Context,
    pub(crate) consumer_watch: Arc<ConsumerWatch>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) metrics: Metrics,
    pub(crate) config: Config,
}

/// What the last answers said.
#[derive(Default)]
struct Answers {
    oldest_asked_at: Option<Instant>,
    /// The next message of a consumer that takes some subjects alone.
    next: Option<u64>,
    removed: Removed,
}

impl Lag {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut answers = Answers::default();
        let mut ticks = tokio::time::interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(&mut answers));
            let failed = match asking.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some("no answer in time".to_owned()),
            };
            if let Some(error) = &failed {
                self.metrics.dependency_error(&api_error(error));
                if !failing {
                    tracing::warn!(error, "cannot ask for the consumer's lag");
                }
            }
            failing = failed.is_some();
        }
    }

    async fn ask(&self, answers: &mut Answers) -> Result<(), String> {
        let Config { nats, pipeline, .. } = &self.config;
        let info = consumer::info(&self.jetstream, nats).await;
        let info = info.map_err(|error| error.detail)?;
        let info = info.ok_or("the consumer is gone")?;
        if self.consumer_watch.note(&info) {
            tracing::warn!("the consumer is another one: what is held is delivered again");
            self.in_flight.disown();
        }
        self.consumer_watch.check(&info, nats, pipeline);
        #[allow(clippy::cast_precision_loss, reason = "gauges")]
        {
            let metrics = &self.metrics;
            metrics.consumer_pending.set(info.num_pending as f64);
            metrics
                .consumer_ack_pending
                .set(info.num_ack_pending as f64);
        }
        self.count_removed(&info, answers).await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            self.metrics.consumer_oldest_pending.set(0.0);
        } else if answers
            .oldest_asked_at
            .is_none_or(|at| at.elapsed() >= ASK_OLDEST_EVERY)
        {
            answers.oldest_asked_at = Some(Instant::now());
            let age_seconds = oldest_pending_seconds(&self.jetstream, nats, &info).await?;
            self.metrics.consumer_oldest_pending.set(age_seconds);
            if is_filtered(&info) {
                let from = info.delivered.stream + 1;
                let next = first_from(&self.jetstream, nats, &info, from).await?;
                answers.next = next.map(|(sequence, _)| sequence);
            }
        }
        Ok(())
    }

    /// What the stream holds, and the limits at which it removes its oldest messages.
    #[allow(clippy::cast_precision_loss, reason = "gauges")]
    fn export_stream(&self, stream: &ReportedStream) {
        let (metrics, config, state) = (&self.metrics, &stream.config, &stream.state);
        let limit = |name: &str| config.number(name).max(0) as f64;
        metrics.stream_bytes.set(state.bytes as f64);
        metrics.stream_bytes_limit.set(limit("max_bytes"));
        metrics.stream_messages.set(state.messages as f64);
        metrics.stream_messages_limit.set(limit("max_msgs"));
        let oldest = Timestamp::parse_rfc3339(&state.first_time).filter(|_| state.messages > 0);
        metrics.stream_age.set(oldest.map_or(0.0, seconds_since));
        let age_limit = config.duration("max_age").as_secs_f64();
        metrics.stream_age_limit.set(age_limit);
    }

    async fn count_removed(
        &self,
        info: &ReportedConsumer,
        answers: &mut Answers,
    ) -> Result<(), String> {
        let name = &self.config.nats.stream;
        let stream = reported::stream(&self.jetstream, name).await;
        let stream = stream.map_err(|error| error.detail)?;
        let stream = stream.ok_or("the stream is gone")?;
        self.export_stream(&stream);
        let filters = filters(&info.config);
        let more = answers.removed.note(Positions {
            first_sequence: stream.state.first_sequence,
            delivered_sequence: info.delivered.stream,
            deliveries: info.delivered.consumer,
            pending: info.num_pending,
            filters: if is_filtered(info) {
                filters.into_iter().map(str::to_owned).collect()
            } else {
                Vec::new()
            },
            next: answers.next,
        });
        if more > 0 {
            self.metrics.consumer_removed.increment(more);
            tracing::error!(
                messages = more,
                stream = name,
                "the stream removed messages before they were delivered: they are not stored"
            );
        }
        Ok(())
    }
}

/// What a consumer has before it.
pub(crate) struct ConsumerLag {
    pub(crate) pending: u64,
    pub(crate) ack_pending: u64,
    pub(crate) oldest_seconds: f64,
}

/// Asks the server; `None` without a consumer.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn consumer_lag(
    jetstream: &Context,
    nats: &NatsConfig,
) -> Result<Option<ConsumerLag>, String> {
    let info = consumer::info(jetstream, nats).await;
    let Some(info) = info.map_err(|error| error.detail)? else {
        return Ok(None);
    };
    Ok(Some(ConsumerLag {
        pending: info.num_pending,
        ack_pending: info.num_ack_pending,
        oldest_seconds: oldest_pending_seconds(jetstream, nats, &info).await?,
    }))
}

/// Seconds since the stream stored the first message after the acknowledgement floor; 0 when
/// that was the last message, or was settled or removed meanwhile.
async fn oldest_pending_seconds(
    jetstream: &Context,
    nats: &NatsConfig,
    info: &ReportedConsumer,
) -> Result<f64, String> {
    // Limits and purges leave holes: the sequence after the floor may be gone.
    let oldest = first_from(jetstream, nats, info, info.ack_floor.stream + 1).await?;
    Ok(oldest.map_or(0.0, |(_, published_at)| seconds_since(published_at)))
}

/// The first message from this sequence on that the consumer takes.
async fn first_from(
    jetstream: &Context,
    nats: &NatsConfig,
    info: &ReportedConsumer,
    sequence: u64,
) -> Result<Option<(u64, Timestamp)>, String> {
    let stream = jetstream.get_stream_no_info(&nats.stream).await;
    let stream: Stream<()> = stream.map_err(|error| error.to_string())?;
    let filters = filters(&info.config);
    let any = [ANY_SUBJECT];
    let patterns = if filters.is_empty() {
        &any
    } else {
        &filters[..]
    };
    let mut first: Option<(u64, Timestamp)> = None;
    for pattern in patterns {
        match stream
            .get_first_raw_message_by_subject(pattern, sequence)
            .await
        {
            Ok(message) => {
                let published_at = Timestamp::from_nanos(message.time.unix_timestamp_nanos());
                let found = (message.sequence, published_at);
                first = Some(first.map_or(found, |first| first.min(found)));
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(first)
}

/// Whether the consumer takes some subjects alone.
fn is_filtered(info: &ReportedConsumer) -> bool {
    let filters = filters(&info.config);
    !filters.is_empty() && !filters.contains(&ANY_SUBJECT)
}

/// Seconds since a time that the server said. The clocks of two hosts differ: never negative.
fn seconds_since(time: Timestamp) -> f64 {
    let micros = Timestamp::now().micros() - time.micros();
    #[allow(clippy::cast_precision_loss, reason = "centuries of microseconds fit")]
    let seconds = micros.max(0) as f64 / 1e6;
    seconds
}
