//! The tail of `events`: rows in the order of the transactions that stored them (`stored_in`), then of `time`,
//! `source` and `id`, whichever replica wrote them.
//!
//! A page ends before the oldest transaction that runs. All before it have ended, and what is still being written
//! has no smaller number. So whoever goes on where a page ended misses nothing, and gets nothing twice. After a crash
//! Postgres reuses the numbers of transactions whose end was not on disk. So a position passes a transaction only
//! when its end is on disk ([`clock`]). A stored row's always is.
//!
//! Rows are marked with their transaction only while somebody reads the tail ([`lease`]).
//!
//! A page looks through a number of transactions, in few partitions with one statement, and in the default one
//! alone. One that runs into its limit is tried again with fewer transactions. Where there are many partitions, it
//! goes on with the next ones later.

mod clock;
mod gather;
pub mod lease;
pub(crate) mod marks;
mod newest;
mod walk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::postgres::PgPool;

use self::clock::Clock;
use self::gather::PAGE_MAX_EVENTS;
use self::lease::RENEW_BELOW;
use self::walk::{PartWalk, Scope, WalkEnd};
use super::deadline::{Deadline, LentConnection};
use super::layout::Layout;
use super::queries::Reads;
use super::search::EventFilter;
use super::turn::ReadError;
use crate::event::Timestamp;

/// A page that was quick is followed by one with so much more.
const MORE_AFTER_QUICK: u64 = 8;
const QUICK: Duration = Duration::from_millis(50);
const SLOW: Duration = Duration::from_millis(200);

/// The place of an event in the tail. No two have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the columns have the same names")]
pub struct TailKey {
    pub stored_in: u64,
    pub time: Timestamp,
    pub source: String,
    pub id: String,
}

/// Where a reader of the tail is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailPosition {
    /// After this event.
    After(TailKey),
    /// Before all that this transaction and later ones stored, and after all else.
    Before(u64),
    /// Of what older transactions than the key's stored, after this event by time; and before all else.
    Older(TailKey),
}

/// A page. It can have no events, and still not be the last one.
#[derive(Debug)]
pub struct TailPage {
    /// In the JSON format of `CloudEvents`, and where a reader is who has it.
    pub events: Vec<(TailPosition, Bytes)>,
    /// Where the page ends.
    pub end: TailPosition,
    /// For the next page.
    pub pace: TailPace,
    /// Whether nothing comes after it yet.
    pub is_last: bool,
    /// Whether the tail is one with the position.
    pub state: TailState,
}

/// Of the tail that a position is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailState {
    /// All is marked.
    Whole,
    /// The same, but the marking has to be renewed soon.
    EndsSoon,
    /// Rows were stored without a mark since the position.
    HasGap,
    /// The server has not come as far as the position: it has lost transactions.
    IsBehind,
}

/// How much a page looks through, and what is known of transactions.
#[derive(Debug, Clone)]
pub struct TailPace {
    clock: Clock,
    transactions: u64,
    /// Microseconds of `time` that a page covers, where one transaction stored too much for one page.
    micros: Option<u64>,
    /// Events that a statement asks for. About as many as have room in a page: the server would send the others in
    /// vain, and the connection would have to be closed.
    rows: usize,
    /// What the pages before have of the same place.
    walk: Option<Box<PartWalk>>,
}

impl TailPosition {
    /// Of all that is left, nothing was stored by an older transaction, but for what is [`Self::Older`].
    pub(crate) fn transaction(&self) -> u64 {
        match self {
            Self::After(key) | Self::Older(key) => key.stored_in,
            Self::Before(transaction) => *transaction,
        }
    }

    fn key(&self) -> Option<&TailKey> {
        match self {
            Self::After(key) | Self::Older(key) => Some(key),
            Self::Before(_) => None,
        }
    }
}

impl TailPage {
    /// Of the events that it has, or has gathered on its way.
    pub(crate) fn bytes(&self) -> usize {
        let events = self.events.iter().map(|(_, json)| json.len());
        let on_its_way = self.pace.walk.as_ref();
        events.sum::<usize>() + on_its_way.map_or(0, |walk| walk.bytes())
    }

    /// One that has nothing yet.
    fn begin(position: &TailPosition, pace: TailPace, state: TailState) -> Self {
        Self {
            events: Vec::new(),
            end: position.clone(),
            pace,
            is_last: false,
            state,
        }
    }
}

impl Default for TailPace {
    /// All that is left.
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            transactions: u64::MAX,
            micros: None,
            rows: PAGE_MAX_EVENTS,
            walk: None,
        }
    }
}

impl TailPace {
    /// The transaction before which the tail ends, and since when, if it is always the same.
    pub(crate) fn held(&self) -> Option<(u64, Instant)> {
        self.clock.held()
    }

