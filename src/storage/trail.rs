//! What Postgres has of one message: its row, found by whatever is known of it, and its fate.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use utoipa::ToSchema;

use super::columns::newest_first;
use super::deadline::{Deadline, LentConnection};
use super::layout::{Layout, Span};
use crate::error::{Code, Error};
use crate::event::Timestamp;
use crate::text;

/// For an answer that an index gives.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Rows that are named, at most.
const ROWS_MAX: usize = 11;
/// Partitions may be made while they are read.
const ATTEMPTS_MAX: usize = 3;

macro_rules! statement {
    ($condition:literal) => {
        statement!($condition, "ORDER BY time DESC, ")
    };
    ($condition:literal, $order:expr) => {
        concat!(
            "SELECT tableoid::regclass::text AS partition, left(id, 1024) AS id, \
                    left(source, 1024) AS source, time, left(type, 1024) AS type, \
                    left(subject, 1024) AS subject, left(nats_subject, 4096) AS nats_subject, \
                    stream_seq, published_at, stored_at, left(trace_id, 64) AS trace_id \
             FROM events WHERE ",
            $condition,
            " AND ($1::timestamptz IS NULL OR time >= $1) AND ($2::timestamptz IS NULL OR time <= $2) ",
            $order,
            "stream_seq DESC LIMIT $5"
        )
    };
}

const BY_ID: &str = statement!(
    "id = $3::text AND ($4::text IS NULL OR source = $4)",
    newest_first!()
);
const BY_SUBJECT: &str = statement!("subject = $3::text AND $4::text IS NULL");
const BY_SEQUENCE: &str = statement!("stream_seq = $3::text::bigint AND $4::text IS NULL");
const BY_TRACE: &str = statement!("trace_id = $3::text AND $4::text IS NULL");
const FATE: &str = "\
    SELECT fate, left(detail, 1024) AS detail, decided_at, published_at FROM fates \
    WHERE stream_seq = $1 AND ($2::timestamptz IS NULL OR published_at = $2) AND stream = $3 \
    ORDER BY published_at DESC LIMIT 1";

/// Triggers that can leave a row out: for each row, before an insert, of `events` or a partition.
const SKIPPING: &str = "\
    SELECT DISTINCT left(tgname::text, 64) FROM pg_trigger \
    WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 7 = 7 \
    AND (tgrelid = 'events'::regclass \
         OR tgrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)) \
    ORDER BY 1 LIMIT 10";

/// A row of `events`, without its data.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EventRow {
    pub(crate) partition: String,
    pub(crate) id: String,
    pub(crate) source: String,
    #[serde(serialize_with = "text::as_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) time: Timestamp,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) subject: Option<String>,
    pub(crate) nats_subject: String,
    stream_seq: i64,
    #[serde(serialize_with = "text::as_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) published_at: Timestamp,
    #[serde(serialize_with = "text::as_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) stored_at: Timestamp,
    pub(crate) trace_id: String,
}

impl EventRow {
    /// Of the message that made it.
    pub fn sequence(&self) -> u64 {
        self.stream_seq.max(0).cast_unsigned()
    }
}

/// How a message ends that has no row, as the table `fates` has it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FateRow {
    pub(crate) fate: String,
    pub(crate) detail: String,
    #[serde(serialize_with = "text::as_text")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) decided_at: Timestamp,
    #[serde(skip)]
    pub(crate) published_at: Timestamp,
}

