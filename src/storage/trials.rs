//! Writes of messages that were delivered very often. Each is noted before it begins, and the note is removed
//! when it has ended, whatever the answer was: a note that stays is of a process that ended in the middle.
//!
//! Deliveries alone prove nothing against a row: a service that cannot write ends at each start, and each
//! start uses up one delivery of every message that it held.

use sqlx::postgres::PgPool;

use super::deadline::{Deadline, LentConnection};
use super::row::Row;
use super::write::{EventWriter, WRITE_TIMEOUT};
use crate::error::Error;

const BEGIN: &str = "\
    INSERT INTO trials AS trial (stream, stream_seq, published_at) VALUES ($1, $2, $3) \
    ON CONFLICT (stream_seq, published_at, stream) \
    DO UPDATE SET begun = trial.begun + 1, begun_at = clock_timestamp() \
    RETURNING begun - 1";
const END: &str = "DELETE FROM trials WHERE stream = $1 AND stream_seq = $2 AND published_at = $3";
/// Nobody delivers them any more.
const FORGET: &str = "DELETE FROM trials WHERE begun_at < now() - interval '7 days'";

impl EventWriter {
    /// Notes that a write of this row begins. Returns how many began before and never ended.
    ///
    /// # Errors
    /// When Postgres refuses or does not answer.
    pub(crate) async fn begin_trial(&self, row: &Row<'_>) -> Result<i32, Error> {
        let deadline = Deadline::new(WRITE_TIMEOUT, "note of a write that begins");
        let begin = async {
            let mut lent = LentConnection::of(self.pool()).await?;
            let ended_in_the_middle = sqlx::query_scalar(BEGIN)
                .bind(row.stream)
                .bind(row.stream_seq_i64())
                .bind(row.published_at)
                .fetch_one(&mut *lent.connection)
                .await?;
            lent.give_back();
            Ok(ended_in_the_middle)
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
}

/// Forgets those that nobody can ask for any more.
pub(super) async fn forget_old(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(FORGET).execute(pool).await.map(|_| ())
}
