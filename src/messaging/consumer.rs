//! The durable pull consumer: made when missing, checked when it exists, never changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, ConsumerCreateStrictErrorKind};
use async_nats::jetstream::{self, Context};
use tokio::sync::SetOnce;

use super::connection::setup_error;
use super::letters::bucket::Bucket;
use super::refusals::{self, SERVER_LIMIT};
use super::reported::{self, ReportedConfig, ReportedConsumer, ReportedStream};
use super::requirements::{self, DATABASE, Existing, max_ack_pending};
use super::streams::{
    self, Creation, api_error, bucket_stream, dlq_stream, event_stream, letter_prefix, own_subjects,
};
use crate::config::{NatsConfig, PipelineConfig};
use crate::error::{Class, Error};

/// What is there by now.
pub(crate) struct Ensured {
    pub(crate) consumer: PullConsumer,
    pub(crate) watch: Arc<ConsumerWatch>,
    pub(crate) letters: Bucket,
}

/// Makes what is missing of streams, bucket and consumer. The inner error is the settings of what
/// exists that break a promise; then nothing was changed.
///
/// # Errors
/// When JetStream does not answer, or refuses.
pub(crate) async fn ensure(
    jetstream: &Context,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
    database: &str,
) -> Result<Result<Ensured, Vec<String>>, Error> {
    let existing = Existing::find(jetstream, nats).await?;
    let verdicts = existing.verdicts(nats, pipeline, Some(database));
    let violations = verdicts.iter().flat_map(|verdict| &verdict.violations);
    let violations: Vec<String> = violations.cloned().collect();
    if !violations.is_empty() {
        return Ok(Err(violations));
    }
    let letters = make_missing(jetstream, nats, pipeline, (&existing, database)).await?;
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream(&nats.consumer, &nats.stream)
        .await
        .map_err(|error| api_error(&format!("consumer {}: {error}", nats.consumer)))?;
    let stream = reported::stream(jetstream, &nats.stream).await?;
    let Some(info) = info(jetstream, nats).await? else {
        return Err(api_error("the consumer was deleted again"));
    };
    let watch = ConsumerWatch::new(stream.as_ref(), &info, database);
    for warning in verdicts.iter().flat_map(|verdict| &verdict.warnings) {
        tracing::warn!("{warning}");
        watch.has_said(warning);
    }
    Ok(Ok(Ensured {
        consumer,
        watch: Arc::new(watch),
        letters,
    }))
}

/// Makes what is missing. The letters come first: if the server refuses the event stream for good, they
/// can be removed again, if nobody has used them.
async fn make_missing(
    jetstream: &Context,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
    (existing, database): (&Existing, &str),
) -> Result<Bucket, Error> {
    let mut made = Vec::new();
    let making = make_streams(jetstream, nats, existing, &mut made).await;
    if let Err(error) = &making
        && error.class == Class::Fatal
    {
        for made in &made {
            streams::remove_unused(jetstream, made).await;
        }
    }
    let prefix = making?;
    if existing.consumer.is_none() {
        create(jetstream, nats, pipeline, (DeliverPolicy::All, database)).await?;
    }
    Ok(Bucket::with_prefix(
        jetstream.clone(),
        &nats.dlq_stream,
        prefix,
    ))
}

