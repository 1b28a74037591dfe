//! The pipeline: which stage hands what to which, through channels of what
//! capacity, and how it ends.
//!
//! Only the source hears the shutdown. It ends, its sender is dropped, and every
//! later stage ends when its input is empty and closed.

pub mod batch;
pub mod cache;
pub mod dead_letter;
pub mod decode;
mod exhausted;
mod inbox;
pub mod observe;
pub mod rejections;
pub mod settle;
pub mod source;
pub mod store;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::observe::Observer;
use self::rejections::Rejections;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::Error;
use crate::messaging::Held;
use crate::messaging::letters::bucket::Bucket;
use crate::storage::EventWriter;
use crate::storage::queries::Reads;
use crate::telemetry::catalogue::Queue;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// Capacities of the channels, in the entries that [`Queue`] names. What they can
/// hold is bounded by `GANESH_MAX_IN_FLIGHT` all the same; they only have to be
/// long enough that no stage waits for another one's hiccup.
const DECODE_CAPACITY: usize = 16;
const BATCH_CAPACITY: usize = 16;
const CACHE_CAPACITY: usize = 4;
const SETTLE_CAPACITY: usize = 4;
const DEAD_LETTER_CAPACITY: usize = 256;

/// How often the fill of the channels is exported.
const EXPORT_QUEUES_EVERY: Duration = Duration::from_secs(1);

/// What the pipeline works with; made by `serve`.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// Where messages come from.
    pub origin: source::Origin,
    /// The register of what is held.
    pub held: Arc<Held>,
    /// Writes batches.
    pub writer: EventWriter,
    /// Reads rows.
    pub reads: Reads,
    /// The cache.
    pub cache: Cache,
    /// Is told that too many rows are refused, and tells when Postgres answers again.
    pub health: Health,
    /// The metrics.
    pub metrics: Metrics,
    /// What is told of every settled message, unless telemetry is off.
    pub observer: Option<Observer>,
}

/// Starts every stage. They end by themselves after `stop`, when the last held
/// message is settled; shutting the set down stops them where they are, and what
/// they hold is released.
///
/// Long, because the wiring is one thing: who reads what the one before it writes.
pub fn spawn(parts: Parts, stop: &CancellationToken) -> JoinSet<Result<(), Error>> {
    let Parts {
        config,
        origin,
        held,
        writer,
        reads,
        cache,
        health,
        metrics,
        observer,
    } = parts;
    let jetstream = &origin.jetstream;
    let writers = config.pipeline.writers;
    let (to_decode, decode_input) = mpsc::channel(DECODE_CAPACITY);
    let (to_batch, batch_input) = mpsc::channel(BATCH_CAPACITY);
    let (to_store, store_input) = mpsc::channel(writers);
    let (to_cache, cache_input) = mpsc::channel(CACHE_CAPACITY);
    let (to_settle, settle_input) = mpsc::channel(SETTLE_CAPACITY);
    let (to_dead_letter, dead_letter_input) = mpsc::channel(DEAD_LETTER_CAPACITY);

    let mut stages = JoinSet::new();
    stages.spawn(export_queues(
        metrics.clone(),
        [
            gauge(Queue::Decode, &to_decode),
            gauge(Queue::Batch, &to_batch),
            gauge(Queue::Store, &to_store),
            gauge(Queue::Cache, &to_cache),
            gauge(Queue::Settle, &to_settle),
            gauge(Queue::DeadLetter, &to_dead_letter),
        ],
        stop.clone(),
    ));
    stages.spawn(settle::run(jetstream.client(), observer, settle_input));
    stages.spawn(dead_letter::run(
        dead_letter::DeadLetterStage {
            stream: config.nats.stream.clone(),
            bucket: Bucket::new(jetstream.clone(), &config.nats.dlq_stream),
            metrics: metrics.clone(),
            health: health.clone(),
            log: RateLimit::default(),
            retries: RateLimit::new(1, Duration::from_secs(1)),
        },
        dead_letter_input,
        to_settle.clone(),
    ));
    stages.spawn(cache::run(
        cache.clone(),
        health.clone(),
        metrics.clone(),
        cache_input,
        to_settle,
    ));
    let store_input = Arc::new(Mutex::new(store_input));
    let rejections = Arc::new(Rejections::new(health.clone()));
    let store = store::StoreStage {
        writer,
        reads,
        cache,
        rejections,
        health,
        metrics: metrics.clone(),
        log: Arc::default(),
    };
    let outputs = store::Outputs {
        committed: to_cache,
        dead_letters: to_dead_letter.clone(),
    };
    let (to_set_aside, set_aside) = mpsc::unbounded_channel();
    for _ in 0..writers {
        stages.spawn(store::run(
            store.clone(),
            store_input.clone(),
            outputs.clone(),
            to_set_aside.clone(),
        ));
    }
    stages.spawn(store::run_set_aside(store, set_aside, outputs));
    stages.spawn(batch::run(
        batch::Limits::of(&config.pipeline),
        config.pipeline.max_deliveries,
        metrics.clone(),
        batch_input,
        to_store,
    ));
    stages.spawn(decode::run(
        config.nats.stream.clone(),
        config.pipeline.accept_plain,
        decode_input,
        to_batch,
        to_dead_letter.clone(),
    ));
    let stop = stop.clone();
    stages.spawn(async move {
        let source = source::Source::new(origin, held, metrics, to_dead_letter, config).await?;
        source::run(source, to_decode, stop).await
    });
    stages
}

