//! Writes a batch: an optimistic `COPY`, an `INSERT` when events may be rows
//! already, and row by row only what Postgres rejects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};

use super::bisection::Bisection;
use super::classify::{classify, copy_line};
use super::clock::ServerClock;
use super::deadline::{Deadline, LentConnection};
use super::outcome::{RowOutcome, write_rows};
use super::row::Row;
use super::{epoch, inspect};
use crate::error::{Class, Code, Dependency, Error};
use crate::labels::WriteMethod;
use crate::telemetry::Metrics;

/// After a batch with duplicates, this many batches go by `INSERT` at once. A `COPY`
/// that fails costs its rows twice and leaves them behind as dead ones; `INSERT`
/// costs about 40 % more than `COPY`. Duplicates come in runs (a redelivery, a
/// producer that sends again), so the next batches are likely to have some too.
const INSERTS_AFTER_DUPLICATES: u32 = 16;
/// Fewer rows go by `INSERT` at once: one round trip instead of two, and no failure on duplicates.
/// Medians of `cargo bench --bench writing` on two cores, `COPY` and `INSERT`: 1 row 0.51 and 0.46 ms,
/// 16 rows 0.78 and 0.82, 128 rows 2.5 and 3.7, 1,024 rows 12.6 and 18.2.
const COPY_MIN_ROWS: usize = 16;
/// Longer than the server's own statement timeout, which answers more clearly.
const WRITE_TIMEOUT: Duration = Duration::from_secs(35);

/// Writes batches. Cloned into every writer.
#[derive(Clone)]
pub struct EventWriter {
    pool: PgPool,
    metrics: Metrics,
    clock: Arc<ServerClock>,
    inserts_left: Arc<AtomicU32>,
    attempts: Arc<AtomicU64>,
    newest_success: Arc<AtomicU64>,
}

/// How to write one batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Some of its messages were delivered before: their events may be rows.
    pub expect_duplicates: bool,
    /// Advance the cache's epoch in the batch's own transaction.
    pub advance_epoch: bool,
    /// Other batches succeeded since this one failed ([`EventWriter::has_succeeded_since`]): rows
    /// rejected for an unknown reason are then to blame themselves.
    pub others_succeed: bool,
}

impl EventWriter {
    /// A writer on this pool.
    pub fn new(pool: PgPool, metrics: Metrics) -> Self {
        Self {
            pool,
            metrics,
            clock: Arc::default(),
            inserts_left: Arc::default(),
            attempts: Arc::default(),
            newest_success: Arc::default(),
        }
    }

    /// Returns whether an attempt that began later, at any rows, has stored one.
    pub(crate) fn has_succeeded_since(&self, attempt: u64) -> bool {
        self.newest_success.load(Ordering::Relaxed) > attempt
    }

