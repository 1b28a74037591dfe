//! Writers: each takes the next batch, and carries it to its acknowledgements: store, cache, settle.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::queue::Sender;
use super::scheduler::BatchScheduler;
use super::{settle, store};
use crate::backoff::Backoff;
use crate::cache::{Cache, NewestState};
use crate::error::{Dependency, Error};
use crate::labels::Outcome;
use crate::message::timings::{Failures, now_nanos};
use crate::message::{CacheWrite, DeadLetter, StoredBatch};
use crate::messaging::InFlight;
use crate::observe::Observer;
use crate::storage::EventWriter;
use crate::storage::queries::Reads;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// One writer. All of them share what is behind an `Arc`.
#[derive(Clone)]
pub(crate) struct Writer {
    /// Limits how many writers take and store a batch at the same time (`GANESH_WRITERS`). A writer that
    /// waits for the cache holds no permit, so a slow cache does not keep Postgres idle.
    pub(crate) store_permits: Arc<Semaphore>,
    /// Gives the next batch: from the queue, or a parked one that is due.
    pub(crate) scheduler: Arc<BatchScheduler>,
    pub(crate) storage: EventWriter,
    /// Checks whether a message that becomes a dead letter has a row.
    pub(crate) reads: Reads,
    /// After each commit gets the newer states of the subjects that it holds.
    pub(crate) cache: Cache,
    /// Sends the acks.
    pub(crate) client: async_nats::Client,
    /// The register of what is held.
    pub(crate) in_flight: Arc<InFlight>,
    /// Where rejected rows go.
    pub(crate) dead_letters: Sender<DeadLetter>,
    /// Records each settled message; `None` when telemetry is off.
    pub(crate) observer: Option<Observer>,
    /// Signals that Postgres has recovered.
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// `GANESH_STREAM`.
    pub(crate) stream: Arc<str>,
    /// `GANESH_MAX_DELIVERIES`.
    pub(crate) max_deliveries: u64,
    /// Limits lines that repeat during an outage.
    pub(crate) log: Arc<RateLimit>,
}

/// Writes until the queue is closed and empty.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn run(mut writer: Writer) -> Result<(), Error> {
    loop {
        let permits = writer.store_permits.clone();
        let permit = permits.acquire_owned().await.expect("it is never closed");
        let Some(next) = writer.scheduler.next_batch().await else {
            return Ok(());
        };
        let Some((stored, letters)) = store::store(&writer, next).await? else {
            continue; // It is parked.
        };
        drop(permit);
        writer.dead_letters.send_each(letters);
        if stored.messages.is_empty() {
            continue;
        }
        let cached = write_cache(&writer, &stored).await;
        settle::ack_batch(&mut writer, stored, &cached).await;
    }
}

/// Brings the cache up to date: no read that starts a second later gets a state older than this batch. Where
/// the cache fails, its epoch is advanced: a number in Postgres with which every key begins, so that the old
/// keys cannot be reached. Retries only while the epoch can be neither read nor advanced.
async fn write_cache(writer: &Writer, batch: &StoredBatch) -> CacheWrite {
    let mut failures = Failures::default();
    let cache_error = write_until_done(writer, batch, &mut failures).await;
    if let Some(error) = &cache_error {
        failures.add(error);
    }
    CacheWrite {
        ended: now_nanos(),
        failures,
        cache_error,
    }
}

/// Returns the cache's error if the batch went on without the cache.
async fn write_until_done(
    writer: &Writer,
    batch: &StoredBatch,
    failures: &mut Failures,
) -> Option<Error> {
    let states = newest_states(batch);
    let mut backoff = Backoff::new();
    loop {
        let recovery = writer.health.recovery(Dependency::Postgres);
        let written = writer.cache.write_committed(&states, batch.epoch_advanced);
        match written.await {
            Ok(cache_error) => return cache_error,
            Err(error) => {
                writer.metrics.dependency_error(&error);
                if let Some(suppressed) = writer.log.allow() {
                    tracing::warn!(%error, suppressed, "the cache's epoch is not known; trying again");
                }
                failures.add(&error);
                backoff.wait_or(recovery).await;
            }
        }
    }
}

/// One state for each subject: its newest event of the batch by (`time`, `stream_seq`). A
/// duplicate's row may have been stored under another sequence, and a trigger that skips a row may
/// have changed another one, so their subjects are invalidated instead.
fn newest_states(batch: &StoredBatch) -> Vec<NewestState<'_>> {
    let mut by_subject: HashMap<&str, NewestState<'_>> = HashMap::new();
    for (decoded, outcome) in batch.messages.iter().zip(&batch.outcomes) {
        let event = &decoded.event;
        let Some(subject) = event.subject.as_deref() else {
            continue;
        };
        let state = NewestState {
            subject,
            event,
            stream_seq: decoded.delivery.stream_sequence,
            invalidate: *outcome != Outcome::Stored,
        };
        by_subject
            .entry(subject)
            .and_modify(|newest| *newest = newest.newer_of(state))
            .or_insert(state);
    }
    by_subject.into_values().collect()
}