    /// The page ended on its way through the partitions.
    pub(crate) fn is_on_its_way(&self) -> bool {
        self.walk.is_some()
    }

    /// Gives up what the page has gathered on its way.
    pub(crate) fn turn_back(&mut self) {
        self.walk = None;
    }

    /// After a page each of whose parts took so long.
    fn after(self, took: Duration) -> Self {
        let times = if took < QUICK {
            MORE_AFTER_QUICK
        } else if took < SLOW {
            2
        } else {
            1
        };
        Self {
            transactions: self.transactions.saturating_mul(times),
            micros: self.micros.map(|micros| micros.saturating_mul(times)),
            ..self
        }
    }
}

impl Reads {
    /// The page of the events that match which begins at a position. `pace` is the one of the page before, and
    /// `marking` the one under which the position was reached.
    ///
    /// # Errors
    /// When there is no time for it, or Postgres does not answer.
    pub async fn tail_page(
        &self,
        filter: &EventFilter,
        (marking, position): (u64, &TailPosition),
        pace: &TailPace,
    ) -> Result<TailPage, ReadError> {
        let turn = self.turn_of_tail("tail of events").await?;
        let found = self.read_until_it_stands(turn.deadline, |lent, layout| {
            let reader = TailReader {
                pool: self.pool(),
                lent,
                filter,
                deadline: turn.deadline,
            };
            page(reader, layout, (marking, position), pace.clone())
        });
        found.await?.ok_or(ReadError::TooMuch)
    }
}

// Any role sees locks and names of applications.
const WHO: &str = "\
    SELECT CASE WHEN pid IS NULL THEN 'a prepared transaction (pg_prepared_xacts)' \
           ELSE format('process %s (application \"%s\")', pid, application_name) END \
    FROM pg_locks LEFT JOIN pg_stat_activity USING (pid) \
    WHERE locktype = 'transactionid' AND transactionid = $1::xid8::xid AND mode = 'ExclusiveLock' AND granted";

impl Reads {
    /// Names the session that runs a transaction.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn who_runs(&self, transaction: u64) -> Result<String, ReadError> {
        let turn = self.turn_of_tail("holder of a transaction").await?;
        let who = turn.deadline.run(async {
            let mut lent = LentConnection::of(self.pool()).await?;
            let who = sqlx::query_scalar(WHO).bind(transaction.to_string());
            let who = who.fetch_optional(&mut *lent.connection).await?;
            lent.give_back();
            Ok(who.unwrap_or_else(|| "a transaction that has ended".to_owned()))
        });
        Ok(who.await?)
    }
}

/// What all statements of a page need.
struct TailReader<'a> {
    pool: &'a PgPool,
    lent: LentConnection,
    filter: &'a EventFilter,
    deadline: Deadline,
}

/// Returns the page, if there is time for it, and how many parts were passed.
async fn page(
    mut reader: TailReader<'_>,
    layout: Arc<Layout>,
    (marking, position): (u64, &TailPosition),
    mut pace: TailPace,
) -> Result<(LentConnection, Option<TailPage>, usize), sqlx::Error> {
    let now = pace.clock.read(&mut reader.lent.connection).await?;
    let in_force = now.marking.filter(|(it, _)| *it == marking);
    let state = match in_force {
        None => TailState::HasGap,
        Some(_) if position.transaction() > now.running => TailState::IsBehind,
        Some((_, left)) if left < RENEW_BELOW => TailState::EndsSoon,
        Some(_) => TailState::Whole,
    };
    let is_older = matches!(position, TailPosition::Older(_));
    if in_force.is_none() || position.transaction() >= now.running && !is_older {
        let mut found = TailPage::begin(position, pace, state);
        found.is_last = true;
        return Ok((reader.lent, Some(found), 0));
    }
    let known = pace
        .walk
        .take()
        .filter(|walk| walk.layout == layout.number());
    let mut walk = known.unwrap_or_else(|| {
        let scope = Scope::of(position, &pace, now.running, reader.filter);
        Box::new(PartWalk::new(scope, layout.number()))
    });
    let (end, is_large) = walk.go_on(&mut reader, &layout, position).await?;
    let TailReader {
        pool,
        mut lent,
        filter,
        ..
    } = reader;
    if is_large {
        // The server has more rows to send than have room. Given up before another one is taken: there are few.
        drop(lent);
        lent = LentConnection::of(pool).await?;
    }
    let passed = walk.passed;
    let mut found = TailPage::begin(position, pace, state);
    let found = match end {
        WalkEnd::Paused => {
            found.pace.walk = Some(walk);
            Some(found)
        }
        WalkEnd::Late => walk.scope.less(found.pace.clock).map(|pace| {
            found.pace = pace;
            found
        }),
        WalkEnd::Passed => Some(walk.finish(found, now.running, filter)),
    };
    Ok((lent, found, passed))
}
