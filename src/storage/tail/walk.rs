//! The way of a page through the partitions.

use std::time::{Duration, Instant};

use super::clock::Clock;
use super::gather::{Gathered, PAGE_MAX_BYTES, PAGE_MAX_EVENTS, PartEnd};
use super::{TailKey, TailPace, TailPage, TailPosition, TailReader};
use crate::event::Timestamp;
use crate::storage::layout::{Layout, Part, after};
use crate::storage::search::EventFilter;

/// Statements of a page, each of 64 partitions at most: the way goes on with the next page.
const PARTS_AT_ONCE: usize = 4;
/// A page that was late is tried again with so much less.
const LESS_AFTER_LIMIT: u64 = 64;
/// The first part of what goes by time, where that is too much for a page.
const FIRST_MICROS: u64 = 3_600_000_000;

/// A way through the partitions.
#[derive(Debug, Clone)]
pub(super) struct PartWalk {
    pub(super) scope: Scope,
    gathered: Gathered,
    /// Of these partitions, so many parts are passed.
    pub(super) layout: i64,
    pub(super) passed: usize,
    took: Duration,
    /// So many events of a part filled the page, and the server had more of them.
    cut_at: Option<usize>,
}

/// What a page looks through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    pub(super) rows: ScopeRows,
    /// The transactions; the last one is left out.
    pub(super) from: u64,
    pub(super) to: u64,
    /// The times; both ends included.
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// Events that a statement asks for.
    pub(super) rows_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScopeRows {
    Marked,
    /// Of one transaction, which stored much: they are looked for by time.
    OfOne,
    /// Of all before `to`, by time.
    Older,
}

/// How far a page came.
pub(super) enum WalkEnd {
    Passed,
    /// There are more parts.
    Paused,
    /// The server ended a statement.
    Late,
}

impl PartWalk {
    pub(super) fn new(scope: Scope, layout: i64) -> Self {
        Self {
            scope,
            gathered: Gathered::default(),
            layout,
            passed: 0,
            took: Duration::ZERO,
            cut_at: None,
        }
    }

    /// Of what it has gathered.
    pub(super) fn bytes(&self) -> usize {
        self.gathered.bytes()
    }

    /// Passes the next parts. Returns also whether the connection has to be closed.
    pub(super) async fn go_on(
        &mut self,
        reader: &mut TailReader<'_>,
        layout: &Layout,
        position: &TailPosition,
    ) -> Result<(WalkEnd, bool), sqlx::Error> {
        let began = Instant::now();
        let parts = parts(layout, self.scope.first, self.scope.last);
        let first = self.passed;
        let end = parts.len().min(first + PARTS_AT_ONCE);
        let mut is_large = false;
        while self.passed < end && !is_large {
            let part = &parts[self.passed];
            let gathered = &mut self.gathered;
            match reader.gather(gathered, part, self.scope, position).await? {
                PartEnd::Read => {}
                PartEnd::Large(events) => {
                    is_large = true;
                    self.cut_at = Some(self.cut_at.map_or(events, |least| least.min(events)));
                }
                PartEnd::NoTime if self.passed > first => return Ok((WalkEnd::Paused, false)),
                PartEnd::NoTime | PartEnd::Late => return Ok((WalkEnd::Late, false)),
            }
            self.passed += 1;
        }
        self.took += began.elapsed();
        if self.passed < parts.len() {
            return Ok((WalkEnd::Paused, is_large));
        }
        Ok((WalkEnd::Passed, is_large))
    }

    /// How many events the statements of the next page ask for.
    fn rows(&self) -> usize {
        let rows = self.scope.rows_max;
        let is_small = self.gathered.bytes() < PAGE_MAX_BYTES / 2;
        match self.cut_at {
            Some(events) => (events * 3 / 4).max(1),
            None if is_small && self.gathered.events.len() >= rows => {
                (rows * 2).min(PAGE_MAX_EVENTS)
            }
            None => rows,
        }
    }

