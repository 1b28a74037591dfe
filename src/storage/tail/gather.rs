//! A page, gathered from its parts.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{QueryBuilder, Row};

use super::clock::number;
use super::walk::{Scope, ScopeRows};
use super::{TailKey, TailPosition, TailReader};
use crate::event::to_json;
use crate::storage::columns::{bounded_json, bounded_text, columns};
use crate::storage::layout::Part;
use crate::storage::search::{EventFilter, event_of, stored_before};
use crate::storage::turn::{begin, is_too_long, time_left};

/// The server ends a statement after this time; one that reads the default partition earlier.
const STATEMENT_LIMIT: Duration = Duration::from_millis(800);
/// A page ends with the event that brings it to one of these. An event has 16 MiB at most.
pub(super) const PAGE_MAX_EVENTS: usize = 500;
pub(super) const PAGE_MAX_BYTES: usize = 1_024 * 1_024;

const COLUMNS: &str = columns!("stored_in::text AS stored_in, ");
// By the columns of the table: those of the answer are bounded.
const BY_TRANSACTION: &str =
    " ORDER BY events.stored_in, events.time, events.source, events.id LIMIT ";
const BY_TIME: &str = " ORDER BY events.time, events.source, events.id LIMIT ";

impl TailReader<'_> {
    /// Adds what a part has.
    pub(super) async fn gather(
        &mut self,
        gathered: &mut Gathered,
        part: &Part<'_>,
        scope: Scope,
        position: &TailPosition,
    ) -> Result<PartEnd, sqlx::Error> {
        let limit = STATEMENT_LIMIT.min(time_left(self.deadline));
        let late = if limit < STATEMENT_LIMIT {
            PartEnd::NoTime
        } else {
            PartEnd::Late
        };
        if limit.is_zero() {
            return Ok(late);
        }
        let mut found = PartEvents::default();
        let last = gathered.last.as_ref();
        let read = self.read((part, scope, limit), (position, last), &mut found);
        let end = match read.await {
            Ok(end) => end,
            Err(error) if is_too_long(&error) => return Ok(late),
            Err(error) => return Err(error),
        };
        gathered.add(found, scope.rows_max);
        Ok(end)
    }

    /// Reads what comes after the position and not after the key.
    async fn read(
        &mut self,
        (part, scope, limit): (&Part<'_>, Scope, Duration),
        (position, last): (&TailPosition, Option<&TailKey>),
        found: &mut PartEvents,
    ) -> Result<PartEnd, sqlx::Error> {
        let connection = &mut self.lent.connection;
        let mut transaction = begin(connection, self.deadline, limit, part.default).await?;
        let mut sql = select(self.filter, part, scope);
        if let Some(key) = position.key() {
            push_bound(&mut sql, ">", key, scope);
        }
        if let Some(key) = last {
            push_bound(&mut sql, "<=", key, scope);
        }
        let order = match scope.rows {
            ScopeRows::Marked => BY_TRANSACTION,
            ScopeRows::OfOne | ScopeRows::Older => BY_TIME,
        };
        sql.push(order).push(scope.rows_max);
        {
            let mut rows = sql.build().persistent(false).fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await? {
                let (key, json) = event(&row, scope)?;
                found.bytes += json.len();
                found.events.push((key, json));
                if found.is_large() && found.events.len() < scope.rows_max {
                    return Ok(PartEnd::Large(found.events.len()));
                }
            }
        }
        transaction.rollback().await?;
        Ok(PartEnd::Read)
    }
}

/// How a part ended.
pub(super) enum PartEnd {
    Read,
    /// So many events fill the page. The server has more to send: the connection has to be closed.
    Large(usize),
    /// The server ended the statement.
    Late,
    /// It did so because the page's own time was over.
    NoTime,
}

/// What a part has, in order.
#[derive(Debug, Clone, Default)]
struct PartEvents {
    events: Vec<(TailKey, Bytes)>,
    bytes: usize,
}

impl PartEvents {
    fn is_large(&self) -> bool {
        self.bytes >= PAGE_MAX_BYTES
    }

    /// Whether there can be more of them, where so many were asked for.
    fn is_full(&self, rows_max: usize) -> bool {
        self.is_large() || self.events.len() >= rows_max
    }
}

/// The first events of some parts.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathered {
    pub(super) events: Vec<(TailKey, Bytes)>,
    /// The last one that the page can have: of what comes after it, not all is known.
    pub(super) last: Option<TailKey>,
}

impl Gathered {
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(|(_, json)| json.len()).sum()
    }

    /// Adds those of a part, of which none is after `last`; so many were asked for.
    fn add(&mut self, found: PartEvents, rows_max: usize) {
        if found.is_full(rows_max) {
            self.last = found.events.last().map(|(key, _)| key.clone());
        }
        self.events.extend(found.events);
        self.events
            .sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if let Some(last) = &self.last {
            let kept = self.events.partition_point(|(key, _)| key <= last);
            self.events.truncate(kept);
        }
        let mut bytes = 0;
        let first = self.events.iter().take(PAGE_MAX_EVENTS);
        let kept = first.take_while(|(_, json)| {
            let has_room = bytes < PAGE_MAX_BYTES;
            bytes += json.len();
            has_room
        });
        let kept = kept.count();
        if kept < self.events.len() {
            self.events.truncate(kept);
            self.last = self.events.last().map(|(key, _)| key.clone());
        }
    }
}