/// Waits until every stage has ended.
///
/// # Errors
/// The first fatal error of a stage; the others are told to stop.
pub async fn supervise(
    stages: &mut JoinSet<Result<(), Error>>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    while let Some(ended) = stages.join_next().await {
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

/// A channel's fill and capacity, without keeping it open.
struct QueueGauge {
    queue: Queue,
    read: Box<dyn Fn() -> Option<(usize, usize)> + Send + Sync>,
}

fn gauge<T: Send + 'static>(queue: Queue, sender: &mpsc::Sender<T>) -> QueueGauge {
    let sender = sender.downgrade();
    QueueGauge {
        queue,
        read: Box::new(move || {
            let sender = sender.upgrade()?;
            let capacity = sender.max_capacity();
            Some((capacity - sender.capacity(), capacity))
        }),
    }
}

async fn export_queues<const QUEUES: usize>(
    metrics: Metrics,
    queues: [QueueGauge; QUEUES],
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(EXPORT_QUEUES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        for QueueGauge { queue, read } in &queues {
            if let Some((depth, capacity)) = read() {
                #[allow(clippy::cast_precision_loss, reason = "gauges")]
                {
                    metrics.queue_depth(*queue).set(depth as f64);
                    metrics.queue_capacity(*queue).set(capacity as f64);
                }
            }
        }
    }
}

/// Waits between attempts: doubles from 100 ms to 5 s, with jitter, so that
/// replicas do not return all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    pub(crate) async fn wait(&mut self) {
        let jitter = rand::random_range(0.5..1.0);
        tokio::time::sleep(self.next.mul_f64(jitter)).await;
        self.next = (self.next * 2).min(Self::CEILING);
    }

    /// Waits no longer than until what was away answers again ([`Health::recovery`], of before the
    /// attempt that failed), and starts anew then: after a long outage the ceiling would be most of
    /// the time that it takes to be back.
    pub(crate) async fn wait_or(&mut self, recovery: Notified<'_>) {
        tokio::select! {
            () = self.wait() => {}
            () = recovery => *self = Self::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::error::Dependency;
    use crate::telemetry::recorder::Histograms;

    /// A health that has seen Postgres go away.
    fn away() -> Health {
        let health = Health::new(Metrics::register(&Histograms::default()));
        health.set(Dependency::Postgres, true);
        health.set(Dependency::Postgres, false);
        health
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_postgres_goes_on_when_it_answers_again() {
        let health = away();
        let mut backoff = Backoff {
            next: Backoff::CEILING,
        };
        let began = Instant::now();
        let back = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            health.set(Dependency::Postgres, true);
        };
        tokio::join!(backoff.wait_or(health.recovery(Dependency::Postgres)), back);
        assert_eq!(began.elapsed(), Duration::from_millis(10));
        assert_eq!(backoff.next, Backoff::FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recovery_during_the_attempt_that_failed_counts_too() {
        let health = away();
        let recovery = health.recovery(Dependency::Postgres);
        // The attempt ends after that, with an error from before.
        health.set(Dependency::Postgres, true);
        let began = Instant::now();
        Backoff::new().wait_or(recovery).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_waits_double_to_the_ceiling_with_jitter() {
        let health = away();
        let mut backoff = Backoff::new();
        let mut longest = Backoff::FIRST;
        for _ in 0..10 {
            let began = Instant::now();
            backoff.wait_or(health.recovery(Dependency::Postgres)).await;
            let (waited, most) = (began.elapsed(), longest + Duration::from_millis(1));
            assert!(
                waited >= longest / 2 && waited <= most,
                "{waited:?} of {longest:?}"
            );
            longest = (longest * 2).min(Backoff::CEILING);
        }
    }
}