    /// Fills the page with what was found.
    pub(super) fn finish(self, begun: TailPage, running: u64, filter: &EventFilter) -> TailPage {
        let rows = self.rows();
        let (scope, gathered) = (self.scope, self.gathered);
        let last = gathered.last.map(|key| scope.after(key));
        let is_last = last.is_none() && scope.is_end(running, filter);
        let end = last.unwrap_or_else(|| scope.end(filter));
        let parts = u32::try_from(self.passed.max(1)).unwrap_or(u32::MAX);
        let mut pace = begun.pace.after(self.took / parts);
        pace.rows = rows;
        if end.key().is_none() || end.transaction() > scope.from {
            pace.micros = None;
        }
        let events = gathered.events.into_iter();
        let events: Vec<_> = events.map(|(key, json)| (scope.after(key), json)).collect();
        let last = events.last().map_or(&begun.end, |(position, _)| position);
        let end = match scope.rows {
            // It was begun when all older ones had ended, which is on disk.
            ScopeRows::Older => end,
            ScopeRows::Marked | ScopeRows::OfOne => pace.clock.passed(end, last.clone()),
        };
        TailPage {
            events,
            end,
            pace,
            is_last,
            ..begun
        }
    }
}

/// The default partition, if there is one, and what the others cover.
fn parts(layout: &Layout, first: Timestamp, last: Timestamp) -> Vec<Part<'_>> {
    let default = layout.default_partition();
    let default = default.map(|default| (first, last, Some(default)));
    let covered = layout.covered_spans();
    let covered = covered.filter_map(|span| {
        let (first, last) = span.within(first, last)?;
        Some((first, last, None))
    });
    let parts = covered.chain(default);
    let parts = parts.map(|(first, last, default)| Part {
        first,
        last,
        default,
    });
    parts.collect()
}

impl Scope {
    pub(super) fn of(
        position: &TailPosition,
        pace: &TailPace,
        running: u64,
        filter: &EventFilter,
    ) -> Self {
        let from = position.transaction();
        let (first, last) = (filter.first(), filter.last());
        let (rows, to) = match (position, pace.micros) {
            (TailPosition::Older(_), _) => (ScopeRows::Older, from),
            (_, Some(_)) => (ScopeRows::OfOne, from + 1),
            (_, None) => {
                let to = from.saturating_add(pace.transactions.max(1));
                (ScopeRows::Marked, to.min(running))
            }
        };
        let first = match position.key() {
            Some(key) if rows != ScopeRows::Marked => key.time.max(first),
            _ => first,
        };
        let end = pace.micros.map_or(last, |micros| {
            let micros = i64::try_from(micros).unwrap_or(i64::MAX);
            Timestamp::from_micros(first.micros().saturating_add(micros))
        });
        Self {
            rows,
            from,
            to,
            first,
            last: end.min(last),
            rows_max: pace.rows,
        }
    }

    /// Whether nothing comes after it yet.
    fn is_end(self, running: u64, filter: &EventFilter) -> bool {
        self.rows != ScopeRows::Older && self.to == running && self.is_whole(filter)
    }

    /// Whether it has all times of its transactions.
    fn is_whole(self, filter: &EventFilter) -> bool {
        self.last >= filter.last()
    }

    /// Where a page ends that has all of it.
    fn end(self, filter: &EventFilter) -> TailPosition {
        if self.is_whole(filter) {
            return TailPosition::Before(self.to);
        }
        // Before all events of the next time.
        self.after(TailKey {
            stored_in: self.from,
            time: after(self.last),
            source: String::new(),
            id: String::new(),
        })
    }

    /// Where a reader is who has this event.
    fn after(self, key: TailKey) -> TailPosition {
        match self.rows {
            ScopeRows::Marked | ScopeRows::OfOne => TailPosition::After(key),
            ScopeRows::Older => TailPosition::Older(key),
        }
    }

