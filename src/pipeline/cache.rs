//! Cache: after the commit, the newest state of each subject of the batch.

use std::collections::HashMap;

use super::writer::Writer;
use crate::backoff::Backoff;
use crate::cache::NewestState;
use crate::error::{Dependency, Error};
use crate::labels::Outcome;
use crate::message::timings::{Failures, now_nanos};
use crate::message::{CacheWrite, StoredBatch};

/// Returns when the cache cannot answer with a state older than the batch's. Postgres is asked until
/// the epoch is known or advanced.
pub(crate) async fn write(writer: &Writer, batch: &StoredBatch) -> CacheWrite {
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

/// With the error of the cache, if it had to be done without.
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
                tracing::warn!(%error, "the cache's epoch is not known; trying again");
                failures.add(&error);
                backoff.wait_or(recovery).await;
            }
        }
    }
}

/// One state for each subject: its newest event of the batch by (`time`, `stream_seq`). A
/// duplicate's row may have been stored under another sequence, so its subject is invalidated instead.
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
            invalidate: *outcome == Outcome::Duplicate,
        };
        by_subject
            .entry(subject)
            .and_modify(|newest| *newest = newest.newer_of(state))
            .or_insert(state);
    }
    by_subject.into_values().collect()
}