/// Returns what the subjects of letters begin with. `made`: the streams for letters that it made.
async fn make_streams(
    jetstream: &Context,
    nats: &NatsConfig,
    existing: &Existing,
    made: &mut Vec<stream::Info>,
) -> Result<String, Error> {
    const ANOTHER_NAME: &str = "name another stream with GANESH_DLQ_STREAM";
    let mut letters = dlq_stream(nats);
    let replicas = streams::replicas(jetstream, nats);
    if let Some(existing) = &existing.letters {
        letters.num_replicas = existing.replicas();
    } else {
        // A letter is as durable as the message that was acknowledged for it.
        let of_events = existing.events.as_ref().map_or(0, ReportedConfig::replicas);
        letters.num_replicas = replicas.max(of_events);
        let mut creation = streams::create(jetstream, letters.clone(), ANOTHER_NAME).await?;
        if let Creation::Overlaps(_) = creation {
            // Another deployment has them: letters follow the name of their stream.
            letters.subjects = vec![own_subjects(&letters.name)];
            creation = streams::create(jetstream, letters.clone(), ANOTHER_NAME).await?;
        }
        made.push(creation.done()?);
    }
    if existing.bucket.is_none() {
        let creation = streams::create(jetstream, bucket_stream(&letters), ANOTHER_NAME);
        made.push(creation.await?.done()?);
    }
    if existing.events.is_none() {
        let fix = "set GANESH_STREAM to the stream that has them, or GANESH_SUBJECTS to others";
        let events = stream::Config {
            num_replicas: replicas,
            ..event_stream(nats)
        };
        streams::create(jetstream, events, fix).await?.done()?;
    }
    let existing = existing.letters.as_ref();
    let subjects = existing.map(|letters| letters.texts("subjects"));
    let subjects =
        subjects.unwrap_or_else(|| letters.subjects.iter().map(String::as_str).collect());
    Ok(letter_prefix(&letters.name, &subjects))
}

/// The last known position of the consumer, where a new one continues when somebody deletes it; and
/// the promise that it breaks, if somebody edited it.
pub(crate) struct ConsumerWatch {
    position: Mutex<Position>,
    violation: SetOnce<String>,
    /// The warnings that stand, each logged once.
    warnings: Mutex<Vec<String>>,
    /// Messages that a pull may ask for, at most.
    max_batch: AtomicUsize,
    /// The one that this ganesh writes to.
    database: String,
}

struct Position {
    /// When the stream was made; a later one begins its sequences again.
    stream_created: Option<String>,
    consumer_created: String,
    /// All up to this sequence of the stream was acknowledged.
    ack_floor: u64,
}

impl ConsumerWatch {
    fn new(stream: Option<&ReportedStream>, consumer: &ReportedConsumer, database: &str) -> Self {
        Self {
            position: Mutex::new(Position {
                stream_created: stream.map(|stream| stream.created.clone()),
                consumer_created: consumer.created.clone(),
                ack_floor: consumer.ack_floor.stream,
            }),
            violation: SetOnce::new(),
            warnings: Mutex::default(),
            max_batch: AtomicUsize::new(max_batch(consumer)),
            database: database.to_owned(),
        }
    }

    /// Messages that a pull may ask for, at most.
    pub(super) fn max_batch(&self) -> usize {
        self.max_batch.load(Ordering::Relaxed)
    }