    /// For a page that was late; `None`: less is not possible.
    pub(super) fn less(self, clock: Clock) -> Option<TailPace> {
        let less = |more: u64| (more / LESS_AFTER_LIMIT).max(1);
        let transactions = self.to - self.from;
        let micros = self.last.micros().abs_diff(self.first.micros());
        let (transactions, micros) = match (self.rows, transactions) {
            (ScopeRows::Marked, 1) => (1, Some(FIRST_MICROS)),
            (ScopeRows::Marked, _) => (less(transactions), None),
            _ if micros <= 1 => return None,
            _ => (1, Some(less(micros).min(FIRST_MICROS))),
        };
        Some(TailPace {
            clock,
            transactions,
            micros,
            rows: self.rows_max,
            walk: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::tail::TailState;

    /// One that has gathered so many events of so many bytes each.
    fn walk(events: usize, bytes: usize) -> PartWalk {
        let position = TailPosition::Before(5);
        let scope = Scope::of(&position, &TailPace::default(), 9, &EventFilter::default());
        let mut walk = PartWalk::new(scope, 1);
        let key = TailKey {
            stored_in: 5,
            time: Timestamp::MIN,
            source: String::new(),
            id: String::new(),
        };
        walk.gathered.events = vec![(key, Bytes::from(vec![b'x'; bytes])); events];
        walk
    }

    #[test]
    fn what_a_page_has_gathered_on_its_way_counts_until_it_turns_back() {
        let position = TailPosition::Before(5);
        let mut page = TailPage::begin(&position, TailPace::default(), TailState::Whole);
        assert_eq!(page.bytes(), 0);
        page.pace.walk = Some(Box::new(walk(3, 100)));
        assert_eq!(page.bytes(), 300);
        page.pace.turn_back();
        assert_eq!(page.bytes(), 0);
    }

    #[test]
    fn statements_ask_for_as_many_events_as_have_room() {
        let rows = |rows_max: usize, cut_at: Option<usize>, walk: PartWalk| {
            let scope = Scope {
                rows_max,
                ..walk.scope
            };
            let walk = PartWalk {
                scope,
                cut_at,
                ..walk
            };
            walk.rows()
        };
        assert_eq!(rows(500, Some(11), walk(11, 100_000)), 8);
        assert_eq!(rows(500, Some(1), walk(1, 2_000_000)), 1);
        // There was room for more of them, or for none, or there were no more.
        assert_eq!(rows(8, None, walk(8, 100)), 16);
        assert_eq!(rows(8, None, walk(8, 100_000)), 8);
        assert_eq!(rows(8, None, walk(7, 100)), 8);
        assert_eq!(rows(400, None, walk(400, 100)), 500);
    }

    #[test]
    fn a_page_that_is_late_is_tried_with_less_until_one_time_of_one_transaction_is_left() {
        let filter = EventFilter::default();
        let position = TailPosition::Before(5);
        let mut pace = TailPace::default();
        let mut tries = 0;
        loop {
            let scope = Scope::of(&position, &pace, 1_000_000, &filter);
            assert_eq!(scope.from, 5);
            let Some(less) = scope.less(Clock::default()) else {
                break;
            };
            pace = less;
            tries += 1;
        }
        assert_eq!((pace.transactions, pace.micros), (1, Some(1)));
        assert!(tries < 20, "{tries}");
    }

    #[test]
    fn what_one_transaction_stored_is_passed_time_by_time() {
        let filter = EventFilter {
            from: Some(Timestamp::from_micros(100)),
            to: Some(Timestamp::from_micros(1_000)),
            ..EventFilter::default()
        };
        let pace = TailPace {
            transactions: 1,
            micros: Some(300),
            ..TailPace::default()
        };
        let mut position = TailPosition::Before(5);
        let mut passed = Vec::new();
        while position.transaction() == 5 {
            let scope = Scope::of(&position, &pace, 9, &filter);
            passed.push((scope.first.micros(), scope.last.micros()));
            position = scope.end(&filter);
        }
        assert_eq!(passed, [(100, 400), (401, 701), (702, 999)]);
        assert_eq!(position, TailPosition::Before(6));
    }
}
