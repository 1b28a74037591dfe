//! After a commit: what the cache holds of the batch's subjects becomes their newest state.

use std::ops::Range;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::connection::bound_to_another;
use super::failure::{CacheFailure, FailureKind, within};
use super::{Cache, keys};
use crate::error::Error;
use crate::event::{Event, Timestamp, to_json_as_stored};
use crate::labels::CacheRequest;
use crate::storage::deadline::{Deadline, LentConnection};
use crate::storage::epoch::{self, EpochRow};

/// A round trip takes no longer than this, nor a batch's write than this and the next together;
/// then the epoch advances instead.
const WRITE_LIMIT: Duration = Duration::from_millis(500);
/// For each subject of a batch: several times what replacing one takes on a busy machine.
const WRITE_LIMIT_PER_SUBJECT: Duration = Duration::from_micros(50);
/// Reading or advancing the epoch in Postgres takes no longer than this; then the caller repeats.
const EPOCH_LIMIT: Duration = Duration::from_secs(5);
/// Keys of one round trip.
const KEYS_PER_TRIP: usize = 4_096;
/// States of one round trip, in bytes, unless a single one is larger.
const BYTES_PER_TRIP: usize = 1024 * 1024;

/// The newest state of a subject that a batch has committed.
#[derive(Debug, Clone, Copy)]
pub struct NewestState<'a> {
    /// The subject.
    pub subject: &'a str,
    /// Its newest event of the batch.
    pub event: &'a Event,
    /// That event's place in the stream.
    pub stream_seq: u64,
    /// An event of the subject was a row already: the process that added it may have died before
    /// it wrote here, and the row's place in the stream may be another. Or a trigger skipped its row,
    /// and may have done anything instead. The cache then forgets the subject instead of being given
    /// this state.
    pub invalidate: bool,
}

impl NewestState<'_> {
    /// The newer of two states of the same subject, by `time`, then by `stream_seq`.
    #[must_use]
    pub fn newer_of(self, other: Self) -> Self {
        let order = |state: &Self| (state.event.time, state.stream_seq);
        let newer = if order(&other) > order(&self) {
            other
        } else {
            self
        };
        Self {
            invalidate: self.invalidate || other.invalidate,
            ..newer
        }
    }
}

