//! Dragonfly or Redis: the newest state of the subjects that are read, and single events. A cache, never the truth.
//!
//! ```text
//!  store stage ── commit ──▶ write_committed ── replaces older states, removes leases ──▶ ack
//!                                 │ failed or skipped: the epoch advances first
//!  HTTP read ──▶ latest ── hit ───┴──────────────────────────────────────────▶ answer
//!                event  │ nothing: lease ──▶ Postgres ──▶ answer in the lease's place ──▶ answer
//!                       └ away, slow, epoch unknown: Postgres ────────────────────────▶ answer
//! ```
//!
//! Why a read that starts a second after an acknowledgement never gets an older state:
//!
//! 1. Keys carry an epoch, a row in Postgres that only grows. A reader goes by an epoch that was
//!    current less than a second ago, a writer by one that it read after its commit.
//! 2. Reader's epoch later than writer's: all its keys were filled from Postgres after the commit.
//! 3. The same epoch: the writer replaced the state, or removed the answer that there is none, or the
//!    lease of whoever might put an older one there, or found no key, and then whoever fills it asks
//!    Postgres later.
//! 4. The reader's epoch is never the earlier one, because the second has passed.
//! 5. Where a write failed, was late or was skipped, the epoch advanced before the
//!    acknowledgement, so that 2 holds.
//! 6. An epoch belongs to one process of the cache server. What another process holds, restarted
//!    on an old snapshot or promoted from a lagging replica, is under no epoch that is used.
//!
//! No write touches the answer to a question for one event. One that names `source` and `time` names one row,
//! which does not change, and is kept for a minute. Any other one (the newest of an id, or none) ends with
//! its lease, a second after that was taken, and Postgres was asked after it was taken.
//!
//! Not covered, as docs/RELIABILITY.md says: data put back into a running server by hand (`RESTORE`,
//! `DEBUG LOAD`), which it does not tell.

pub(crate) mod client;
mod cluster;
mod epoch;
mod failure;
mod keys;
mod connection;
pub(crate) mod peek;
mod read;
mod scripts;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sqlx::PgPool;
use strum::VariantArray as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use cluster::NOT_SUPPORTED;
pub(crate) use cluster::is_cluster;
pub(crate) use failure::words;
pub use read::{Answer, Origin};
pub use write::NewestState;

use crate::config::CacheConfig;
use crate::error::Code;
use crate::labels::CacheRequest;
use crate::storage::queries::Reads;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};
use connection::VerifiedConnection;
use scripts::Scripts;

/// The same failure again and again is logged this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The cache of this process. Cloning clones an `Arc`.
#[derive(Clone)]
pub struct Cache(Arc<CacheParts>);

struct CacheParts {
    config: CacheConfig,
    scripts: Scripts,
    /// Reads and advances the epoch. It is the pipeline's, so that no write waits for reads of the API.
    pool: PgPool,
    reads: Reads,
    metrics: Metrics,
    health: Health,
    /// The verified connection, while there is one.
    connection: ArcSwapOption<VerifiedConnection>,
    /// Wakes the task that keeps the connection after somebody gave it up.
    dropped: Notify,
    known: ArcSwapOption<epoch::Known>,
    /// This process has advanced the epoch once.
    is_started: AtomicBool,
    /// Reads in a row that the connection did not answer in time.
    late_reads: AtomicU32,
    /// For each code, in the order of [`Code`]: an outage is one line now and then, and
    /// another failure on top of it is a line at once.
    said: [RateLimit; Code::VARIANTS.len()],
}

impl Cache {
    /// A cache that is not connected yet: [`Cache::run`] does that. `pool` is the pipeline's.
    ///
    /// # Errors
    /// When the URL cannot be parsed, or a file cannot be used.
    pub fn new(
        config: &CacheConfig,
        pool: PgPool,
        reads: Reads,
        metrics: Metrics,
        health: Health,
    ) -> Result<Self, redis::RedisError> {
        // Each connection has a client of its own, with the files of its time.
        client::open(config)?;
        Ok(Self(Arc::new(CacheParts {
            config: config.clone(),
            scripts: Scripts::new(),
            pool,
            reads,
            metrics,
            health,
            connection: ArcSwapOption::empty(),
            dropped: Notify::new(),
            known: ArcSwapOption::empty(),
            is_started: AtomicBool::new(false),
            late_reads: AtomicU32::new(0),
            said: std::array::from_fn(|_| RateLimit::new(1, SAY_EVERY)),
        })))
    }

    /// Keeps the connection and the epoch until `stop` is cancelled. Without it every read goes
    /// to Postgres and every write is skipped.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(self.poll_epoch(), self.keep_connection()); } => {}
        }
    }

    /// Returns whether a batch's write has a chance. When it has none, advance the epoch in the
    /// batch's own transaction ([`crate::storage::epoch::advance`], its last statement) and tell
    /// [`Cache::write_committed`] so.
    pub fn is_usable(&self) -> bool {
        self.0.connection.load().is_some()
    }

    fn count(&self, request: CacheRequest) {
        self.0.metrics.cache_requests[request].increment(1);
    }
}