/// What some transactions stored, in a part.
fn select<'a>(
    filter: &'a EventFilter,
    part: &Part<'_>,
    scope: Scope,
) -> QueryBuilder<'a, Postgres> {
    let mut sql = QueryBuilder::new(COLUMNS);
    // An alias: all have the same columns under the same names.
    sql.push(part.default.unwrap_or("events"));
    // Rows that ganesh did not write may have longer keys.
    sql.push(
        " AS events WHERE octet_length(id) <= 1024 AND octet_length(source) <= 1024 AND time >= ",
    )
    .push_bind(part.first)
    .push(" AND time <= ")
    .push_bind(part.last);
    let Scope { from, to, .. } = scope;
    sql.push(match scope.rows {
        ScopeRows::Marked => format!(" AND stored_in >= '{from}' AND stored_in < '{to}'"),
        // No index serves this: the one on time does.
        ScopeRows::OfOne => format!(" AND stored_in IS NOT DISTINCT FROM '{from}'::xid8"),
        ScopeRows::Older => stored_before(to),
    });
    filter.push(&mut sql);
    sql
}

fn push_bound<'a>(
    sql: &mut QueryBuilder<'a, Postgres>,
    comparison: &str,
    key: &'a TailKey,
    scope: Scope,
) {
    let transaction = key.stored_in;
    sql.push(match scope.rows {
        ScopeRows::Marked => {
            format!(" AND (stored_in, time, source, id) {comparison} ('{transaction}'::xid8, ")
        }
        ScopeRows::OfOne | ScopeRows::Older => format!(" AND (time, source, id) {comparison} ("),
    });
    sql.push_bind(key.time).push(", ");
    sql.push_bind(key.source.as_str()).push(", ");
    sql.push_bind(key.id.as_str()).push(")");
}

fn event(row: &PgRow, scope: Scope) -> Result<(TailKey, Bytes), sqlx::Error> {
    let event = event_of(row)?;
    let json = to_json(&event);
    let stored_in = match scope.rows {
        ScopeRows::Marked => number(row.try_get("stored_in")?)?,
        ScopeRows::OfOne | ScopeRows::Older => scope.from,
    };
    let key = TailKey {
        stored_in,
        time: event.time,
        source: event.source,
        id: event.id,
    };
    Ok((key, json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timestamp;

    /// One event of each of these transactions.
    fn found(transactions: impl IntoIterator<Item = u64>, bytes: usize) -> PartEvents {
        let events = transactions.into_iter().map(|stored_in| {
            let key = TailKey {
                stored_in,
                time: Timestamp::MIN,
                source: String::new(),
                id: String::new(),
            };
            (key, Bytes::from(vec![b'x'; bytes]))
        });
        let events: Vec<_> = events.collect();
        let bytes = events.len() * bytes;
        PartEvents { events, bytes }
    }

    fn gathered(parts: [PartEvents; 2]) -> (Vec<u64>, Option<u64>) {
        let mut gathered = Gathered::default();
        for found in parts {
            gathered.add(found, PAGE_MAX_EVENTS);
        }
        let transactions = gathered.events.iter().map(|(key, _)| key.stored_in);
        let last = gathered.last.as_ref().map(|key| key.stored_in);
        (transactions.collect(), last)
    }

    #[test]
    fn a_page_ends_where_not_all_parts_are_known() {
        let few = || found([1, 5, 2_000], 1);
        assert_eq!(
            gathered([few(), found([2, 3_000], 1)]),
            (vec![1, 2, 5, 2_000, 3_000], None)
        );
        let large = || found([0, 4], PAGE_MAX_BYTES / 2);
        for parts in [[few(), large()], [large(), few()]] {
            assert_eq!(gathered(parts), (vec![0, 1, 4], Some(4)));
        }
    }

    #[test]
    fn a_page_is_bounded_in_events_and_bytes_and_has_one_at_least() {
        let many = PAGE_MAX_EVENTS as u64;
        let (events, last) = gathered([found(0..many, 1), found(0..9, 1)]);
        assert_eq!(events.len(), PAGE_MAX_EVENTS);
        assert_eq!((last, events.last()), (Some(many - 10), Some(&(many - 10))));
        let large = found([0], PAGE_MAX_BYTES);
        assert_eq!(gathered([large, found([], 1)]), (vec![0], Some(0)));
        let half = |transaction| found([transaction], PAGE_MAX_BYTES / 2);
        let (events, last) = gathered([found([0, 3], PAGE_MAX_BYTES / 2), half(1)]);
        assert_eq!((events, last), (vec![0, 1], Some(1)));
    }
}
