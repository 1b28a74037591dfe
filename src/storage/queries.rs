//! Reads of `events`, a bounded number at a time, each with a deadline and on partitions that stand. Here are
//! those of one event; those whose length the caller chooses (`turn.rs`) stand in files of their own.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use tokio::sync::Semaphore;

use super::classify::sqlstate_in;
use super::columns::{bounded_json, bounded_text, columns, newest_first};
use super::deadline::{Deadline, LentConnection};
use super::keys;
use super::layout::{self, Layout, Span};
use super::place::ReadPlaces;
use super::read_access::ReadAccess;
use crate::config::PartitionInterval;
use crate::error::{Class, Code, Error};
use crate::event::{Data, Event, Timestamp};

/// A read takes no longer than this, waiting for a connection included.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(4);
/// Reads at the same time. Those of the API have so many connections of their own (pool.rs).
pub(super) const READS_AT_ONCE: u32 = 4;
/// Of these, searches, which can take seconds: the others never wait for them alone.
const SEARCHES_AT_ONCE: u32 = 2;
/// Of these, tails.
const TAILS_AT_ONCE: u32 = 1;
/// Further matches that are listed beside the one that is answered.
const ALTERNATES_MAX: usize = 50;
/// They are looked for in so many spans: 1,024 partitions.
const ALTERNATES_MAX_SPANS: usize = 16;

// $1 and $2 are a span: the planner leaves out the partitions that have no part in it.
macro_rules! in_span {
    () => {
        "($1::timestamptz IS NULL OR time >= $1) AND ($2::timestamptz IS NULL OR time <= $2) "
    };
}

const NEWEST: &str = concat!(
    columns!(),
    "WHERE subject = $3 AND ",
    in_span!(),
    "ORDER BY time DESC, stream_seq DESC LIMIT 1"
);
const BY_ID: &str = concat!(
    columns!(),
    "WHERE id = $3 AND ($4::text IS NULL OR source = $4) AND ",
    in_span!(),
    newest_first!(),
    "stream_seq DESC, source LIMIT 1"
);
const OTHERS_BY_ID: &str = concat!(
    "SELECT source, time FROM events \
     WHERE id = $3 AND ($4::text IS NULL OR source = $4) AND NOT (source = $5 AND time = $6) AND ",
    in_span!(),
    newest_first!(),
    "source LIMIT $7"
);

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
    access: ReadAccess,
    /// Of reads of one event.
    singles: ReadPlaces,
    pub(super) searches: ReadPlaces,
    pub(super) tails: ReadPlaces,
    /// The pipeline is behind.
    pub(super) writes_go_first: Arc<AtomicBool>,
    /// Which partitions there were after the last read.
    layout: Arc<ArcSwap<Layout>>,
    /// How far back the partitions reach in which a newest state is looked for first.
    recent: Duration,
}

impl Reads {
    /// Reads over this pool; `interval` is the time that one partition covers.
    pub fn new(pool: PgPool, interval: PartitionInterval) -> Self {
        Self::with_access(pool, interval, ReadAccess::default())
    }

