//! The durable pull consumer: made when missing, checked when it exists, never changed.

use std::sync::{Arc, Mutex, OnceLock};

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info, PullConsumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{
    ConsumerCreateStrictErrorKind, Info as StreamInfo, RetentionPolicy,
};
use async_nats::jetstream::{Context, ErrorCode};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::letters::bucket;
use super::requirements::{Violation, consumer_violations, max_ack_pending};
use super::streams::{
    self, api_error, bucket_stream, bucket_stream_violations, creation_error, dlq_stream,
    dlq_stream_violations, event_stream, event_stream_violations,
};
use crate::config::{NatsConfig, PipelineConfig};
use crate::error::{Class, Code, Dependency, Error};

#[derive(Debug)]
pub(crate) enum SetupError {
    /// They exist with settings that break a promise. Nothing was changed.
    Violation(Vec<Violation>),
    /// JetStream does not answer, or refuses.
    Api(Error),
}

impl From<Error> for SetupError {
    fn from(error: Error) -> Self {
        Self::Api(error)
    }
}

/// Makes missing streams, bucket and consumer, after everything that exists was found fit.
///
/// # Errors
/// See [`SetupError`].
pub(crate) async fn ensure(
    jetstream: &Context,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
) -> Result<(PullConsumer, Arc<LastSeen>), SetupError> {
    let events = streams::existing(jetstream, &nats.stream).await?;
    let letters = streams::existing(jetstream, &nats.dlq_stream).await?;
    let wanted_letters = letters.clone().unwrap_or_else(|| dlq_stream(nats));
    let bucket = bucket::stream_name(&nats.dlq_stream);
    let bucket = streams::existing(jetstream, &bucket).await?;
    let consumer = match events {
        Some(_) => existing(jetstream, nats).await?,
        None => None,
    };
    let mut violations = Vec::new();
    violations.extend(events.iter().flat_map(event_stream_violations));
    violations.extend(dlq_stream_violations(&wanted_letters));
    violations.extend(
        bucket
            .iter()
            .flat_map(|b| bucket_stream_violations(b, &wanted_letters)),
    );
    violations.extend(
        consumer
            .iter()
            .flat_map(|c| consumer_violations(c, nats, pipeline)),
    );
    if !violations.is_empty() {
        return Err(SetupError::Violation(violations));
    }
    if events.is_none() {
        streams::create(jetstream, event_stream(nats)).await?;
    }
    if letters.is_none() {
        streams::create(jetstream, wanted_letters.clone()).await?;
    }
    if bucket.is_none() {
        streams::create(jetstream, bucket_stream(&wanted_letters)).await?;
    }
    if consumer.is_none() {
        create(jetstream, nats, pipeline, DeliverPolicy::All).await?;
    }
    let consumer = handle(jetstream, nats).await?;
    let stream_created = streams::created(jetstream, &nats.stream).await?;
    let seen = LastSeen::new(stream_created, consumer.cached_info());
    Ok((consumer, Arc::new(seen)))
}

/// The last known position of the consumer: a new one continues there when somebody deletes it.
#[derive(Debug)]
pub(crate) struct LastSeen {
    seen: Mutex<ConsumerPosition>,
    violation: OnceLock<Violation>,
    is_violated: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct ConsumerPosition {
    /// When the stream was made; a later one begins its sequences again.
    stream_created: Option<OffsetDateTime>,
    consumer_created: OffsetDateTime,
    /// All up to this sequence of the stream was acknowledged.
    floor: u64,
}

impl LastSeen {
    fn new(stream_created: Option<OffsetDateTime>, info: &Info) -> Self {
        let seen = Mutex::new(ConsumerPosition {
            stream_created,
            consumer_created: info.created,
            floor: info.ack_floor.stream_sequence,
        });
        Self {
            seen,
            violation: OnceLock::new(),
            is_violated: CancellationToken::new(),
        }
    }

    /// Notes that the consumer was edited or made again so that it breaks a promise.
    pub(crate) fn note_violation(&self, violation: Violation) {
        let _ = self.violation.set(violation); // One reason is enough.
        self.is_violated.cancel();
    }

    pub(crate) async fn violated(&self) {
        self.is_violated.cancelled().await;
    }

    /// The error that ends the service after a violation.
    pub(crate) fn violation_error(&self) -> Option<Error> {
        let violation = self.violation.get()?;
        let detail =
            format!("the consumer was edited, or made again, by somebody else: {violation}");
        Some(Error::new(
            Dependency::Nats,
            Class::Fatal,
            Code::Setup,
            detail,
        ))
    }

