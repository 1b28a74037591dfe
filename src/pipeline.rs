//! The pipeline: which task hands what to which, and how it ends.
//!
//! ```text
//!  source ── decode ──▶ queue ──▶ writer ×W: store, cache, settle
//!     │ no event                    │ refused row
//!     └────────▶ dead letters ◀─────┘
//! ```
//!
//! The queues have no capacity of their own: everything in them is held, and the source pulls no more
//! than may be. Only the source hears the shutdown. It ends, the queue is closed, and every later part
//! ends when its input is empty and closed.

pub mod dead_letter;
pub mod decode;
pub mod parking;
pub mod queue;
pub mod source;

mod cache;
mod settle;
mod store;
mod unreadable;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::dead_letter::DeadLetterStage;
use self::parking::Parking;
use self::queue::Limits;
use self::source::{Origin, Outputs, Source};
use self::writer::Writer;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::Error;
use crate::labels::Queue;
use crate::messaging::Held;
use crate::messaging::letters::bucket::Bucket;
use crate::observe::Observer;
use crate::storage::EventWriter;
use crate::storage::queries::Reads;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// How often the difference between clocks is exported.
const EXPORT_EVERY: Duration = Duration::from_secs(1);

/// What the pipeline works with; made by `serve`.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// Where messages come from.
    pub origin: Origin,
    /// The register of what is held.
    pub held: Arc<Held>,
    /// Writes rows.
    pub rows: EventWriter,
    /// Reads rows.
    pub reads: Reads,
    /// The cache.
    pub cache: Cache,
    /// Is told that too many rows are refused, and tells when Postgres answers again.
    pub health: Health,
    /// The metrics.
    pub metrics: Metrics,
    /// Is told of every settled message, unless telemetry is off.
    pub observer: Option<Observer>,
}

/// Starts every task. They end by themselves after `stop`, when the last held message is settled;
/// shutting the set down stops them where they are, and what they hold is released.
pub fn spawn(parts: Parts, stop: &CancellationToken) -> JoinSet<Result<(), Error>> {
    let Parts {
        config,
        origin,
        held,
        metrics,
        health,
        observer,
        ..
    } = parts;
    let (decoded, queue) = queue::queue(metrics.queue_depth[Queue::Writer].clone());
    let (dead_letters, letters) = queue::queue(metrics.queue_depth[Queue::DeadLetter].clone());
    for queue in [Queue::Writer, Queue::DeadLetter] {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        let capacity = config.pipeline.max_in_flight as f64;
        metrics.queue_capacity[queue].set(capacity);
    }
    let limits = Limits::of(&config.pipeline);
    let parking = Parking::new(queue, limits, health.clone(), metrics.clone());
    let parking = Arc::new(parking);
    let client = origin.jetstream.client();

    let mut tasks = JoinSet::new();
    if let Some(observer) = observer.clone() {
        tasks.spawn(export_skew(observer, stop.clone()));
    }
    let buries = DeadLetterStage {
        stream: config.nats.stream.clone(),
        bucket: Bucket::new(origin.jetstream.clone(), &config.nats.dlq_stream),
        client: client.clone(),
        held: held.clone(),
        observer: observer.clone(),
        metrics: metrics.clone(),
        health: health.clone(),
        log: RateLimit::default(),
        retries: RateLimit::new(1, Duration::from_secs(1)),
    };
    tasks.spawn(dead_letter::run(buries, letters));
    let writer = Writer {
        parking: parking.clone(),
        rows: parts.rows,
        reads: parts.reads,
        cache: parts.cache,
        client,
        held: held.clone(),
        dead_letters: dead_letters.clone(),
        observer,
        health,
        metrics: metrics.clone(),
        max_deliveries: config.pipeline.max_deliveries,
        log: Arc::default(),
    };
    for _ in 0..config.pipeline.writers {
        tasks.spawn(writer::run(writer.clone()));
    }
    let outputs = Outputs {
        decoded,
        parking,
        dead_letters,
    };
    let stop = stop.clone();
    tasks.spawn(async move {
        let source = Source::new(origin, held, metrics, outputs, config).await?;
        source::run(source, stop).await
    });
    tasks
}

/// Waits until every task has ended.
///
/// # Errors
/// The first fatal error of a task; the others are told to stop.
pub async fn supervise(
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
