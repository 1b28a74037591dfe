//! The pipeline: which task hands what to which, and how it ends.
//!
//! ```text
//!  source ── decode ──▶ queue ─ parking ─▶ writers: store, cache, settle
//!     │ no event                               │ refused row
//!     └───────────────▶ dead letters ◀─────────┘
//! ```
//!
//! The queues have no capacity of their own: every message in them counts against the in-flight limit.
//! At shutdown the source ends and closes the queue. Each later task ends when its input is closed and
//! empty.

pub(crate) mod dead_letter;
pub mod parking;
pub(crate) mod queue;
pub(crate) mod source;

mod intake;
mod settle;
mod store;
mod unreadable;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::dead_letter::DeadLetterStage;
use self::intake::Outputs;
use self::parking::Parking;
use self::queue::{BatchLimits, Receiver, Sender};
use self::source::{EventSource, Source};
use self::writer::Writer;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::Error;
use crate::labels::Queue;
use crate::message::DeadLetter;
use crate::messaging::InFlight;
use crate::messaging::letters::bucket::Bucket;
use crate::observe::Observer;
use crate::storage::EventWriter;
use crate::storage::queries::Reads;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// How often the difference between clocks is exported.
const EXPORT_EVERY: Duration = Duration::from_secs(1);

/// What the pipeline works with; made by `serve`.
pub(crate) struct Parts {
    pub(crate) config: Config,
    /// Where messages come from.
    pub(crate) event_source: EventSource,
    /// The register of what is held.
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) storage: EventWriter,
    pub(crate) reads: Reads,
    pub(crate) cache: Cache,
    /// Is told that too many rows are refused, and tells when Postgres answers again.
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Records each settled message; `None` when telemetry is off.
    pub(crate) observer: Option<Observer>,
}

/// Starts every task. After `stop` the tasks end when the last held message is settled. Shutting the set
/// down aborts them and releases their messages.
pub(crate) fn spawn(parts: Parts, stop: &CancellationToken) -> JoinSet<Result<(), Error>> {
    let pipeline = &parts.config.pipeline;
    let (decoded, queue) = held_queue(&parts, Queue::Writer);
    let (dead_letters, letters) = held_queue(&parts, Queue::DeadLetter);
    let limits = BatchLimits::of(pipeline);
    let (health, metrics) = (parts.health.clone(), parts.metrics.clone());
    let parking = Arc::new(Parking::new(queue, limits, health, metrics));
    let (writers, observer) = (pipeline.all_writers(), parts.observer.clone());
    let writer = writer(&parts, &parking, &dead_letters);
    let dead_letter_stage = dead_letter_stage(&parts);
    let outputs = Outputs {
        decoded,
        parking,
        dead_letters,
    };
    let source = source(parts, outputs);
    let mut tasks = JoinSet::new();
    tasks.spawn(source::run(source, stop.clone()));
    for _ in 0..writers {
        tasks.spawn(writer::run(writer.clone()));
    }
    tasks.spawn(dead_letter::run(dead_letter_stage, letters));
    if let Some(observer) = observer {
        tasks.spawn(export_skew(observer, stop.clone()));
    }
    tasks
}

fn source(parts: Parts, outputs: Outputs) -> Source {
    let Parts {
        config,
        event_source,
        in_flight,
        metrics,
        ..
    } = parts;
    Source::new(event_source, in_flight, metrics, outputs, config)
}

/// A queue of messages that are held: it has no more than may be.
fn held_queue<T>(parts: &Parts, name: Queue) -> (Sender<T>, Receiver<T>) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    let capacity = parts.config.pipeline.max_in_flight as f64;
    parts.metrics.queue_capacity[name].set(capacity);
    queue::queue(parts.metrics.queue_depth[name].clone())
}

fn dead_letter_stage(parts: &Parts) -> DeadLetterStage {
    let (nats, jetstream) = (&parts.config.nats, &parts.event_source.jetstream);
    DeadLetterStage {
        stream: nats.stream.clone(),
        bucket: Bucket::new(jetstream.clone(), &nats.dlq_stream),
        client: jetstream.client(),
        in_flight: parts.in_flight.clone(),
        observer: parts.observer.clone(),
        metrics: parts.metrics.clone(),
        health: parts.health.clone(),
        log: RateLimit::default(),
        retries: RateLimit::new(1, Duration::from_secs(1)),
    }
}

fn writer(parts: &Parts, parking: &Arc<Parking>, dead_letters: &Sender<DeadLetter>) -> Writer {
    Writer {
        store_permits: Arc::new(Semaphore::new(parts.config.pipeline.writers)),
        parking: parking.clone(),
        storage: parts.storage.clone(),
        reads: parts.reads.clone(),
        cache: parts.cache.clone(),
        client: parts.event_source.jetstream.client(),
        in_flight: parts.in_flight.clone(),
        dead_letters: dead_letters.clone(),
        observer: parts.observer.clone(),
        health: parts.health.clone(),
        metrics: parts.metrics.clone(),
        max_deliveries: parts.config.pipeline.max_deliveries,
        log: Arc::default(),
    }
}

/// Waits until every task has ended.
///
/// # Errors
/// The first fatal error of a task; the others are told to stop.
pub(crate) async fn supervise(
    tasks: &mut JoinSet<Result<(), Error>>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Err(error)) => {
                stop.cancel();
                return Err(error);
            }
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            // It ended, or it was told to.
            Ok(Ok(())) | Err(_) => {}
        }
    }
    Ok(())
}

async fn export_skew(observer: Observer, stop: CancellationToken) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(EXPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => observer.export_skew(),
        }
    }
}