    /// The same over the pool of the API's reads.
    pub(crate) fn with_access(
        pool: PgPool,
        interval: PartitionInterval,
        access: ReadAccess,
    ) -> Self {
        let writes_go_first = Arc::default();
        let connections = Arc::new(Semaphore::new(READS_AT_ONCE as usize));
        let places = |count| ReadPlaces::new(count, &connections, &writes_go_first);
        Self {
            pool,
            access,
            singles: places(READS_AT_ONCE),
            searches: places(SEARCHES_AT_ONCE),
            tails: places(TAILS_AT_ONCE),
            writes_go_first,
            layout: Arc::default(),
            recent: Duration::from_micros(interval.micros().cast_unsigned()),
        }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The same; `Err`: why none of its connections can be had.
    pub(crate) fn fit_pool(&self) -> Result<PgPool, String> {
        match self.access.refusal() {
            Some(why) if self.pool.num_idle() == 0 => Err(why.to_string()),
            _ => Ok(self.pool.clone()),
        }
    }

    /// The newest event of a subject by `time`, then by its place in the stream.
    ///
    /// # Errors
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn newest_of_subject(&self, subject: &str) -> Result<Option<StoredEvent>, Error> {
        let deadline = Deadline::new(READ_LIMIT, "newest event of a subject");
        let _place = deadline.wait_for(self.singles.take()).await?;
        let recent = Span::recent(self.recent);
        self.read_until_it_stands(deadline, |mut lent, layout| async move {
            // What is found in one is newer than all that is in those after it, whatever the clock says.
            for (met, span) in iter::once(recent).chain(layout.spans()).enumerate() {
                let found = span.query(NEWEST).bind(subject);
                let found = found.fetch_optional(&mut *lent.connection).await?;
                if found.is_some() {
                    return Ok((lent, found, met));
                }
            }
            let met = layout.spans().count();
            Ok((lent, None, met))
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
        let _place = deadline.wait_for(self.singles.take()).await?;
        self.read_until_it_stands(deadline, |mut lent, layout| async move {
            let spans: Vec<Span> = match key.time {
                Some(time) => vec![Span::at(time)],
                None => layout.spans().collect(),
            };
            let mut found: Option<StoredEvent> = None;
            let mut others = Vec::new();
            let mut met = 0;
            let mut last = spans.len();
            for (place, span) in spans.iter().enumerate() {
                if found.is_none() {
                    let newest = span.query(BY_ID).bind(key.id).bind(key.source);
                    found = newest.fetch_optional(&mut *lent.connection).await?;
                    last = last.min(place + ALTERNATES_MAX_SPANS);
                }
                if let Some(found) = &found {
                    let room = ALTERNATES_MAX - others.len();
                    let more = alternates(&mut lent.connection, *span, key, found, room);
                    others.extend(more.await?);
                }
                met = place + 1;
                if found.is_some() && (others.len() == ALTERNATES_MAX || met >= last) {
                    break;
                }
            }
            Ok((lent, found.map(|found| (found, others)), met))
        })
        .await
    }

    /// Whether each of these events has a row.
    ///
    /// # Errors
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn have_rows(&self, events: &[&Event]) -> Result<Vec<bool>, Error> {
        let deadline = Deadline::new(READ_LIMIT, "whether events have rows");
        self.read_until_it_stands(deadline, |mut lent, _| async move {
            let found = keys::find(&mut lent.connection, events).await?;
            Ok((lent, found.iter().map(Option::is_some).collect(), 1))
        })
        .await
    }

    /// The partitions as they were lately.
    async fn layout(&self, connection: &mut PgConnection) -> Result<Arc<Layout>, sqlx::Error> {
        let known = self.layout.load_full();
        if !known.is_unknown() {
            return Ok(known);
        }
        let layout = Arc::new(Layout::read(connection).await?);
        self.layout.store(layout.clone());
        Ok(layout)
    }

    /// Repeats a read whose partitions changed meanwhile: a statement that waits while rows move
    /// from the default partition to their own was planned without that one, and finds them in
    /// neither. Also repeats it on a new connection: after a restart of the server, the first
    /// statement on each pooled connection fails.
    pub(super) async fn read_until_it_stands<T, F>(
        &self,
        deadline: Deadline,
        read: impl Fn(LentConnection, Arc<Layout>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<(LentConnection, T, usize), sqlx::Error>>,
    {
        // Even where no connection is open: a layout of long ago may name what is gone.
        let mut repeats = self.pool.size().max(1);
        loop {
            let answer = deadline.run(async {
                let mut lent = self.access.lend(&self.pool).await?;
                let layout = self.layout(&mut lent.connection).await?;
                let (mut lent, found, spans) = read(lent, layout.clone()).await?;
                let (stands, started) = layout.stands_on(&mut lent.connection).await?;
                self.access.check(&started)?;
                if !stands {
                    let layout = Layout::read(&mut lent.connection).await?;
                    self.layout.store(Arc::new(layout));
                }
                if !layout::is_too_large(spans) {
                    lent.give_back();
                }
                Ok(stands.then_some(found))
            });
            match answer.await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) if repeats > 0 && is_worth_repeating(&error) => repeats -= 1,
                Err(error) if repeats > 0 && is_of_a_dropped_partition(&error) => {
                    repeats -= 1;
                    self.layout.store(Arc::default());
                }
                Err(error) => {
                    self.access.note(&error);
                    return Err(error);
                }
            }
        }
    }
}

/// The newest of the other events in a span that match.
async fn alternates(
    connection: &mut PgConnection,
    span: Span,
    key: &EventKey<'_>,
    found: &StoredEvent,
    at_most: usize,
) -> Result<Vec<Alternate>, sqlx::Error> {
    span.query(OTHERS_BY_ID)
        .bind(key.id)
        .bind(key.source)
        .bind(&found.event.source)
        .bind(found.event.time)
        .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
}

/// A broken connection, or a server that ended its sessions: the next connection may be whole.
fn is_worth_repeating(error: &Error) -> bool {
    error.class == Class::Transient && matches!(error.code, Code::Connection | Code::Unavailable)
}

/// A statement that finds a partition, and waits for it while it is dropped, fails: internal_error ("could not
/// open relation"), undefined_table.
fn is_of_a_dropped_partition(error: &Error) -> bool {
    matches!(sqlstate_in(&error.detail), Some("XX000" | "42P01"))
}

/// An event without its extensions and its data.
pub(super) fn attributes(row: &PgRow) -> Result<Event, sqlx::Error> {
    Ok(Event {
        id: text(row, "id")?,
        source: text(row, "source")?,
        event_type: text(row, "type")?,
        subject: row.try_get("subject")?,
        time: row.try_get("time")?,
        datacontenttype: row.try_get("datacontenttype")?,
        dataschema: row.try_get("dataschema")?,
        extensions: BTreeMap::new(),
        data: Data::None,
    })
}

/// Empty where it is NULL, which ganesh writes into none of these columns.
fn text(row: &PgRow, column: &str) -> Result<String, sqlx::Error> {
    row.try_get::<Option<_>, _>(column)
        .map(Option::unwrap_or_default)
}

/// The members of an object; values that are no strings, which ganesh does not write, as JSON.
fn extensions(row: &PgRow) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let json: Option<String> = row.try_get("extensions")?;
    if json.is_none() && row.try_get("has_extensions")? {
        return Err(too_large("its extension attributes are larger than 1 MiB"));
    }
    // Raw, as numbers may be larger than any type of ours.
    let members: Option<BTreeMap<String, &RawValue>> = json
        .as_deref()
        .and_then(|json| serde_json::from_str(json).ok());
    let text = |value: &RawValue| {
        serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
    };
    let members = members.unwrap_or_default().into_iter();
    Ok(members.map(|(name, value)| (name, text(value))).collect())
}

fn too_large(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{what}: read the row by SQL").into())
}

impl FromRow<'_, PgRow> for StoredEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        if row.try_get::<Option<bool>, _>("has_long_text")? == Some(true) {
            return Err(too_large("an attribute is larger than 64 KiB"));
        }
        let json: Option<String> = row.try_get("data")?;
        let bytes: Option<Vec<u8>> = row.try_get("data_bytes")?;
        let data = match (json, bytes) {
            (Some(json), _) => Data::Json(json.into()),
            (None, Some(bytes)) => Data::Binary(bytes.into()),
            (None, None) if row.try_get("has_data")? => {
                return Err(too_large("the data is larger than 16 MiB as JSON"));
            }
            (None, None) => Data::None,
        };
        let stream_seq: Option<i64> = row.try_get("stream_seq")?;
        Ok(Self {
            event: Event {
                extensions: extensions(row)?,
                data,
                ..attributes(row)?
            },
            stream_seq: u64::try_from(stream_seq.unwrap_or(0)).unwrap_or(0),
        })
    }
}

impl FromRow<'_, PgRow> for Alternate {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            source: text(row, "source")?,
            time: row.try_get("time")?,
        })
    }
}
