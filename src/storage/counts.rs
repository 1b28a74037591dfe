//! How many events there are in each part of a range of time, by an attribute of theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{Connection, QueryBuilder};

use super::deadline::{Deadline, LentConnection};
use super::layout::Layout;
use super::queries::{READ_LIMIT, Reads};
use super::subjects::BEGIN;
use crate::error::Error;
use crate::event::Timestamp;

/// What events are counted by, beside their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes have the same names")]
pub enum CountBy {
    Type,
    Source,
    Subject,
}

/// Which counts are asked for.
#[derive(Debug, Clone, Copy)]
pub struct CountSearch {
    /// The earliest time.
    pub from: Timestamp,
    /// The first time that is too late.
    pub to: Timestamp,
    /// Microseconds of a bucket; each begins at a multiple of it since 1970.
    pub bucket_micros: i64,
    /// `None` counts all of a bucket together.
    pub by: Option<CountBy>,
    /// More counts than this are not answered.
    pub counts_max: usize,
}

/// Counts by the beginning of their bucket and the value of the attribute.
pub type EventCounts = BTreeMap<(Timestamp, Option<String>), i64>;

impl Reads {
    /// Counts events. `None`: there are more counts than asked for at most.
    ///
    /// # Errors
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn counts(&self, search: &CountSearch) -> Result<Option<EventCounts>, Error> {
        let deadline = Deadline::new(READ_LIMIT, "counts of events");
        let _turn = deadline.wait_for(self.searches.acquire()).await?;
        let _permit = deadline.wait_for(self.permits.acquire()).await?;
        self.read_until_it_stands(deadline, |lent, layout| all(lent, layout, search))
            .await
    }
}

/// Returns the counts, and how many statements they took: each meets few partitions.
async fn all(
    mut lent: LentConnection,
    layout: Arc<Layout>,
    search: &CountSearch,
) -> Result<(LentConnection, Option<EventCounts>, usize), sqlx::Error> {
    let mut counts = EventCounts::new();
    let mut to = Timestamp::from_micros(search.to.micros() - 1);
    let mut spans = 0;
    while search.from <= to {
        spans += 1;
        let from = layout.reach(to).max(search.from);
        for (bucket, value, count) in part(&mut lent.connection, from, to, search).await? {
            *counts.entry((bucket, value)).or_default() += count;
        }
        if counts.len() > search.counts_max {
            return Ok((lent, None, spans));
        }
        if from == Timestamp::MIN {
            break;
        }
        to = Timestamp::from_micros(from.micros() - 1);
    }
    Ok((lent, Some(counts), spans))
}

async fn part(
    connection: &mut PgConnection,
    from: Timestamp,
    to: Timestamp,
    search: &CountSearch,
) -> Result<Vec<(Timestamp, Option<String>, i64)>, sqlx::Error> {
    let value = match search.by {
        Some(CountBy::Type) => "type",
        Some(CountBy::Source) => "source",
        Some(CountBy::Subject) => "subject",
        None => "NULL::text",
    };
    let mut sql: QueryBuilder<'_, Postgres> = QueryBuilder::new("SELECT date_bin(");
    sql.push_bind(search.bucket_micros)
        .push(" * interval '1 microsecond', time, 'epoch') AS bucket, ")
        // Of another writer's row it may be of any length.
        .push("left(value, 1024), count(*) FROM (SELECT time, ")
        .push(value)
        .push(" AS value FROM events WHERE time >= ")
        .push_bind(from)
        .push(" AND time <= ")
        .push_bind(to)
        .push(") AS event GROUP BY bucket, value LIMIT ")
        .push_bind(i64::try_from(search.counts_max + 1).unwrap_or(i64::MAX));
    let mut transaction = connection.begin_with(BEGIN).await?;
    let counts = sql.build_query_as().persistent(false);
    let counts = counts.fetch_all(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(counts)
}
