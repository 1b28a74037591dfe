//! Cache: after the commit, the newest state of each subject of the batch.

use std::collections::HashMap;

use tokio::sync::mpsc::{Receiver, Sender};

use super::Backoff;
use super::settle::{Cached, Settlement};
use super::store::Committed;
use crate::cache::{Cache, State};
use crate::error::{Dependency, Error};
use crate::labels::Outcome;
use crate::telemetry::record::{Failures, now_nanos};
use crate::telemetry::{Health, Metrics};

/// Writes until the input closes.
///
/// # Errors
/// None: Postgres is asked until the epoch is known or advanced.
pub async fn run(
    cache: Cache,
    health: Health,
    metrics: Metrics,
    mut input: Receiver<Committed>,
    output: Sender<Settlement>,
) -> Result<(), Error> {
    while let Some(committed) = input.recv().await {
        let mut failures = Failures::default();
        let done_without = write(&cache, &health, &metrics, &committed, &mut failures).await;
        let cached = Cached {
            committed,
            cached_at: now_nanos(),
            failures,
            done_without,
        };
        if output.send(Settlement::Rows(cached)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Returns when the cache cannot answer with a state older than the batch's; with the error
/// of the cache if that had to be done without it.
async fn write(
    cache: &Cache,
    health: &Health,
    metrics: &Metrics,
    committed: &Committed,
    failures: &mut Failures,
) -> Option<Error> {
    let states = newest_states(committed);
    let mut backoff = Backoff::new();
    loop {
        let recovery = health.recovery(Dependency::Postgres);
        match cache
            .write_committed(&states, committed.epoch_advanced)
            .await
        {
            Ok(done_without) => {
                if let Some(error) = &done_without {
                    failures.add(error);
                }
                return done_without;
            }
            Err(error) => {
                metrics.dependency_error(&error);
                tracing::warn!(%error, "the cache's epoch is not known; trying again");
                failures.add(&error);
                backoff.wait_or(recovery).await;
            }
        }
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
