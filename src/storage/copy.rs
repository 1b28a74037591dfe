//! Stores rows by binary `COPY` (Postgres manual, "COPY", binary format).

use sqlx::postgres::PgConnection;

use super::clock::ServerClock;
use super::row::{COLUMNS, Row};
use super::timestamp::to_postgres;
use crate::event::Timestamp;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const COLUMN_COUNT: i16 = 15;
/// The version byte in front of every binary `jsonb`.
const JSONB_VERSION: u8 = 1;
/// Length that stands for NULL.
const NULL: i32 = -1;
/// A first guess for the buffer: keys, headers and lengths beside the data.
const ROW_OVERHEAD_BYTES: usize = 400;

/// Stores rows by `COPY`: all or, on an error, none. Commits, unless the caller began a transaction. Returns how
/// many are stored: fewer where a trigger skips some.
pub(super) async fn copy(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
    clock: &ServerClock,
) -> Result<u64, sqlx::Error> {
    // The trigger refuse_copy_of_decided reads the sequences.
    let sequences = || rows.iter().map(Row::stream_seq_i64);
    let (first, last) = (sequences().min(), sequences().max());
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    let statement = format!(
        "COPY events ({COLUMNS}, stored_at) FROM STDIN (FORMAT binary) /* {first} to {last} */"
    );
    let clock = clock.read(connection).await?;
    let mut copy = connection.copy_in_raw(&statement).await?;
    // The time is taken now: the server may have waited long for its lock on the table.
    copy.send(encode(rows, clock.now())).await?;
    copy.finish().await
}

pub(crate) fn encode(rows: &[Row<'_>], stored_at: Timestamp) -> Vec<u8> {
    let data_bytes: usize = rows.iter().map(|row| row.event.data.len()).sum();
    let mut buffer = Vec::with_capacity(data_bytes + rows.len() * ROW_OVERHEAD_BYTES);
    buffer.extend_from_slice(SIGNATURE);
    put_i32(&mut buffer, 0); // flags
    put_i32(&mut buffer, 0); // length of the header extension
    for row in rows {
        encode_row(&mut buffer, row, stored_at);
    }
    buffer.extend_from_slice(&(-1i16).to_be_bytes()); // trailer
    buffer
}

fn encode_row(buffer: &mut Vec<u8>, row: &Row<'_>, stored_at: Timestamp) {
    let event = row.event;
    buffer.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
    put_bytes(buffer, event.id.as_bytes());
    put_bytes(buffer, event.source.as_bytes());
    put_timestamp(buffer, event.time);
    put_bytes(buffer, event.event_type.as_bytes());
    for text in [&event.subject, &event.datacontenttype, &event.dataschema] {
        put_optional(buffer, text.as_ref(), put_bytes);
    }
    put_optional(buffer, event.data.json(), put_jsonb);
    put_optional(buffer, event.data.binary(), put_bytes);
    put_optional(buffer, row.extensions_json(), put_jsonb);
    put_bytes(buffer, row.nats_subject.as_bytes());
    put_i32(buffer, 8);
    buffer.extend_from_slice(&row.stream_seq_i64().to_be_bytes());
    put_timestamp(buffer, row.published_at);
    put_bytes(buffer, row.trace_id.to_string().as_bytes());
    put_timestamp(buffer, stored_at);
}

fn put_i32(buffer: &mut Vec<u8>, value: i32) {
    buffer.extend_from_slice(&value.to_be_bytes());
}

fn put_length(buffer: &mut Vec<u8>, length: usize) {
    // A batch is bounded far below this; Postgres refuses what passes 1 GiB.
    put_i32(buffer, i32::try_from(length).unwrap_or(i32::MAX));
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_length(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

fn put_optional<T: AsRef<[u8]>>(
    buffer: &mut Vec<u8>,
    value: Option<T>,
    put: fn(&mut Vec<u8>, &[u8]),
) {
    match value {
        Some(value) => put(buffer, value.as_ref()),
        None => put_i32(buffer, NULL),
    }
}

fn put_jsonb(buffer: &mut Vec<u8>, text: &[u8]) {
    put_length(buffer, text.len() + 1);
    buffer.push(JSONB_VERSION);
    buffer.extend_from_slice(text);
}

fn put_timestamp(buffer: &mut Vec<u8>, time: Timestamp) {
    put_i32(buffer, 8);
    buffer.extend_from_slice(&to_postgres(time).to_be_bytes());
}
