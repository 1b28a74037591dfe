//! Cache: after the commit, the newest state of each subject of the batch.

use std::collections::HashMap;

use tokio::sync::mpsc::{Receiver, Sender};

use super::Backoff;
use super::settle::Settlement;
use super::store::Committed;
use crate::cache::{Cache, State};
use crate::error::Error;
use crate::telemetry::Metrics;
use crate::telemetry::catalogue::Outcome;
use crate::telemetry::record::{Mark, now_nanos};

/// Writes until the input closes.
///
/// # Errors
/// None: Postgres is asked until the epoch is known or advanced.
pub async fn run(
    cache: Cache,
    metrics: Metrics,
    mut input: Receiver<Committed>,
    output: Sender<Settlement>,
) -> Result<(), Error> {
    while let Some(mut committed) = input.recv().await {
        write(&cache, &metrics, &committed).await;
        let now = now_nanos();
        for decoded in &mut committed.messages {
            decoded.delivery.record.mark(Mark::Cached, now);
        }
        if output.send(Settlement::Rows(committed)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Returns when the cache cannot answer with a state older than the batch's.
async fn write(cache: &Cache, metrics: &Metrics, committed: &Committed) {
    let states = newest_states(committed);
    let mut backoff = Backoff::new();
    while let Err(error) = cache
        .write_committed(&states, committed.epoch_advanced)
        .await
    {
        metrics.dependency_error(&error);
        tracing::warn!(%error, "the cache's epoch is not known; trying again");
        backoff.wait().await;
    }
}

/// One state for each subject: its newest event of the batch by (`time`,
/// `stream_seq`). A duplicate's row may have been stored under another sequence, so
/// its subject is invalidated instead.
fn newest_states(committed: &Committed) -> Vec<State<'_>> {
    let mut by_subject: HashMap<&str, State<'_>> = HashMap::new();
    for (decoded, outcome) in committed.messages.iter().zip(&committed.outcomes) {
        let event = &decoded.event;
        let Some(subject) = event.subject.as_deref() else {
            continue;
        };
        let state = State {
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
