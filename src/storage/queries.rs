//! Reads of `events`, as the API and the cache need them. Every statement that reads the table
//! for them stands here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::deadline::{Deadline, LentConnection};
use crate::config::PartitionInterval;
use crate::error::{Class, Code, Error};
use crate::event::{Data, Event, Timestamp};

/// A read takes no longer than this, waiting for a connection included.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(4);
/// Reads at the same time: fewer than the pool has beside the writers' connections, so that
/// readers never keep ingestion or the epoch from theirs.
const READS_AT_ONCE: usize = 4;
/// Further matches that are listed beside the one that is answered.
const ALTERNATES_MAX: i64 = 50;

macro_rules! columns {
    () => {
        "SELECT id, source, time, type, subject, datacontenttype, dataschema, \
         data::text AS data, data_bytes, extensions::text AS extensions, stream_seq \
         FROM events "
    };
}

const NEWEST_SINCE: &str = concat!(
    columns!(),
    "WHERE subject = $1 AND time >= $2 ORDER BY time DESC, stream_seq DESC LIMIT 1"
);
const NEWEST: &str = concat!(
    columns!(),
    "WHERE subject = $1 ORDER BY time DESC, stream_seq DESC LIMIT 1"
);
const BY_ID: &str = concat!(
    columns!(),
    "WHERE id = $1 AND ($2::text IS NULL OR source = $2) \
     AND ($3::timestamptz IS NULL OR time = $3) \
     ORDER BY time DESC, stream_seq DESC, source LIMIT 1"
);
const OTHERS_BY_ID: &str = "\
    SELECT source, time FROM events \
    WHERE id = $1 AND ($2::text IS NULL OR source = $2) AND NOT (source = $3 AND time = $4) \
    ORDER BY time DESC, source LIMIT $5";

const HAS_EVENT: &str =
    "SELECT EXISTS (SELECT 1 FROM events WHERE id = $1 AND source = $2 AND time = $3)";

/// Which partitions there are: another number, where they are others.
const PARTITIONS: &str = "SELECT coalesce(sum(inhrelid::bigint), 0)::bigint FROM pg_inherits \
    WHERE inhparent = 'events'::regclass";

/// An event as its row holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The event.
    pub event: Event,
    /// The sequence in the stream; with `time` it orders the states of a subject.
    pub(crate) stream_seq: u64,
}

/// Which event is asked for. Without `source` and `time` several can match.
#[derive(Debug, Clone, Copy)]
pub struct EventKey<'a> {
    /// The attribute `id`.
    pub id: &'a str,
    /// The attribute `source`; `None` is any.
    pub source: Option<&'a str>,
    /// The attribute `time`; `None` is the newest.
    pub time: Option<Timestamp>,
}

/// Another event that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternate {
    pub(crate) source: String,
    pub(crate) time: Timestamp,
}

/// Reads of `events`, a bounded number at a time. Cloning clones handles.
#[derive(Clone)]
pub struct Reads {
    pool: PgPool,
    permits: Arc<Semaphore>,
    /// Which partitions there were after the last read: [`PARTITIONS`].
    partitions: Arc<AtomicI64>,
    /// How far back the partitions reach in which a newest state is looked for first.
    recent: Duration,
}

