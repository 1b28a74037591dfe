//! Writes of messages that were delivered very often. Each is noted before it begins, and the note is removed
//! when it has ended, or when the process ends in good order: a note that stays is of a process that died.
//!
//! Deliveries alone prove nothing against a row: a service that cannot write ends at each start, and each
//! start uses up one delivery of every message that it held.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPool;

use super::deadline::{Deadline, LentConnection};
use super::row::Row;
use super::write::{EventWriter, WRITE_TIMEOUT};
use crate::error::Error;

/// A process counts once, however often it begins.
const BEGIN: &str = "\
    INSERT INTO trials AS trial (stream, stream_seq, published_at, process) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (stream_seq, published_at, stream) \
    DO UPDATE SET begun = trial.begun + (trial.process <> excluded.process)::int, \
                  process = excluded.process, begun_at = clock_timestamp() \
    RETURNING begun - 1";
const END: &str = "DELETE FROM trials WHERE stream = $1 AND stream_seq = $2 AND published_at = $3";
const END_OF_PROCESS: &str = "UPDATE trials SET begun = begun - 1, process = '' WHERE process = $1";
/// Less than a shutdown keeps back for the last acknowledgements.
const END_OF_PROCESS_LIMIT: Duration = Duration::from_secs(1);
/// Nobody delivers them any more.
const FORGET: &str = "DELETE FROM trials WHERE begun_at < now() - interval '7 days'";

/// The trials of one process.
#[derive(Debug)]
pub(super) struct OwnTrials {
    /// Its name in the table.
    process: String,
    has_any: AtomicBool,
}

impl Default for OwnTrials {
    fn default() -> Self {
        Self {
            process: format!("{:016x}", rand::random::<u64>()),
            has_any: AtomicBool::new(false),
        }
    }
}

impl EventWriter {
    /// Notes that a write of this row begins. Returns how many other processes began one and never ended it.
    ///
    /// # Errors
    /// When Postgres refuses or does not answer.
    pub(crate) async fn begin_trial(&self, row: &Row<'_>) -> Result<i32, Error> {
        let deadline = Deadline::new(WRITE_TIMEOUT, "note of a write that begins");
        self.own_trials.has_any.store(true, Ordering::Relaxed);
        let begin = async {
            let mut lent = LentConnection::of(self.pool()).await?;
            let died = sqlx::query_scalar(BEGIN)
                .bind(row.stream)
                .bind(row.stream_seq_i64())
                .bind(row.published_at)
                .bind(&self.own_trials.process)
                .fetch_one(&mut *lent.connection)
                .await?;
            lent.give_back();
            Ok(died)
        };
        deadline.run(begin).await
    }

    /// Notes that it has ended.
    ///
    /// # Errors
    /// When Postgres refuses or does not answer.
    pub(crate) async fn end_trial(&self, row: &Row<'_>) -> Result<(), Error> {
        let deadline = Deadline::new(WRITE_TIMEOUT, "note of a write that ended");
        let end = async {
            let mut lent = LentConnection::of(self.pool()).await?;
            sqlx::query(END)
                .bind(row.stream)
                .bind(row.stream_seq_i64())
                .bind(row.published_at)
                .execute(&mut *lent.connection)
                .await?;
            lent.give_back();
            Ok(())
        };
        deadline.run(end).await
    }

    /// Takes back what this process noted, when it ends in good order and its writers have stopped in whatever
    /// place: it does not count.
    pub(crate) async fn end_own_trials(&self) {
        if !self.own_trials.has_any.load(Ordering::Relaxed) {
            return;
        }
        let deadline = Deadline::new(END_OF_PROCESS_LIMIT, "notes of writes that ended");
        let end = sqlx::query(END_OF_PROCESS)
            .bind(&self.own_trials.process)
            .execute(self.pool());
        if let Err(error) = deadline.run(end).await {
            tracing::warn!(%error, "writes that this shutdown broke off count as if the process had died");
        }
    }
}

/// Forgets those that nobody can ask for any more.
pub(super) async fn forget_old(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(FORGET).execute(pool).await.map(|_| ())
}
