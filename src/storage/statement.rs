//! Writes rows by one statement, `COPY` or `INSERT`, and says how each row ended. A row that Postgres did not
//! store is a duplicate, or a trigger skipped it. Postgres does not say which, so ganesh looks up the key.

use sqlx::postgres::PgConnection;

use super::clock::ServerClock;
use super::fates::{self, MessageFate};
use super::insert::column;
use super::row::Row;
use super::{copy, insert, keys};
use crate::labels::{Reason, WriteMethod};

/// How a row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOutcome {
    /// It is a new row.
    Stored,
    /// Its event was a row already, or another row of the batch is the same event.
    Duplicate,
    /// It is no row, and no error: a trigger of the table skipped it.
    Skipped,
    /// Postgres rejects it; the words say why.
    Rejected(String),
    /// Another replica has decided that its message becomes a dead letter.
    DeadLetter(Reason, String),
}

/// Writes rows by one statement, and says how each ended; none of them is rejected.
///
/// # Errors
/// What sqlx says. Usually no row is stored then. If only the later search for those that were not stored failed,
/// rows can be.
pub async fn write_rows(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
    method: WriteMethod,
    clock: &ServerClock,
) -> Result<Vec<RowOutcome>, sqlx::Error> {
    let mut outcomes = vec![RowOutcome::Stored; rows.len()];
    let unknown: Vec<usize> = match method {
        WriteMethod::Copy => {
            let is_complete = copy::copy(connection, rows, clock).await? == rows.len() as u64;
            let all = 0..rows.len();
            all.filter(|_| !is_complete).collect()
        }
        WriteMethod::Insert => {
            let new = insert::insert(connection, rows).await?;
            let all = 0..rows.len();
            all.filter(|i| !new[*i]).collect()
        }
    };
    if unknown.is_empty() {
        return Ok(outcomes);
    }
    let missing: Vec<Row<'_>> = unknown.iter().map(|i| rows[*i]).collect();
    let there = keys::find(connection, &column(&missing, |row| row.event)).await?;
    let fates = if there.contains(&None) {
        fates::read(connection, &missing).await?
    } else {
        vec![None; missing.len()]
    };
    for ((i, there), fate) in unknown.into_iter().zip(there).zip(fates) {
        outcomes[i] = match there {
            None => match fate {
                Some(MessageFate::DeadLetter(reason, detail)) => {
                    RowOutcome::DeadLetter(reason, detail)
                }
                Some(MessageFate::Skipped) | None => RowOutcome::Skipped,
            },
            // `COPY` does not say which rows it stored. This row came from this message.
            Some(message) if method == WriteMethod::Copy && message == rows[i].message() => {
                RowOutcome::Stored
            }
            Some(_) => RowOutcome::Duplicate,
        };
    }
    Ok(outcomes)
}
