//! Which partitions there are, and in which order a read without a time looks into them: a bounded number
//! with one statement, newest first. Each one costs a lock for the table and each of its indexes, and the
//! server has room for a few thousand.

use std::iter;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;

use super::identity::started;
use crate::event::Timestamp;

/// Partitions of one span.
const PARTITIONS_AT_ONCE: usize = 64;
/// A session keeps some 20 KB in memory of each partition that it has met. Beyond this it is closed.
const REMEMBERED_SPANS: usize = 32;

/// Another number, where the partitions are others.
const NUMBER: &str = concat!(
    "SELECT coalesce(sum(inhrelid::bigint), 0)::bigint, ",
    started!(),
    " FROM pg_inherits WHERE inhparent = 'events'::regclass"
);
/// Where they begin and end, the newest first; infinity where a bound is open. The default partition has
/// no bounds: its name is the second column.
const LAYOUT: &str = "\
    SELECT coalesce(sum(oid::bigint), 0)::bigint, \
           max(oid::regclass::text) FILTER (WHERE bound = 'DEFAULT'), \
           coalesce(array_agg(start ORDER BY start DESC) FILTER (WHERE bound <> 'DEFAULT'), '{}'), \
           coalesce(array_agg(stop ORDER BY start DESC) FILTER (WHERE bound <> 'DEFAULT'), '{}') \
    FROM (SELECT oid, bound, \
                 coalesce(substring(bound FROM 'FROM \\(''([^'']+)''')::timestamptz, '-infinity') AS start, \
                 coalesce(substring(bound FROM 'TO \\(''([^'']+)''')::timestamptz, 'infinity') AS stop \
          FROM (SELECT partition.oid, pg_get_expr(relpartbound, partition.oid) AS bound \
                FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid \
                WHERE inhparent = 'events'::regclass) AS partition) AS partition";

/// The partitions of `events`. Without any, one span covers all time.
#[derive(Debug, Default)]
pub(super) struct Layout {
    number: i64,
    /// The default partition, as SQL names it. Somebody may have detached it, or attached another table.
    default: Option<String>,
    /// The newest first.
    starts: Vec<Timestamp>,
    /// The first and the last instants of times that partitions cover without a gap, the newest first. Of the
    /// others the default partition has the rows, if there is one.
    covered: Vec<(Timestamp, Timestamp)>,
}

/// A part of all time for one statement, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// The default partition, as SQL names it, if the part meets that one alone. `None`: it meets few others.
    pub(super) default: Option<&'a str>,
}

