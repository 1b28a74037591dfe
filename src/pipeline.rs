//! The pipeline: which task hands what to which. A message takes this way:
//!
//! ```text
//!  source.rs     Source::step                pulls while there is capacity
//!  intake.rs     Intake::accept              registers the delivery and decodes it ──▶ no event: dead_letter.rs
//!  queue.rs                                  one queue of decoded events
//!  writer.rs     run                         one of the writers carries a batch through these steps:
//!  scheduler.rs  BatchScheduler::next_batch  what the queue holds, or a parked batch that is due
//!  store.rs      store                       the rows are committed when it returns ──▶ rejected: dead_letter.rs
//!                                            (attempt.rs retries, storage/write.rs chooses COPY or INSERT,
//!                                            storage/statement.rs runs it)
//!  scheduler.rs  record_outcome              learns which rows were rejected
//!  writer.rs     write_cache                 the cache gets the newer states
//!  settle.rs     ack_batch                   the acknowledgements
//! ```
//!
//! What travels stands in message.rs. The queues have no limit of their own: every message in them counts
//! against the in-flight limit, which their gauge shows.
//! At shutdown the source ends and closes the queue. Each later task ends when its input is closed and
//! empty.

pub(crate) mod dead_letter;
pub mod scheduler;
pub(crate) mod queue;
pub(crate) mod source;

mod attempt;
mod fate;
mod intake;
mod settle;
mod stall;
mod store;
mod transient;
mod trial;
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
use self::queue::{BatchLimits, Receiver, Sender};
use self::scheduler::BatchScheduler;
use self::source::{NatsHandles, Source};
use self::writer::Writer;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::Error;
use crate::labels::Queue;
use crate::message::DeadLetter;
use crate::messaging::InFlight;
use crate::observe::Observer;
use crate::storage::EventWriter;
use crate::storage::queries::Reads;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// How often the difference between our clock and the server's is exported.
const EXPORT_EVERY: Duration = Duration::from_secs(1);

/// What the pipeline needs; `serve` makes it.
pub(crate) struct Resources {
    pub(crate) config: Config,
    pub(crate) nats_handles: NatsHandles,
    /// The register of what is held.
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) storage: EventWriter,
    pub(crate) reads: Reads,
    pub(crate) cache: Cache,
    /// Readiness. Also signals that Postgres has recovered.
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Records each settled message; `None` when telemetry is off.
    pub(crate) observer: Option<Observer>,
}

/// Starts every task. After `stop` the tasks end when the last held message is settled. Shutting the set
/// down aborts them and releases their messages.
pub(crate) fn spawn(resources: Resources, stop: &CancellationToken) -> JoinSet<Result<(), Error>> {
    let pipeline = &resources.config.pipeline;
    let (decoded, queue) = held_queue(&resources, Queue::Writer);
    let (dead_letters, letters) = held_queue(&resources, Queue::DeadLetter);
    let limits = BatchLimits::of(pipeline);
    let (health, metrics) = (resources.health.clone(), resources.metrics.clone());
    let scheduler = Arc::new(BatchScheduler::new(queue, limits, health, metrics));
    let (writer_tasks, observer) = (pipeline.all_writers(), resources.observer.clone());
    let writer = writer(&resources, &scheduler, &dead_letters);
    let dead_letter_stage = dead_letter_stage(&resources);
    let outputs = Outputs {
        decoded,
        scheduler,
        dead_letters,
    };
    let (in_flight, health) = (resources.in_flight.clone(), resources.health.clone());
    let stall_watch = stall::watch(in_flight, health, resources.metrics.clone(), stop.clone());
    let source = source(resources, outputs);
    let mut tasks = JoinSet::new();
    tasks.spawn(stall_watch);
    tasks.spawn(source::run(source, stop.clone()));
    for _ in 0..writer_tasks {
        tasks.spawn(writer::run(writer.clone()));
    }
    tasks.spawn(dead_letter::run(dead_letter_stage, letters));
    if let Some(observer) = observer {
        tasks.spawn(export_skew(observer, stop.clone()));
    }
    tasks
}

fn source(resources: Resources, outputs: Outputs) -> Source {
    let Resources {
        config,
        nats_handles,
        in_flight,
        metrics,
        ..
    } = resources;
    Source::new(nats_handles, in_flight, metrics, outputs, config)
}

/// A queue of held messages: its depth never exceeds `GANESH_MAX_IN_FLIGHT`.
fn held_queue<T>(resources: &Resources, name: Queue) -> (Sender<T>, Receiver<T>) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    let capacity = resources.config.pipeline.max_in_flight as f64;
    resources.metrics.queue_capacity[name].set(capacity);
    queue::queue(resources.metrics.queue_depth[name].clone())
}

fn dead_letter_stage(resources: &Resources) -> DeadLetterStage {
    let (nats, jetstream) = (&resources.config.nats, &resources.nats_handles.jetstream);
    DeadLetterStage {
        stream: nats.stream.clone(),
        bucket: resources.nats_handles.bucket.clone(),
        client: jetstream.client(),
        in_flight: resources.in_flight.clone(),
        observer: resources.observer.clone(),
        metrics: resources.metrics.clone(),
        health: resources.health.clone(),
        log: RateLimit::default(),
        retries: RateLimit::new(1, Duration::from_secs(1)),
    }
}

fn writer(
    resources: &Resources,
    scheduler: &Arc<BatchScheduler>,
    dead_letters: &Sender<DeadLetter>,
) -> Writer {
    Writer {
        store_permits: Arc::new(Semaphore::new(resources.config.pipeline.writers)),
        scheduler: scheduler.clone(),
        storage: resources.storage.clone(),
        reads: resources.reads.clone(),
        cache: resources.cache.clone(),
        client: resources.nats_handles.jetstream.client(),
        in_flight: resources.in_flight.clone(),
        dead_letters: dead_letters.clone(),
        observer: resources.observer.clone(),
        health: resources.health.clone(),
        metrics: resources.metrics.clone(),
        stream: resources.config.nats.stream.as_str().into(),
        max_deliveries: resources.config.pipeline.max_deliveries,
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
            // It ended by itself or was aborted.
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
