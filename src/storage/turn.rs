//! Reads whose length the caller chooses: each waits for its turn, and ends before its time is over.

use std::time::Duration;

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{Connection, Transaction};
use tokio::time::timeout;

use super::classify::sqlstate;
use super::deadline::Deadline;
use super::place::{ReadPlace, ReadPlaces, TimeInPostgres};
use super::queries::{READ_LIMIT, Reads};
use crate::error::Error;

/// A turn comes within this time: enough of [`READ_LIMIT`] is left for the read then.
const TURN_LIMIT: Duration = Duration::from_secs(2);
/// Statements get no time in it, but for a late read of the default partition ([`LOCK_MIN`]).
const MARGIN: Duration = Duration::from_secs(1);
/// For a statement that reads the default partition. Shorter than upkeep waits for the lock of that one, so
/// that readers who follow each other do not keep partitions from being made.
const DEFAULT_PARTITION_LIMIT: Duration = Duration::from_millis(300);

/// What it waits for that lock at least, at the end of its time too: upkeep holds it for a moment. With the limit
/// above it fits in [`MARGIN`].
const LOCK_MIN: Duration = Duration::from_millis(500);

/// Why such a read has no answer.
#[derive(Debug)]
pub enum ReadError {
    /// Others read all the time: no turn came.
    NoTurn,
    /// There is more to look through than there is time for.
    TooMuch,
    /// Postgres failed.
    Failed(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The right to read, until it is dropped.
pub(crate) struct Turn {
    pub(crate) deadline: Deadline,
    place: ReadPlace,
}

impl Turn {
    /// For whoever asks others, too, while it has its turn: what it counts there is all that counts.
    pub(crate) fn count_only(&mut self) -> TimeInPostgres {
        self.place.count_only()
    }
}

impl Reads {
    /// Waits for a turn; `what` names the read in errors.
    pub(crate) async fn turn(&self, what: &'static str) -> Result<Turn, ReadError> {
        self.turn_among(&self.searches, what).await
    }

    /// The same of a tail, which waits for other tails, and not for searches.
    pub(super) async fn turn_of_tail(&self, what: &'static str) -> Result<Turn, ReadError> {
        self.turn_among(&self.tails, what).await
    }

    async fn turn_among(&self, others: &ReadPlaces, what: &'static str) -> Result<Turn, ReadError> {
        let deadline = Deadline::new(READ_LIMIT, what);
        let place = timeout(TURN_LIMIT, others.take()).await;
        Ok(Turn {
            deadline,
            place: place.map_err(|_| ReadError::NoTurn)?,
        })
    }
}

/// What is left for statements.
pub(super) fn time_left(deadline: Deadline) -> Duration {
    deadline.left().saturating_sub(MARGIN)
}

/// Begins a transaction for one statement, which the server ends after `limit`. One that reads the default
/// partition, whose name is `default`, waits for that one's lock before its time begins.
pub(super) async fn begin<'a>(
    connection: &'a mut PgConnection,
    deadline: Deadline,
    limit: Duration,
    default: Option<&str>,
) -> Result<Transaction<'a, Postgres>, sqlx::Error> {
    // 0 is no limit.
    let millis = |limit: Duration| limit.as_millis().max(1);
    let (lock, limit) = if let Some(default) = default {
        let wait = millis(time_left(deadline).max(LOCK_MIN));
        let lock = format!(
            "SET LOCAL lock_timeout = '{wait}ms'; LOCK TABLE {default} IN ACCESS SHARE MODE; "
        );
        (lock, limit.min(DEFAULT_PARTITION_LIMIT))
    } else {
        (String::new(), limit)
    };
    // Shorter than the other one: somebody's lock is another error than too many rows.
    let (lock_limit, limit) = (millis(limit * 3 / 4), millis(limit));
    let begin = format!(
        "BEGIN READ ONLY; {lock}\
         SET LOCAL lock_timeout = '{lock_limit}ms'; SET LOCAL statement_timeout = '{limit}ms'"
    );
    connection.begin_with(begin).await
}

/// `None`: the server ended the statement, as it took too long.
pub(super) fn in_time<T>(answer: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match answer {
        Err(error) if is_too_long(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Whether the server ended a statement at its `statement_timeout` (`query_canceled`).
pub(super) fn is_too_long(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("57014")
}