/// A span of time, both ends included; `None` is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Layout {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let layout = sqlx::query_as(LAYOUT).fetch_one(connection);
        let (number, default, starts, ends): (_, _, Vec<_>, Vec<_>) = layout.await?;
        let layout = Self::of(number, starts.into_iter().zip(ends));
        Ok(Self { default, ..layout })
    }

    /// Of partitions from their first instant to the one after their last, the newest first.
    fn of(number: i64, partitions: impl Iterator<Item = (Timestamp, Timestamp)>) -> Self {
        let mut layout = Self {
            number,
            ..Self::default()
        };
        for (start, end) in partitions {
            if start > Timestamp::MIN {
                layout.starts.push(start);
            }
            match layout.covered.last_mut() {
                Some((first, _)) if *first == end => *first = start,
                _ if end == Timestamp::MAX => layout.covered.push((start, end)),
                _ => layout.covered.push((start, before(end))),
            }
        }
        layout
    }

    /// Another one, where the partitions are others.
    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Whether nothing is known yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.number == 0
    }

    /// Whether these are the partitions still.
    pub(super) async fn stands(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let (stands, _) = self.stands_on(connection).await?;
        Ok(stands)
    }

    /// The same, and when the server started.
    pub(super) async fn stands_on(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(bool, String), sqlx::Error> {
        let (number, started): (i64, String) = sqlx::query_as(NUMBER).fetch_one(connection).await?;
        Ok((number == self.number, started))
    }

    /// Whether one span of [`Self::spans`] holds both.
    pub(super) fn are_in_one_span(&self, one: Timestamp, other: Timestamp) -> bool {
        let span_of = |time| {
            let later = self.starts.partition_point(|start| *start > time);
            // The last one is older than all partitions.
            (later < self.starts.len()).then_some(later / PARTITIONS_AT_ONCE)
        };
        span_of(one) == span_of(other)
    }

    /// The newest part that can have rows up to `to`.
    pub(super) fn part_up_to(&self, to: Timestamp) -> Option<Part<'_>> {
        let covered = self.covered.iter().find(|(first, _)| *first <= to);
        if let (Some(default), false) =
            (&self.default, covered.is_some_and(|(_, last)| to <= *last))
        {
            return Some(Part {
                first: covered.map_or(Timestamp::MIN, |(_, last)| after(*last)),
                last: to,
                default: Some(default),
            });
        }
        let (first, last) = *covered?;
        let last = last.min(to);
        let not_later = self.starts.iter().skip_while(|start| **start > last);
        let reached = not_later.copied().nth(PARTITIONS_AT_ONCE - 1);
        Some(Part {
            first: reached.map_or(first, |reached| reached.max(first)),
            last,
            default: None,
        })
    }

    /// What partitions cover, the newest first, each span with few of them.
    pub(super) fn covered_spans(&self) -> impl Iterator<Item = Span> {
        let mut next = Some(Timestamp::MAX);
        let parts = iter::from_fn(move || {
            let part = self.part_up_to(next?)?;
            next = (part.first > Timestamp::MIN).then(|| before(part.first));
            Some(part)
        });
        let covered = parts.filter(|part| part.default.is_none());
        covered.map(|part| Span {
            from: (part.first > Timestamp::MIN).then_some(part.first),
            to: (part.last < Timestamp::MAX).then_some(part.last),
        })
    }

    /// The default partition, as SQL names it.
    pub(super) fn default_partition(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// All time, the newest first. No two spans meet; each holds few partitions, and the default one.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> {
        self.spans_of(PARTITIONS_AT_ONCE)
    }

    /// The same, each of one partition, for a search that reads all of it.
    pub(super) fn narrow_spans(&self) -> impl Iterator<Item = Span> {
        self.spans_of(1)
    }

    fn spans_of(&self, partitions: usize) -> impl Iterator<Item = Span> {
        let ends = self.starts.chunks(partitions).map(|part| part.last());
        let mut to = None;
        ends.chain([None]).map(move |from| {
            let from = from.copied();
            let span = Span { from, to };
            to = from.map(before);
            span
        })
    }
}

impl Span {
    /// All time.
    pub(super) const ALL: Self = Self {
        from: None,
        to: None,
    };

    /// Where it begins.
    pub(super) fn start(self) -> Option<Timestamp> {
        self.from
    }

    /// What it has in common with the time from `from` to `to`, both ends included; `None`: nothing.
    pub(super) fn within(self, from: Timestamp, to: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let from = self.from.map_or(from, |first| first.max(from));
        let to = self.to.map_or(to, |last| last.min(to));
        (from <= to).then_some((from, to))
    }

    /// The time from `age` before now on.
    pub(super) fn recent(age: Duration) -> Self {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let from = Timestamp::now().micros().saturating_sub(age);
        Self {
            from: Some(Timestamp::from_micros(from)),
            to: None,
        }
    }

    pub(super) fn at(time: Timestamp) -> Self {
        Self {
            from: Some(time),
            to: Some(time),
        }
    }

    /// A query of which it is the first two parameters. Not persistent: the plan then knows the values, and
    /// touches and locks only the partitions that can hold them.
    pub(super) fn query<'q, T>(self, statement: &'q str) -> QueryAs<'q, Postgres, T, PgArguments>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        sqlx::query_as(statement)
            .bind(self.from)
            .bind(self.to)
            .persistent(false)
    }
}

/// The last instant before this one.
pub(super) fn before(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.micros() - 1)
}

/// The first instant after this one.
pub(super) fn after(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.micros() + 1)
}

