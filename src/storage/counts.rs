//! How many events there are in each part of a range of time, by an attribute of theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::QueryBuilder;
use sqlx::postgres::{PgConnection, Postgres};

use super::deadline::{Deadline, LentConnection};
use super::layout::{Layout, before};
use super::queries::Reads;
use super::turn::{ReadError, begin, in_time, time_left};
use crate::event::Timestamp;

/// A range that takes too long is counted in so many parts.
const NARROWER: i64 = 8;

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
    /// Once there are more counts than this, the rest is left out.
    pub counts_max: usize,
}

/// Counts by the beginning of their bucket and the value of the attribute.
pub type EventCounts = BTreeMap<(Timestamp, Option<String>), i64>;

impl Reads {
    /// Counts events.
    ///
    /// # Errors
    /// When there is no time for it, or Postgres does not answer.
    pub async fn counts(&self, search: &CountSearch) -> Result<EventCounts, ReadError> {
        let turn = self.turn("counts of events").await?;
        let counts = self.read_until_it_stands(turn.deadline, |lent, layout| {
            all(lent, layout, search, turn.deadline)
        });
        counts.await?.ok_or(ReadError::TooMuch)
    }
}

/// Returns the counts, if there is time for them, and how many statements they took.
async fn all(
    mut lent: LentConnection,
    layout: Arc<Layout>,
    search: &CountSearch,
    deadline: Deadline,
) -> Result<(LentConnection, Option<EventCounts>, usize), sqlx::Error> {
    let mut counts = EventCounts::new();
    let mut to = before(search.to);
    let mut width = i64::MAX;
    let mut statements = 0;
    while search.from <= to {
        if time_left(deadline).is_zero() {
            return Ok((lent, None, statements));
        }
        let Some(part) = layout
            .part_up_to(to)
            .filter(|part| search.from <= part.last)
        else {
            break;
        };
        to = part.last;
        statements += 1;
        let narrow = Timestamp::from_micros(to.micros().saturating_sub(width));
        let from = part.first.max(search.from).max(narrow);
        let counted = range(
            &mut lent.connection,
            (from, to),
            search,
            deadline,
            part.default,
        );
        let Some(counted) = in_time(counted.await)? else {
            // A statement has little time in the default partition: it is read by more of them.
            if part.default.is_some() && from < to {
                width = (to.micros() - from.micros()) / NARROWER;
                continue;
            }
            return Ok((lent, None, statements));
        };
        for (bucket, value, count) in counted {
            *counts.entry((bucket, value)).or_default() += count;
        }
        if counts.len() > search.counts_max || from == Timestamp::MIN {
            break;
        }
        to = before(from);
    }
    Ok((lent, Some(counts), statements))
}

async fn range(
    connection: &mut PgConnection,
    (from, to): (Timestamp, Timestamp),
    search: &CountSearch,
    deadline: Deadline,
    default: Option<&str>,
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
    let mut transaction = begin(connection, deadline, time_left(deadline), default).await?;
    let counts = sql.build_query_as().persistent(false);
    let counts = counts.fetch_all(&mut *transaction).await;
    transaction.rollback().await?;
    counts
}