    /// Writes the rows that have no outcome yet, and notes how each ended. `rows`
    /// are in [`Row::write_order`]. After an error it can be called again with the
    /// same `outcomes`: what was decided stays decided.
    ///
    /// # Errors
    /// A rejected row is none, unless every row is rejected and nobody knows who is to blame.
    pub async fn write(
        &self,
        rows: &[Row<'_>],
        outcomes: &mut [Option<RowOutcome>],
        options: WriteOptions,
    ) -> Result<WriteMethod, WriteError> {
        self.reject_suspects(rows, outcomes).await;
        let mut method = WriteMethod::Insert;
        loop {
            let round = next_round(rows, outcomes);
            if round.is_empty() {
                return Ok(method);
            }
            method = self.write_round(rows, &round, outcomes, options).await?;
        }
    }

    /// Finds rows that Postgres would reject before they are written: otherwise one bad row in
    /// 10,000 costs 10 % of the throughput, as its batch is written twice.
    async fn reject_suspects(&self, rows: &[Row<'_>], outcomes: &mut [Option<RowOutcome>]) {
        let is_suspect = |i: &usize| outcomes[*i].is_none() && inspect::is_suspect(&rows[*i]);
        let places: Vec<usize> = (0..rows.len()).filter(is_suspect).collect();
        if !places.is_empty() {
            // Where that fails, the write that follows says why.
            self.reject_invalid_json(rows, &places, outcomes).await;
        }
    }

    /// Writes these rows, no two of which are the same event, and decides them all.
    async fn write_round(
        &self,
        rows: &[Row<'_>],
        round: &[usize],
        outcomes: &mut [Option<RowOutcome>],
        options: WriteOptions,
    ) -> Result<WriteMethod, WriteError> {
        let pending: Vec<Row<'_>> = round.iter().map(|i| rows[*i]).collect();
        let mut bisection = Bisection::new(pending.len());
        let mut unknown_cause = Vec::new();
        let mut inspected = false;
        let mut first_rejected = None;
        let mut method = WriteMethod::Insert;
        while let Some(range) = bisection.next_part() {
            match self.write_range(&pending[range.clone()], options).await {
                Ok((written, by)) => {
                    method = by;
                    for (row, outcome) in round[range].iter().zip(written) {
                        outcomes[*row] = Some(outcome);
                    }
                }
                Err(failed) if failed.error.class != Class::Poison => {
                    return Err(WriteError::Failed(failed.error));
                }
                Err(failed) if range.len() > 1 => {
                    first_rejected.get_or_insert(failed.attempt);
                    let searched = std::mem::replace(&mut inspected, true);
                    let places = &round[range.clone()];
                    if failed.error.code == Code::RejectedRow
                        && !searched
                        && self.reject_invalid_json(rows, places, outcomes).await
                    {
                        // The rest makes the next round, without them.
                        return Ok(method);
                    }
                    bisection.narrow(&range, failed.line);
                }
                Err(failed) if failed.error.code == Code::RejectedRow => {
                    let rejected = RowOutcome::Rejected(failed.error.detail);
                    outcomes[round[range.start]] = Some(rejected);
                }
                Err(failed) => {
                    first_rejected.get_or_insert(failed.attempt);
                    unknown_cause.push((round[range.start], failed.error));
                }
            }
        }
        blame(unknown_cause, outcomes, options.others_succeed)
            .map(|()| method)
            .map_err(|error| WriteError::UnknownCause {
                error,
                attempt: first_rejected.unwrap_or_default(),
            })
    }

    /// Rejects what can be found at once. False when that is nothing, or when the search itself
    /// fails: then halves are tried.
    async fn reject_invalid_json(
        &self,
        rows: &[Row<'_>],
        places: &[usize],
        outcomes: &mut [Option<RowOutcome>],
    ) -> bool {
        let suspects: Vec<Row<'_>> = places.iter().map(|i| rows[*i]).collect();
        let search = async {
            let mut lent = LentConnection::of(&self.pool).await?;
            let invalid = inspect::invalid_json(&mut lent.connection, &suspects).await?;
            lent.give_back();
            Ok(invalid)
        };
        let deadline = Deadline::new(WRITE_TIMEOUT, "search for invalid JSON");
        let invalid = deadline.run(search).await.unwrap_or_default();
        let found = !invalid.is_empty();
        for (suspect, why) in invalid {
            outcomes[places[suspect]] = Some(RowOutcome::Rejected(why));
        }
        found
    }

    async fn write_range(
        &self,
        rows: &[Row<'_>],
        options: WriteOptions,
    ) -> Result<(Vec<RowOutcome>, WriteMethod), AttemptError> {
        let is_large = rows.len() >= COPY_MIN_ROWS;
        if is_large && !options.expect_duplicates && !self.take_insert() {
            match self.attempt(rows, WriteMethod::Copy, options).await {
                Err(failed) if failed.error.code == Code::Duplicate => {}
                result => return result.map(|written| (written, WriteMethod::Copy)),
            }
        }
        let written = self.attempt(rows, WriteMethod::Insert, options).await?;
        if is_large && written.contains(&RowOutcome::Duplicate) {
            self.inserts_left
                .store(INSERTS_AFTER_DUPLICATES, Ordering::Relaxed);
        }
        Ok((written, WriteMethod::Insert))
    }

    /// Returns whether the last duplicates are so recent that `INSERT` comes first.
    fn take_insert(&self) -> bool {
        self.inserts_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }

    /// One attempt in one transaction. Its connection is closed unless the server answered.
    async fn attempt(
        &self,
        rows: &[Row<'_>],
        method: WriteMethod,
        options: WriteOptions,
    ) -> Result<Vec<RowOutcome>, AttemptError> {
        let acquired = self.pool.acquire().await;
        let mut connection = acquired.map_err(|error| AttemptError::by(&error, 0))?;
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        self.metrics.batch_writes[method].increment(1);
        let write = self.write_once(&mut connection, rows, method, options.advance_epoch);
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(written)) => {
                // Rows that are there already or skipped prove nothing: Postgres does not even try them.
                if written.contains(&RowOutcome::Stored) {
                    self.newest_success.fetch_max(number, Ordering::Relaxed);
                }
                Ok(written)
            }
            Ok(Err(error)) => {
                let failed = AttemptError::by(&error, number).at(method);
                if needs_new_connection(&error, &failed.error) {
                    drop(connection.detach());
                }
                Err(failed)
            }
            Err(_) => {
                drop(connection.detach());
                Err(AttemptError {
                    error: Error::timeout(Dependency::Postgres, "writing a batch"),
                    line: None,
                    attempt: number,
                })
            }
        }
    }

    /// A statement alone is a transaction; only the epoch needs one around it.
    async fn write_once(
        &self,
        connection: &mut PgConnection,
        rows: &[Row<'_>],
        method: WriteMethod,
        advance_epoch: bool,
    ) -> Result<Vec<RowOutcome>, sqlx::Error> {
        if !advance_epoch {
            return write_rows(connection, rows, method, &self.clock).await;
        }
        // Dropped on an error, it rolls back before the connection's next use.
        let mut transaction = connection.begin().await?;
        let written = write_rows(&mut transaction, rows, method, &self.clock).await?;
        // Last, so that other writers wait for this row's lock as briefly as can be.
        epoch::advance(&mut transaction).await?;
        transaction.commit().await?;
        Ok(written)
    }
}

/// Why rows of a batch are undecided.
#[derive(Debug)]
pub enum WriteError {
    /// Retry, or fatal.
    Failed(Error),
    /// Postgres rejected every row for an unknown reason: the rows or the server may be to blame.
    UnknownCause {
        /// The server's error for the first row.
        error: Error,
        /// The number of the first attempt that it rejected: [`EventWriter::has_succeeded_since`].
        attempt: u64,
    },
}

/// An error, the row that it names, and the number of the attempt.
struct AttemptError {
    error: Error,
    line: Option<usize>,
    attempt: u64,
}

impl AttemptError {
    fn by(error: &sqlx::Error, attempt: u64) -> Self {
        Self {
            error: classify(error),
            line: copy_line(error),
            attempt,
        }
    }

    /// `INSERT` passes over what our key has, so a key that is there already is another index's, and the
    /// row is to blame. `COPY` names the index of a partition, which anybody may have named: `INSERT` decides.
    fn at(mut self, method: WriteMethod) -> Self {
        if method == WriteMethod::Insert && self.error.code == Code::Duplicate {
            self.error.class = Class::Poison;
            self.error.code = Code::RejectedRow;
        }
        self
    }
}

/// Anything but a plain answer of the server, and read-only sessions (25006: the
/// server became a standby; another connection may lead to the new primary).
fn needs_new_connection(error: &sqlx::Error, ours: &Error) -> bool {
    !matches!(error, sqlx::Error::Database(_))
        || matches!(ours.code, Code::Unavailable | Code::Timeout)
}

/// The rows to write next: of rows that are the same event, the first that Postgres
/// has not rejected or skipped. Once one of them is there, the others are duplicates.
fn next_round(rows: &[Row<'_>], outcomes: &mut [Option<RowOutcome>]) -> Vec<usize> {
    let mut round = Vec::new();
    let (mut present, mut chosen) = (false, false);
    for i in 0..rows.len() {
        if i == 0 || !rows[i].is_same_event(&rows[i - 1]) {
            (present, chosen) = (false, false);
        }
        match &outcomes[i] {
            Some(RowOutcome::Stored | RowOutcome::Duplicate) => present = true,
            Some(RowOutcome::Skipped | RowOutcome::Rejected(_)) => {}
            None if present => outcomes[i] = Some(RowOutcome::Duplicate),
            None if chosen => {}
            None => {
                chosen = true;
                round.push(i);
            }
        }
    }
    round
}

/// A state that our table does not know: the row is to blame only if it failed
/// alone while others succeeded; otherwise the server may be.
fn blame(
    unknown_cause: Vec<(usize, Error)>,
    outcomes: &mut [Option<RowOutcome>],
    others_succeed: bool,
) -> Result<(), Error> {
    let others_succeed = others_succeed
        || outcomes
            .iter()
            .any(|outcome| matches!(outcome, Some(RowOutcome::Stored)));
    for (row, error) in unknown_cause {
        if !others_succeed {
            return Err(error);
        }
        outcomes[row] = Some(RowOutcome::Rejected(error.detail));
    }
    Ok(())
}