/// Whether a session that has looked into so many spans is too large to be kept.
pub(super) fn is_too_large(spans: usize) -> bool {
    spans > REMEMBERED_SPANS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_time_is_in_exactly_one_span_and_later_ones_come_first(
            mut starts in prop::collection::btree_set(-1_000_000i64..1_000_000, 0..400),
            time in -1_100_000i64..1_100_000,
            other in -1_100_000i64..1_100_000,
        ) {
            let mut newest_first: Vec<Timestamp> = Vec::new();
            while let Some(start) = starts.pop_last() {
                newest_first.push(Timestamp::from_micros(start));
            }
            let layout = Layout { number: 1, starts: newest_first.clone(), ..Layout::default() };
            let time = Timestamp::from_micros(time);
            let holds = |span: &Span| {
                span.from.is_none_or(|from| from <= time) && span.to.is_none_or(|to| time <= to)
            };
            prop_assert_eq!(layout.spans().filter(holds).count(), 1);
            let other = Timestamp::from_micros(other);
            let is_in_it = |span: &Span| {
                span.from.is_none_or(|from| from <= other) && span.to.is_none_or(|to| other <= to)
            };
            let together = layout.spans().any(|span| holds(&span) && is_in_it(&span));
            prop_assert_eq!(layout.are_in_one_span(time, other), together);
            for span in layout.spans() {
                let inside = |start: &&Timestamp| {
                    span.from.is_none_or(|from| from <= **start) && span.to.is_none_or(|to| **start <= to)
                };
                prop_assert!(newest_first.iter().filter(inside).count() <= PARTITIONS_AT_ONCE);
            }
            let ends: Vec<_> = layout.spans().map(|span| span.to).collect();
            prop_assert!(ends.windows(2).skip(1).all(|pair| pair[0] > pair[1]));
        }

        #[test]
        fn a_part_meets_few_partitions_or_the_default_one_alone(
            bounds in prop::collection::btree_map(-1_000i64..1_000, 0i64..20, 0..400),
            is_open in any::<[bool; 2]>(),
            default in prop::option::of(Just("events_default".to_owned())),
            time in -1_100i64..1_100,
        ) {
            let mut partitions: Vec<(Timestamp, Timestamp)> = Vec::new();
            let mut next = 2_000;
            for (start, length) in bounds.into_iter().rev() {
                // Many meet the next one.
                let end = next.min(start + 1 + length * 20);
                partitions.push((Timestamp::from_micros(start), Timestamp::from_micros(end)));
                next = start;
            }
            if let (Some((_, newest)), true) = (partitions.first_mut(), is_open[0]) {
                *newest = Timestamp::MAX;
            }
            if let (Some((oldest, _)), true) = (partitions.last_mut(), is_open[1]) {
                *oldest = Timestamp::MIN;
            }
            let of_partitions = Layout::of(1, partitions.clone().into_iter());
            let layout = Layout { default: default.clone(), ..of_partitions };
            for time in [Timestamp::MIN, Timestamp::from_micros(time), Timestamp::MAX] {
                let holds = |time: Timestamp| {
                    partitions.iter().any(|(start, end)| *start <= time && (time < *end || *end == Timestamp::MAX))
                };
                let Some(part) = layout.part_up_to(time) else {
                    prop_assert!(default.is_none() && partitions.iter().all(|(start, _)| *start > time));
                    continue;
                };
                prop_assert!(part.first <= part.last && part.last <= time);
                // What is between them has no rows.
                prop_assert!(part.last == time || default.is_none() && !holds(time) && holds(part.last));
                let met = partitions.iter().filter(|(start, end)| {
                    *start <= part.last && (part.first < *end || *end == Timestamp::MAX)
                });
                let met = met.count();
                prop_assert_eq!(part.default.is_some(), met == 0);
                prop_assert!(met <= PARTITIONS_AT_ONCE, "{} partitions", met);
                let is_covered = layout.covered.iter().any(|(first, last)| {
                    *first <= part.first && part.last <= *last
                });
                prop_assert_eq!(is_covered, part.default.is_none());
                let is_covered = holds(time);
                let spans = layout.covered_spans().filter(|span| {
                    span.from.is_none_or(|from| from <= time) && span.to.is_none_or(|to| time <= to)
                });
                prop_assert_eq!(spans.count(), usize::from(is_covered));
            }
        }
    }
}