/// Which row is wanted.
#[derive(Debug, Clone, Copy)]
pub enum RowSearch<'a> {
    /// By the key, or its beginning: the newest first.
    #[expect(missing_docs, reason = "the attributes have the same names")]
    Id {
        id: &'a str,
        source: Option<&'a str>,
        time: Option<Timestamp>,
    },
    /// The newest of a subject.
    Subject(&'a str),
    /// No index has it: partitions are read, the newest first.
    Sequence(u64),
    /// No index has it either.
    Trace(&'a str),
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct FoundRows {
    /// The newest first, a few.
    pub rows: Vec<EventRow>,
    /// Every partition that can hold one was looked into, as far as needed.
    pub is_complete: bool,
    /// Where it is not: from this time on they were.
    pub(crate) searched_from: Option<Timestamp>,
}

/// Looks for rows, for so long at most.
///
/// # Errors
/// When Postgres does not answer, or with an error.
pub async fn rows(
    pool: &PgPool,
    wanted: &RowSearch<'_>,
    limit: Duration,
) -> Result<FoundRows, Error> {
    let mut found = FoundRows::default();
    let deadline = Deadline::new(limit, "search for a row");
    let is_scan = matches!(wanted, RowSearch::Sequence(_) | RowSearch::Trace(_));
    match deadline.run(search(pool, wanted, &mut found)).await {
        Ok(()) => Ok(found),
        // A scan that takes too long has still looked into what it has.
        Err(error) if is_scan && error.code == Code::Timeout && found.searched_from.is_some() => {
            Ok(found)
        }
        Err(error) => Err(error),
    }
}

async fn search(
    pool: &PgPool,
    wanted: &RowSearch<'_>,
    found: &mut FoundRows,
) -> Result<(), sqlx::Error> {
    let mut lent = LentConnection::of(pool).await?;
    for _ in 0..ATTEMPTS_MAX {
        *found = FoundRows::default();
        let layout = Layout::read(&mut lent.connection).await?;
        let spans: Vec<Span> = match wanted {
            RowSearch::Id {
                time: Some(time), ..
            } => vec![Span::at(*time)],
            RowSearch::Sequence(_) | RowSearch::Trace(_) => layout.narrow_spans().collect(),
            _ => layout.spans().collect(),
        };
        for span in spans {
            let room = i64::try_from(ROWS_MAX - found.rows.len()).expect("a few");
            let (statement, first, second) = wanted.statement();
            let rows: Vec<EventRow> = span
                .query(statement)
                .bind(first)
                .bind(second)
                .bind(room)
                .fetch_all(&mut *lent.connection)
                .await?;
            found.rows.extend(rows);
            found.searched_from = span.start();
            let is_enough = match wanted {
                RowSearch::Id { .. } => found.rows.len() == ROWS_MAX,
                _ => !found.rows.is_empty(),
            };
            if is_enough {
                break;
            }
        }
        if layout.stands(&mut lent.connection).await? {
            found.is_complete = true;
            break;
        }
    }
    // A search leaves memory of each partition in its session: that one is not given back.
    Ok(())
}

impl<'a> RowSearch<'a> {
    fn statement(&self) -> (&'static str, String, Option<&'a str>) {
        match *self {
            Self::Id { id, source, .. } => (BY_ID, id.to_owned(), source),
            Self::Subject(subject) => (BY_SUBJECT, subject.to_owned(), None),
            Self::Sequence(sequence) => {
                let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
                (BY_SEQUENCE, sequence.to_string(), None)
            }
            Self::Trace(id) => (BY_TRACE, id.to_owned(), None),
        }
    }
}

/// The names of the triggers that can leave a row out.
///
/// # Errors
/// When Postgres does not answer, or with an error.
pub(crate) async fn skipping_triggers(pool: &PgPool) -> Result<Vec<String>, Error> {
    let ask = async {
        let mut lent = LentConnection::of(pool).await?;
        let names = sqlx::query_scalar(SKIPPING)
            .persistent(false)
            .fetch_all(&mut *lent.connection)
            .await?;
        lent.give_back();
        Ok(names)
    };
    let deadline = Deadline::new(ANSWER_LIMIT, "triggers of events");
    deadline.run(ask).await
}

/// The fate of a message, if it has one that is not forgotten.
///
/// # Errors
/// When Postgres does not answer, or with an error.
pub(crate) async fn fate(
    pool: &PgPool,
    stream: &str,
    sequence: u64,
    published_at: Option<Timestamp>,
) -> Result<Option<FateRow>, Error> {
    let ask = async {
        let mut lent = LentConnection::of(pool).await?;
        let fate = sqlx::query_as(FATE)
            .bind(i64::try_from(sequence).unwrap_or(i64::MAX))
            .bind(published_at)
            .bind(stream)
            .persistent(false)
            .fetch_optional(&mut *lent.connection)
            .await?;
        lent.give_back();
        Ok(fate)
    };
    let deadline = Deadline::new(ANSWER_LIMIT, "fate of a message");
    deadline.run(ask).await
}

impl FromRow<'_, PgRow> for EventRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            partition: row.try_get("partition")?,
            id: row.try_get("id")?,
            source: row.try_get("source")?,
            time: row.try_get("time")?,
            event_type: row.try_get("type")?,
            subject: row.try_get("subject")?,
            nats_subject: row.try_get("nats_subject")?,
            stream_seq: row.try_get("stream_seq")?,
            published_at: row.try_get("published_at")?,
            stored_at: row.try_get("stored_at")?,
            trace_id: row.try_get("trace_id")?,
        })
    }
}

impl FromRow<'_, PgRow> for FateRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            fate: row.try_get("fate")?,
            detail: row.try_get("detail")?,
            decided_at: row.try_get("decided_at")?,
            published_at: row.try_get("published_at")?,
        })
    }
}