    /// Notes the consumer's first setting that breaks a promise, if one does, and logs new warnings.
    pub(super) fn check(
        &self,
        consumer: &ReportedConsumer,
        nats: &NatsConfig,
        pipeline: &PipelineConfig,
    ) {
        self.max_batch.store(max_batch(consumer), Ordering::Relaxed);
        let verdict = requirements::of_consumer(&consumer.config, nats, pipeline, &self.database);
        let mut said = self.warnings();
        for warning in &verdict.warnings {
            if !said.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        *said = verdict.warnings;
        if let Some(violation) = verdict.violations.into_iter().next() {
            let _ = self.violation.set(violation); // One reason is enough.
        }
    }

    fn has_said(&self, warning: &str) {
        self.warnings().push(warning.to_owned());
    }

    fn warnings(&self) -> MutexGuard<'_, Vec<String>> {
        self.warnings
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Waits until the consumer breaks a promise.
    pub(crate) async fn violated(&self) {
        self.violation.wait().await;
    }

    /// The error that ends the service after a violation.
    pub(crate) fn violation_error(&self) -> Option<Error> {
        let violation = self.violation.get()?;
        Some(setup_error(format!(
            "the consumer was edited, or made again, by somebody else: {violation}"
        )))
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Notes the consumer's state. Returns whether it is another consumer than before.
    pub(super) fn note(&self, info: &ReportedConsumer) -> bool {
        let mut position = self.position();
        let is_other = position.consumer_created != info.created;
        position.consumer_created.clone_from(&info.created);
        position.ack_floor = info.ack_floor.stream;
        is_other
    }

    /// Where a new consumer begins.
    fn start(&self, stream: &ReportedStream) -> DeliverPolicy {
        let mut position = self.position();
        if position.stream_created.as_ref() != Some(&stream.created) {
            // Another stream: its sequences mean other messages.
            position.stream_created = Some(stream.created.clone());
            position.ack_floor = 0;
        }
        match position.ack_floor {
            0 => DeliverPolicy::All,
            // It has no other messages than those that nobody acknowledged, and allows nothing else.
            _ if stream.config.text("retention") == "workqueue" => DeliverPolicy::All,
            floor => DeliverPolicy::ByStartSequence {
                start_sequence: floor + 1,
            },
        }
    }
}

fn max_batch(consumer: &ReportedConsumer) -> usize {
    let limit = usize::try_from(consumer.config.number("max_batch"));
    limit.ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX)
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
    watch: &ConsumerWatch,
) -> Result<Restored, Error> {
    let Some(stream) = reported::stream(jetstream, &nats.stream).await? else {
        return Ok(Restored::StreamGone);
    };
    if info(jetstream, nats).await?.is_none() {
        let start = watch.start(&stream);
        tracing::warn!(
            stream = nats.stream,
            consumer = nats.consumer,
            ?start,
            "the consumer was deleted; making it again from the last acknowledgement floor that was seen"
        );
        create(jetstream, nats, pipeline, (start, &watch.database)).await?;
    }
    let Some(made) = info(jetstream, nats).await? else {
        return Err(api_error("the consumer was deleted again"));
    };
    watch.check(&made, nats, pipeline);
    Ok(if watch.note(&made) {
        Restored::Other
    } else {
        Restored::Same
    })
}

/// # Errors
/// When JetStream does not answer.
pub(super) async fn info(
    jetstream: &Context,
    nats: &NatsConfig,
) -> Result<Option<ReportedConsumer>, Error> {
    reported::consumer(jetstream, &nats.stream, &nats.consumer).await
}

async fn create(
    jetstream: &Context,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
    (deliver_policy, database): (DeliverPolicy, &str),
) -> Result<(), Error> {
    let mut config = pull::Config {
        durable_name: Some(nats.consumer.clone()),
        description: Some("Lands every event in Postgres".to_owned()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: nats.ack_wait,
        // The server never gives up silently: what is delivered too often becomes
        // a dead letter by our hand, not a message that stays in the stream unseen.
        max_deliver: -1,
        max_ack_pending: max_ack_pending(pipeline),
        metadata: HashMap::from([(DATABASE.to_owned(), database.to_owned())]),
        ..pull::Config::default()
    };
    let mut refused = ask_for(jetstream, nats, &config).await?;
    let limit = refused.as_ref().and_then(refusals::ack_pending_limit);
    if let Some(limit) = limit.filter(|limit| *limit < config.max_ack_pending) {
        config.max_ack_pending = limit;
        let noted = limit.to_string();
        config.metadata.insert(SERVER_LIMIT.to_owned(), noted);
        refused = ask_for(jetstream, nats, &config).await?;
    }
    if let Some(answer) = refused {
        let detail = format!("creating consumer {}", nats.consumer);
        return Err(refusals::refused(&detail, &answer));
    }
    tracing::info!(
        stream = nats.stream,
        consumer = nats.consumer,
        "consumer created"
    );
    Ok(())
}

/// Asks for a consumer once. Returns the server's refusal, if it refuses.
async fn ask_for(
    jetstream: &Context,
    nats: &NatsConfig,
    config: &pull::Config,
) -> Result<Option<jetstream::Error>, Error> {
    // Strict: a consumer that somebody made meanwhile is not changed. The caller tries again,
    // finds it and checks it.
    let created = jetstream
        .create_consumer_strict_on_stream(config.clone(), nats.stream.clone())
        .await;
    match created.map_err(|error| (error.kind(), error)) {
        Ok(_) => Ok(None),
        Err((ConsumerCreateStrictErrorKind::JetStream(answer), _)) => Ok(Some(answer)),
        Err((_, error)) => Err(api_error(&format!(
            "creating consumer {}: {error}",
            nats.consumer
        ))),
    }
}