impl Cache {
    /// Brings the cache to the state that a batch has committed. To be called after the commit,
    /// and before anything of the batch is acknowledged.
    ///
    /// `epoch_advanced`: the batch's own transaction advanced the epoch (because the cache was
    /// not usable, [`Cache::is_usable`]), so there is nothing to write.
    ///
    /// `Ok`: no read that starts a second from now gets an older state. `Some(error)`: the cache failed, and the
    /// epoch was advanced instead, so nothing that it holds can be reached.
    ///
    /// # Errors
    /// Only when Postgres failed while the epoch had to be read or advanced. Nothing may be
    /// acknowledged; call again with the same arguments.
    pub async fn write_committed(
        &self,
        states: &[NewestState<'_>],
        epoch_advanced: bool,
    ) -> Result<Option<Error>, Error> {
        if states.is_empty() {
            return Ok(None);
        }
        if epoch_advanced {
            self.count(CacheRequest::WriteSkipped);
            return Ok(None);
        }
        let Some(connection) = self.0.connection.load_full() else {
            return self.advance_instead().await;
        };
        // Read the epoch after the commit. A reader with a later epoch finds the batch in Postgres. A reader with
        // an earlier one stops within a second.
        let row = self.read_epoch(EPOCH_LIMIT).await?;
        if row.server.as_ref() != Some(&connection.server) {
            let error = bound_to_another();
            self.give_up(&connection, &error);
            return self.advance_instead().await.map(|_| Some(error));
        }
        let write = self.write(connection.redis.clone(), &row, states);
        let subjects = u32::try_from(states.len()).unwrap_or(u32::MAX);
        let limit = WRITE_LIMIT + WRITE_LIMIT_PER_SUBJECT * subjects;
        let written = tokio::time::timeout(limit, write).await;
        match written.unwrap_or_else(|_| Err(CacheFailure::late("write of a batch"))) {
            Ok(()) => {
                self.count(CacheRequest::WriteOk);
                Ok(None)
            }
            Err(failure) => {
                self.note(&connection, &failure, false);
                self.count(CacheRequest::WriteError);
                self.advance_epoch().await?;
                Ok(Some(failure.error))
            }
        }
    }

    async fn advance_instead(&self) -> Result<Option<Error>, Error> {
        self.count(CacheRequest::WriteSkipped);
        self.advance_epoch().await?;
        Ok(None)
    }

    async fn advance_epoch(&self) -> Result<(), Error> {
        let advance = async {
            let mut lent = LentConnection::of(&self.0.pool).await?;
            epoch::advance(&mut lent.connection).await?;
            lent.give_back();
            Ok(())
        };
        let deadline = Deadline::new(EPOCH_LIMIT, "advancing the cache epoch");
        deadline.run(advance).await
    }

    async fn write(
        &self,
        mut connection: MultiplexedConnection,
        epoch: &EpochRow,
        states: &[NewestState<'_>],
    ) -> Result<(), CacheFailure> {
        for states in states.chunks(KEYS_PER_TRIP) {
            let found = find(&mut connection, epoch, states).await?;
            let values: Vec<Vec<u8>> = found.iter().map(|found| encode(found.state)).collect();
            for trip in trips(&values) {
                let (found, values) = (&found[trip.clone()], &values[trip]);
                match self.replace(&mut connection, found, values).await {
                    // Out of memory, say. What cannot be replaced can still be removed.
                    Err(CacheFailure {
                        kind: FailureKind::Refused | FailureKind::Foreign,
                        error,
                    }) => {
                        self.0.metrics.dependency_error(&error);
                        self.say(&error);
                        remove(&mut connection, found).await?;
                    }
                    replaced => replaced?,
                }
            }
        }
        Ok(())
    }

    async fn replace(
        &self,
        connection: &mut MultiplexedConnection,
        found: &[KeyedState<'_>],
        values: &[Vec<u8>],
    ) -> Result<(), CacheFailure> {
        let mut call = self.0.scripts.replace.prepare_invoke();
        for (found, value) in found.iter().zip(values) {
            call.key(&found.key).arg(value);
        }
        within(
            WRITE_LIMIT,
            "replacing states",
            call.invoke_async(connection),
        )
        .await
    }
}

/// A state and its key.
struct KeyedState<'a> {
    key: String,
    state: &'a NewestState<'a>,
}

/// Which of the subjects are in the cache: only what is read is there, and only that is sent.
/// A key that comes into being after this was asked for is filled by a reader that asked
/// Postgres after our commit.
async fn find<'a>(
    connection: &mut MultiplexedConnection,
    epoch: &EpochRow,
    states: &'a [NewestState<'a>],
) -> Result<Vec<KeyedState<'a>>, CacheFailure> {
    let mut question = redis::Pipeline::with_capacity(states.len());
    let mut found = Vec::with_capacity(states.len());
    for state in states {
        let key = keys::key(epoch, state.subject);
        question.exists(&key);
        found.push(KeyedState { key, state });
    }
    let there: Vec<bool> = within(
        WRITE_LIMIT,
        "looking for states",
        question.query_async(connection),
    )
    .await?;
    let mut there = there.into_iter();
    found.retain(|_| there.next().unwrap_or(true));
    Ok(found)
}

async fn remove(
    connection: &mut MultiplexedConnection,
    found: &[KeyedState<'_>],
) -> Result<(), CacheFailure> {
    let mut command = redis::cmd("DEL");
    for found in found {
        command.arg(&found.key);
    }
    within(
        WRITE_LIMIT,
        "removing states",
        command.query_async(connection),
    )
    .await
}

/// Encodes a state for the script, as it would be read back; empty removes it.
fn encode(state: &NewestState<'_>) -> Vec<u8> {
    if state.invalidate {
        return Vec::new();
    }
    match to_json_as_stored(state.event, keys::VALUE_MAX_BYTES) {
        Some(json) => keys::value(state.event.time, state.stream_seq, Timestamp::now(), &json),
        None => Vec::new(),
    }
}

fn trips(values: &[Vec<u8>]) -> Vec<Range<usize>> {
    let mut trips = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (i, value) in values.iter().enumerate() {
        if i > start && bytes + value.len() > BYTES_PER_TRIP {
            trips.push(start..i);
            start = i;
            bytes = 0;
        }
        bytes += value.len();
    }
    if start < values.len() {
        trips.push(start..values.len());
    }
    trips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_bounded_in_bytes() {
        let values = [600, 300, 200, 2_000, 1].map(|kib| vec![0; kib * 1024]);
        assert_eq!(trips(&values), [0..2, 2..3, 3..4, 4..5]);
        assert!(trips(&[]).is_empty());
    }
}