    /// Notes the consumer's state. Returns whether it is another consumer than before.
    pub(crate) fn note(&self, info: &Info) -> bool {
        let mut seen = self
            .seen
            .lock()
            .expect("nothing panics while it holds this lock");
        let is_other = seen.consumer_created != info.created;
        seen.consumer_created = info.created;
        seen.floor = info.ack_floor.stream_sequence;
        is_other
    }

    /// Where a new consumer begins.
    fn start(&self, stream: &StreamInfo) -> DeliverPolicy {
        let mut seen = self
            .seen
            .lock()
            .expect("nothing panics while it holds this lock");
        if seen.stream_created != Some(stream.created) {
            // Another stream: its sequences mean other messages.
            seen.stream_created = Some(stream.created);
            seen.floor = 0;
        }
        match seen.floor {
            0 => DeliverPolicy::All,
            // It has no other messages than those that nobody acknowledged, and allows nothing else.
            _ if stream.config.retention == RetentionPolicy::WorkQueue => DeliverPolicy::All,
            floor => DeliverPolicy::ByStartSequence {
                start_sequence: floor + 1,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    Same,
    /// It is another one, made by ganesh or by an operator.
    Other,
    /// The stream is gone, and the consumer with it.
    StreamGone,
}

/// Makes a deleted consumer again, from its last known acknowledgement floor. A deleted stream is
/// not made again: an empty one would hide that its events are gone.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn restore(
    jetstream: &Context,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
    seen: &LastSeen,
) -> Result<Restored, Error> {
    let Some(stream) = streams::info(jetstream, &nats.stream).await? else {
        return Ok(Restored::StreamGone);
    };
    if info(jetstream, nats).await?.is_none() {
        let start = seen.start(&stream);
        tracing::warn!(
            stream = nats.stream,
            consumer = nats.consumer,
            ?start,
            "the consumer was deleted; making it again from the last acknowledgement floor that was seen"
        );
        create(jetstream, nats, pipeline, start).await?;
    }
    let Some(made) = info(jetstream, nats).await? else {
        return Err(api_error("the consumer was deleted again"));
    };
    if let Some(violation) = consumer_violations(&made.config, nats, pipeline).pop() {
        seen.note_violation(violation);
    }
    Ok(if seen.note(&made) {
        Restored::Other
    } else {
        Restored::Same
    })
}

/// The settings of the consumer if it exists.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn existing(
    jetstream: &Context,
    nats: &NatsConfig,
) -> Result<Option<Config>, Error> {
    Ok(info(jetstream, nats).await?.map(|info| info.config))
}

async fn info(jetstream: &Context, nats: &NatsConfig) -> Result<Option<Info>, Error> {
    let stream = jetstream
        .get_stream_no_info(&nats.stream)
        .await
        .map_err(|error| api_error(&error.to_string()))?;
    match stream.consumer_info(&nats.consumer).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound => Ok(None),
            ConsumerInfoErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(api_error(&format!("consumer {}: {error}", nats.consumer))),
        },
    }
}

async fn create(
    jetstream: &Context,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
    deliver_policy: DeliverPolicy,
) -> Result<(), Error> {
    let config = pull::Config {
        durable_name: Some(nats.consumer.clone()),
        description: Some("Lands every event in Postgres".to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: nats.ack_wait,
        // The server never gives up silently: what is delivered too often becomes
        // a dead letter by our hand, not a message that stays in the stream unseen.
        max_deliver: -1,
        max_ack_pending: max_ack_pending(pipeline),
        ..pull::Config::default()
    };
    // Strict: a consumer that somebody made meanwhile is not changed. The caller tries again,
    // finds it and checks it.
    jetstream
        .create_consumer_strict_on_stream(config, nats.stream.clone())
        .await
        .map_err(|error| {
            let refused = match error.kind() {
                ConsumerCreateStrictErrorKind::JetStream(answer) => Some(answer),
                _ => None,
            };
            let detail = format!("creating consumer {}: {error}", nats.consumer);
            creation_error(&detail, refused.as_ref())
        })?;
    tracing::info!(
        stream = nats.stream,
        consumer = nats.consumer,
        "consumer created"
    );
    Ok(())
}

async fn handle(jetstream: &Context, nats: &NatsConfig) -> Result<PullConsumer, Error> {
    jetstream
        .get_consumer_from_stream(&nats.consumer, &nats.stream)
        .await
        .map_err(|error| api_error(&format!("consumer {}: {error}", nats.consumer)))
}
