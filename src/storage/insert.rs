//! Rows by one `INSERT`, for batches that hold events which may be rows already.

use std::collections::HashSet;

use bytes::Bytes;
use sqlx::postgres::PgConnection;

use super::row::{COLUMNS, Row};
use crate::event::Timestamp;

/// Writes the rows whose event is no row yet, and whose message has no other fate. Atomic. `true` for each row
/// that is new. Only our key makes a duplicate: a row that violates another constraint is an error.
///
/// The rows are in write order and hold no event twice. They are told apart by their messages: a trigger may
/// change what an event is known by.
pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<Vec<bool>, sqlx::Error> {
    // Text arrays cast in the statement, because that takes any JSON text as it is.
    let statement = format!(
        "INSERT INTO events ({COLUMNS}, stored_at) \
         SELECT id, source, time, type, subject, datacontenttype, dataschema, data::jsonb, \
                data_bytes, extensions::jsonb, nats_subject, stream_seq, published_at, trace_id, \
                clock_timestamp() \
         FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], \
                     $7::text[], $8::text[], $9::bytea[], $10::text[], $11::text[], \
                     $12::bigint[], $13::timestamptz[], $14::text[], $15::text[]) AS new ({COLUMNS}, stream) \
         WHERE NOT EXISTS (SELECT FROM fates WHERE fates.stream_seq = new.stream_seq \
                           AND fates.published_at = new.published_at \
                           AND fates.stream = new.stream) \
         ON CONFLICT (id, source, time) DO NOTHING RETURNING stream_seq, published_at"
    );
    let inserted: Vec<(i64, Timestamp)> = sqlx::query_as(&statement)
        .bind(column(rows, |row| row.event.id.as_str()))
        .bind(column(rows, |row| row.event.source.as_str()))
        .bind(column(rows, |row| row.event.time))
        .bind(column(rows, |row| row.event.event_type.as_str()))
        .bind(column(rows, |row| row.event.subject.as_deref()))
        .bind(column(rows, |row| row.event.datacontenttype.as_deref()))
        .bind(column(rows, |row| row.event.dataschema.as_deref()))
        .bind(column(rows, json))
        .bind(column(rows, |row| {
            row.event.data.binary().map(Bytes::as_ref)
        }))
        .bind(column(rows, Row::extensions_json))
        .bind(column(rows, |row| row.nats_subject))
        .bind(column(rows, Row::stream_seq_i64))
        .bind(column(rows, |row| row.published_at))
        .bind(column(rows, |row| row.trace_id.to_string()))
        .bind(column(rows, |row| row.stream))
        .fetch_all(connection)
        .await?;
    let inserted: HashSet<(i64, Timestamp)> = inserted.into_iter().collect();
    Ok(column(rows, |row| inserted.contains(&row.message())))
}

pub(super) fn column<'a, T>(rows: &'a [Row<'a>], value: impl Fn(&Row<'a>) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

pub(super) fn json<'a>(row: &Row<'a>) -> Option<&'a str> {
    let text = row.event.data.json()?;
    Some(std::str::from_utf8(text).expect("the codec checked that JSON data is UTF-8"))
}