impl Reads {
    /// Reads over this pool; `interval` is the time that one partition covers.
    pub fn new(pool: PgPool, interval: PartitionInterval) -> Self {
        let recent = match interval {
            PartitionInterval::Hour => Duration::from_hours(1),
            PartitionInterval::Day => Duration::from_hours(24),
        };
        Self {
            pool,
            permits: Arc::new(Semaphore::new(READS_AT_ONCE)),
            partitions: Arc::default(),
            recent,
        }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The newest event of a subject by `time`, then by its place in the stream.
    ///
    /// # Errors
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn newest_of_subject(&self, subject: &str) -> Result<Option<StoredEvent>, Error> {
        let deadline = Deadline::new(READ_LIMIT, "newest event of a subject");
        let _permit = self.permit(deadline).await?;
        let since = OffsetDateTime::now_utc() - self.recent;
        self.read_until_it_stands(|| async {
            let mut connection = deadline.connection(&self.pool).await?;
            let found = newest(&mut connection, subject, since, deadline).await?;
            Ok((found, partitions(&mut connection, deadline).await?))
        })
        .await
    }

    /// The newest event that matches, and the others (the newest of them, if there are many).
    ///
    /// # Errors
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn event_by_id(
        &self,
        key: &EventKey<'_>,
    ) -> Result<Option<(StoredEvent, Vec<Alternate>)>, Error> {
        let deadline = Deadline::new(READ_LIMIT, "event by id");
        let _permit = self.permit(deadline).await?;
        self.read_until_it_stands(|| async {
            let mut connection = deadline.connection(&self.pool).await?;
            let found = by_id(&mut connection, key, deadline).await?;
            Ok((found, partitions(&mut connection, deadline).await?))
        })
        .await
    }

    /// Whether an event has a row.
    ///
    /// # Errors
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn has_event(&self, event: &Event) -> Result<bool, Error> {
        let deadline = Deadline::new(READ_LIMIT, "whether an event has a row");
        self.read_until_it_stands(|| async {
            let mut connection = deadline.connection(&self.pool).await?;
            let found = has_row(&mut connection, event, deadline).await?;
            Ok((found, partitions(&mut connection, deadline).await?))
        })
        .await
    }

    /// Repeats a read whose partitions changed meanwhile: a statement that waits while rows move
    /// from the default partition to their own was planned without that one, and finds them in
    /// neither. Also repeats it on a new connection: after a restart of the server, the first
    /// statement on each pooled connection fails. The read's own [`Deadline`] ends it.
    async fn read_until_it_stands<T, F>(&self, read: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<(T, i64), Error>>,
    {
        let mut repeats = self.pool.size();
        loop {
            let known = self.partitions.load(Ordering::Relaxed);
            match read().await {
                Ok((answer, partitions)) => {
                    self.partitions.store(partitions, Ordering::Relaxed);
                    if partitions == known {
                        return Ok(answer);
                    }
                }
                Err(error) if repeats > 0 && is_worth_repeating(&error) => repeats -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn permit(&self, deadline: Deadline) -> Result<SemaphorePermit<'_>, Error> {
        match deadline.apply(self.permits.acquire()).await {
            Ok(permit) => Ok(permit.expect("nobody closes this semaphore")),
            Err(_) => Err(deadline.passed()),
        }
    }
}

async fn newest(
    connection: &mut LentConnection,
    subject: &str,
    since: OffsetDateTime,
    deadline: Deadline,
) -> Result<Option<StoredEvent>, Error> {
    // Not persistent, here and below: the plan then knows the values, and touches and locks
    // only the partitions that can hold them.
    let recent = sqlx::query_as(NEWEST_SINCE)
        .bind(subject)
        .bind(since)
        .persistent(false)
        .fetch_optional(&mut **connection);
    let recent = deadline.apply(recent).await;
    // What is found since then is newer than all that was before, whatever the clock says.
    if let Some(found) = deadline.answer(connection, recent)? {
        return Ok(Some(found));
    }
    let ever = sqlx::query_as(NEWEST)
        .bind(subject)
        .persistent(false)
        .fetch_optional(&mut **connection);
    let ever = deadline.apply(ever).await;
    deadline.answer(connection, ever)
}

async fn by_id(
    connection: &mut LentConnection,
    key: &EventKey<'_>,
    deadline: Deadline,
) -> Result<Option<(StoredEvent, Vec<Alternate>)>, Error> {
    let found = sqlx::query_as(BY_ID)
        .bind(key.id)
        .bind(key.source)
        .bind(key.time.map(to_sql))
        .persistent(false)
        .fetch_optional(&mut **connection);
    let found = deadline.apply(found).await;
    let Some(found) = deadline.answer::<Option<StoredEvent>>(connection, found)? else {
        return Ok(None);
    };
    let others = sqlx::query_as(OTHERS_BY_ID)
        .bind(key.id)
        .bind(key.source)
        .bind(&found.event.source)
        .bind(to_sql(found.event.time))
        .bind(ALTERNATES_MAX)
        .persistent(false)
        .fetch_all(&mut **connection);
    let others = deadline.apply(others).await;
    let others = deadline.answer(connection, others)?;
    Ok(Some((found, others)))
}

async fn has_row(
    connection: &mut LentConnection,
    event: &Event,
    deadline: Deadline,
) -> Result<bool, Error> {
    let found = sqlx::query_scalar(HAS_EVENT)
        .bind(&event.id)
        .bind(&event.source)
        .bind(to_sql(event.time))
        .persistent(false)
        .fetch_one(&mut **connection);
    let found = deadline.apply(found).await;
    deadline.answer(connection, found)
}

/// Which partitions there are now.
async fn partitions(connection: &mut LentConnection, deadline: Deadline) -> Result<i64, Error> {
    let partitions = sqlx::query_scalar(PARTITIONS).fetch_one(&mut **connection);
    let partitions = deadline.apply(partitions).await;
    deadline.answer(connection, partitions)
}

/// A broken connection, or a server that ended its sessions: the next connection may be whole.
fn is_worth_repeating(error: &Error) -> bool {
    error.class == Class::Transient && matches!(error.code, Code::Connection | Code::Unavailable)
}

fn to_sql(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.micros()) * 1_000)
        .expect("a Timestamp lies in the years 0001 to 9999")
}

fn from_sql(time: OffsetDateTime) -> Timestamp {
    Timestamp::from_nanos(time.unix_timestamp_nanos())
}

impl FromRow<'_, PgRow> for StoredEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let json: Option<String> = row.try_get("data")?;
        let bytes: Option<Vec<u8>> = row.try_get("data_bytes")?;
        let data = match (json, bytes) {
            (Some(json), _) => Data::Json(json.into()),
            (None, Some(bytes)) => Data::Binary(bytes.into()),
            (None, None) => Data::None,
        };
        let extensions: Option<String> = row.try_get("extensions")?;
        let extensions = extensions
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| sqlx::Error::Decode(error.into()))?
            .unwrap_or_default();
        let stream_seq: i64 = row.try_get("stream_seq")?;
        Ok(Self {
            event: Event {
                id: row.try_get("id")?,
                source: row.try_get("source")?,
                event_type: row.try_get("type")?,
                subject: row.try_get("subject")?,
                time: from_sql(row.try_get("time")?),
                datacontenttype: row.try_get("datacontenttype")?,
                dataschema: row.try_get("dataschema")?,
                extensions,
                data,
            },
            stream_seq: u64::try_from(stream_seq).unwrap_or(0),
        })
    }
}

impl FromRow<'_, PgRow> for Alternate {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            source: row.try_get("source")?,
            time: from_sql(row.try_get("time")?),
        })
    }
}
