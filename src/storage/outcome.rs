//! How rows end. A row that Postgres did not store is a duplicate, or a trigger skipped it. Postgres does not
//! say which, so ganesh looks up the key.

use sqlx::postgres::PgConnection;

use super::clock::ServerClock;
use super::fates::{self, MessageFate};
use super::insert::column;
use super::layout::Layout;
use super::row::Row;
use super::{copy, insert};
use crate::event::Timestamp;
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
/// What sqlx says. Then none of them is there, unless only the search for those that were not stored failed.
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
    let there = find(connection, &missing).await?;
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
            // `COPY` says of none whether it stored it. Another message's row was there before.
            Some(message) if method == WriteMethod::Copy && message == rows[i].message() => {
                RowOutcome::Stored
            }
            Some(_) => RowOutcome::Duplicate,
        };
    }
    Ok(outcomes)
}

/// What [`Row::message`] says.
type MessageKey = (i64, Timestamp);

/// For each row the message whose row has its key, if there is one. The rows are in write order: by time.
async fn find(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<Vec<Option<MessageKey>>, sqlx::Error> {
    if are_within_a_day(rows) {
        let found = find_between(connection, rows).await?;
        if !found.contains(&None) {
            return Ok(found);
        }
    }
    loop {
        let layout = Layout::read(connection).await?;
        let mut found = Vec::with_capacity(rows.len());
        for part in rows.chunk_by(|a, b| layout.are_in_one_span(a.event.time, b.event.time)) {
            found.extend(find_between(connection, part).await?);
        }
        // A search that waits while rows move from the default partition to their own was planned without
        // that one, and finds them in neither.
        if !found.contains(&None) || layout.stands(connection).await? {
            return Ok(found);
        }
    }
}

/// Then they touch few partitions.
fn are_within_a_day(rows: &[Row<'_>]) -> bool {
    const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
    let micros = |row: Option<&Row<'_>>| row.map_or(0, |row| row.event.time.micros());
    micros(rows.last()) - micros(rows.first()) <= DAY_MICROS
}

/// The first and the last row bound the partitions that are looked into: a statement locks each of them.
async fn find_between(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<Vec<Option<MessageKey>>, sqlx::Error> {
    // LIMIT: one search of the index for each key, whatever the planner knows of the table.
    let statement = "SELECT place, sequence, published_at \
         FROM unnest($1::text[], $2::text[], $3::timestamptz[]) \
              WITH ORDINALITY AS key (id, source, time, place), \
              LATERAL (SELECT coalesce(stream_seq, 0) AS sequence, \
                              coalesce(published_at, '-infinity') AS published_at FROM events \
                       WHERE id = key.id AND source = key.source AND time = key.time \
                       AND time BETWEEN $4 AND $5 LIMIT 1) AS there";
    let found: Vec<(i64, i64, Timestamp)> = sqlx::query_as(statement)
        .bind(column(rows, |row| row.event.id.as_str()))
        .bind(column(rows, |row| row.event.source.as_str()))
        .bind(column(rows, |row| row.event.time))
        .bind(rows.first().map(|row| row.event.time))
        .bind(rows.last().map(|row| row.event.time))
        // The plan then knows the times, and locks only the partitions that can hold them.
        .persistent(false)
        .fetch_all(connection)
        .await?;
    let mut messages = vec![None; rows.len()];
    for (place, sequence, published_at) in found {
        let index = usize::try_from(place - 1).expect("ordinality counts from 1");
        messages[index] = Some((sequence, published_at));
    }
    Ok(messages)
}
