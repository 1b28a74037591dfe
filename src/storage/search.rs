//! A search of `events`: pages of those that match, newest first.
//!
//! A page is looked for in windows of time, from the newest to the oldest, each with one statement. A quick
//! window makes the next one longer. One that runs into its limit is tried again, shorter. So a page costs a
//! bounded time whatever is asked, and may end before it is full: the next one goes on from there. A full one
//! ends at once: whether there is more, the next one finds.

mod condition;
mod filter;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgPool, PgRow, Postgres};
use sqlx::{FromRow, QueryBuilder};

pub use self::condition::{Comparison, DataCondition, DataTest, JsonState, Operand};
pub use self::filter::EventFilter;
use super::classify::sqlstate;
use super::columns::{bounded_json, bounded_text, columns};
use super::deadline::{Deadline, LentConnection};
use super::layout::{Layout, before};
use super::queries::{Reads, StoredEvent, attributes};
use super::turn::{ReadError, begin, is_too_long, time_left};
use crate::event::{Event, Timestamp, to_json};

/// No window begins later than this after the first one.
const WINDOWS_LIMIT: Duration = Duration::from_secs(2);
/// The server ends the statement of a window after this time.
const WINDOW_LIMIT: Duration = Duration::from_millis(800);
/// The first window without a subject, and with one: few events are about it, and an index has them in order.
const FIRST_WINDOW: Duration = Duration::from_secs(10);
const FIRST_WINDOW_OF_SUBJECT: Duration = Duration::from_hours(1);
/// The window after one that was quicker is eight times as long, and after one that was slower a quarter.
const QUICK: Duration = Duration::from_millis(50);
const SLOW: Duration = Duration::from_millis(300);
/// A window that was late is tried again, this much shorter.
const SHORTER_AFTER_LIMIT: i64 = 64;
/// A page ends with the event that brings it here. An event has 16 MiB at most.
const PAGE_MAX_BYTES: usize = 8 * 1_024 * 1_024;
/// The extension attribute that says why an event comes without its data.
const OMITTED: &str = "ganeshomitted";

// Rows that ganesh did not write may have longer keys, or times that no RFC 3339 timestamp has.
const SELECT: &str = concat!(
    columns!(),
    "WHERE octet_length(id) <= 1024 AND octet_length(source) <= 1024 AND time >= "
);
// By the columns of the table: those of the answer are bounded.
const ORDER: &str = " ORDER BY events.time DESC, events.source DESC, events.id DESC LIMIT ";

/// What is left to look for comes after this.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes have the same names")]
pub enum PageEnd {
    /// After this event. They are in the order of these attributes, and no two have the same.
    Event {
        time: Timestamp,
        source: String,
        id: String,
    },
    /// All from this time on was looked through.
    Time(Timestamp),
}

/// A page that is asked for.
#[derive(Debug, Clone, Default)]
pub struct EventSearch {
    /// Which events.
    pub filter: EventFilter,
    /// Where the page before ended.
    pub after: Option<PageEnd>,
    /// Events of a page, at most.
    pub limit: usize,
    /// Only what older transactions than this stored, as far as it is marked.
    pub stored_before: Option<u64>,
}

/// A page. It can have fewer events than asked for, or none, and still not be the last one.
#[derive(Debug, Default)]
pub struct EventPage {
    /// In the JSON format of `CloudEvents`, newest first.
    pub events: Vec<Bytes>,
    /// Where this page ends; `None`: there is nothing more.
    pub next: Option<PageEnd>,
}

/// What a statement looks through, both ends included.
struct Window<'a> {
    from: Timestamp,
    to: Timestamp,
    /// The default partition, where it is the one that the window meets.
    default: Option<&'a str>,
}

/// How a window ended.
enum WindowEnd {
    Passed,
    PageIsFull,
    /// The server has more rows to send than the page has room for in bytes.
    PageIsLarge,
    Late(sqlx::Error),
}

impl Reads {
    /// A page of the events that match.
    ///
    /// # Errors
    /// When there is no time for it, or Postgres does not answer.
    pub async fn search(&self, search: &EventSearch) -> Result<EventPage, ReadError> {
        let turn = self.turn("search of events").await?;
        let page = self.read_until_it_stands(turn.deadline, |lent, layout| {
            page(self.pool(), lent, layout, search, turn.deadline)
        });
        page.await?.ok_or(ReadError::TooMuch)
    }
}

/// Returns the page, if there is time for it, and how many windows it took.
async fn page(
    pool: &PgPool,
    mut lent: LentConnection,
    layout: Arc<Layout>,
    search: &EventSearch,
    deadline: Deadline,
) -> Result<(LentConnection, Option<EventPage>, usize), sqlx::Error> {
    let (began, limit) = (Instant::now(), WINDOWS_LIMIT.min(time_left(deadline)));
    // Of a page that is read again, as the partitions changed meanwhile.
    if limit.is_zero() {
        return Ok((lent, None, 0));
    }
    let mut walk = Walk::new(search);
    let mut windows = 0;
    while let Some(window) = walk.next_window(&layout) {
        windows += 1;
        let window_began = Instant::now();
        let is_over = || began.elapsed() > limit;
        match walk.look(&mut lent.connection, &window, deadline).await? {
            WindowEnd::Passed => walk.pass(window.from, window_began.elapsed()),
            WindowEnd::PageIsFull => return Ok((lent, Some(walk.end()), windows)),
            WindowEnd::PageIsLarge => {
                // It has the other rows, and is closed.
                drop(lent);
                let lent = LentConnection::of(pool).await?;
                return Ok((lent, Some(walk.end()), windows));
            }
            WindowEnd::Late(error) if is_over() && !walk.has_moved() => {
                return if is_too_long(&error) {
                    Ok((lent, None, windows))
                } else {
                    Err(error)
                };
            }
            WindowEnd::Late(error) if is_too_long(&error) => {
                walk.width = (walk.width / SHORTER_AFTER_LIMIT).max(1);
            }
            WindowEnd::Late(_) => {}
        }
        if is_over() {
            return Ok((lent, Some(walk.end()), windows));
        }
    }
    let events = walk.events;
    Ok((lent, Some(EventPage { events, next: None }), windows))
}

/// The way of one page.
struct Walk<'a> {
    search: &'a EventSearch,
    /// Of the next window, in microseconds.
    width: i64,
    /// What is left to look for comes after this.
    after: Option<PageEnd>,
    events: Vec<Bytes>,
    bytes: usize,
}

impl<'a> Walk<'a> {
    fn new(search: &'a EventSearch) -> Self {
        let width = match &search.filter.subject {
            Some(_) => FIRST_WINDOW_OF_SUBJECT,
            None => FIRST_WINDOW,
        };
        Self {
            search,
            width: i64::try_from(width.as_micros()).unwrap_or(i64::MAX),
            after: search.after.clone(),
            events: Vec::new(),
            bytes: 0,
        }
    }

    /// `None` at the end.
    fn next_window<'l>(&self, layout: &'l Layout) -> Option<Window<'l>> {
        let oldest = self.search.filter.first();
        let mut to = self.search.filter.last();
        match &self.after {
            Some(PageEnd::Time(time)) if *time <= oldest => return None,
            Some(PageEnd::Time(time)) => to = to.min(before(*time)),
            Some(PageEnd::Event { time, .. }) => to = to.min(*time),
            None => {}
        }
        let part = layout.part_up_to(to)?;
        let to = part.last;
        let newest = to.min(Timestamp::now()).micros();
        let from = Timestamp::from_micros(newest.saturating_sub(self.width));
        let from = from.max(part.first).max(oldest);
        (from <= to).then_some(Window {
            from,
            to,
            default: part.default,
        })
    }

    /// Looks for events of the window that come after the last one.
    async fn look(
        &mut self,
        connection: &mut PgConnection,
        window: &Window<'_>,
        deadline: Deadline,
    ) -> Result<WindowEnd, sqlx::Error> {
        match self.read(connection, window, deadline).await {
            // query_canceled: statement_timeout; lock_not_available: lock_timeout.
            Err(error) if matches!(sqlstate(&error).as_deref(), Some("57014" | "55P03")) => {
                Ok(WindowEnd::Late(error))
            }
            end => end,
        }
    }

    async fn read(
        &mut self,
        connection: &mut PgConnection,
        window: &Window<'_>,
        deadline: Deadline,
    ) -> Result<WindowEnd, sqlx::Error> {
        let mut transaction = begin(connection, deadline, WINDOW_LIMIT, window.default).await?;
        let after = self.after.clone();
        let room = self.search.limit - self.events.len();
        let mut statement = statement(self.search, window, after.as_ref(), room);
        {
            let rows = statement.build().persistent(false);
            let mut rows = rows.fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await? {
                self.take(&row)?;
                if self.bytes >= PAGE_MAX_BYTES {
                    return Ok(WindowEnd::PageIsLarge);
                }
            }
        }
        transaction.rollback().await?;
        if self.events.len() == self.search.limit {
            return Ok(WindowEnd::PageIsFull);
        }
        Ok(WindowEnd::Passed)
    }

    /// Puts an event on the page.
    fn take(&mut self, row: &PgRow) -> Result<(), sqlx::Error> {
        let event = event_of(row)?;
        let json = to_json(&event);
        self.bytes += json.len();
        self.events.push(json);
        self.after = Some(PageEnd::Event {
            time: event.time,
            source: event.source,
            id: event.id,
        });
        Ok(())
    }

    /// Goes on to what is older than `from`.
    fn pass(&mut self, from: Timestamp, took: Duration) {
        self.after = Some(PageEnd::Time(from));
        if took < QUICK {
            self.width = self.width.saturating_mul(8);
        } else if took > SLOW {
            self.width = (self.width / 4).max(1);
        }
    }

    fn has_moved(&self) -> bool {
        self.after != self.search.after
    }

    /// The page as it is; the next one goes on from here.
    fn end(self) -> EventPage {
        EventPage {
            events: self.events,
            next: self.after,
        }
    }
}

/// Conditions are parameters, and only those that are asked for stand in the statement: it is planned for
/// them, and for the partitions that the window meets.
fn statement<'a>(
    search: &'a EventSearch,
    window: &Window<'_>,
    after: Option<&'a PageEnd>,
    limit: usize,
) -> QueryBuilder<'a, Postgres> {
    let mut sql = QueryBuilder::new(SELECT);
    sql.push_bind(window.from)
        .push(" AND time <= ")
        .push_bind(window.to);
    if let Some(PageEnd::Event { time, source, id }) = after {
        sql.push(" AND (time, source, id) < (").push_bind(*time);
        sql.push(", ").push_bind(source.as_str());
        sql.push(", ").push_bind(id.as_str()).push(")");
    }
    if let Some(transaction) = search.stored_before {
        sql.push(stored_before(transaction));
    }
    search.filter.push(&mut sql);
    sql.push(ORDER)
        .push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    sql
}

/// The condition on rows that older transactions stored. Of one without a mark it is not known which: it is older
/// than each one that marks.
pub(super) fn stored_before(transaction: u64) -> String {
    format!(" AND (stored_in IS NULL OR stored_in < '{transaction}'::xid8)")
}

/// An event that is too large comes without its data, and says so: the others of its page do not suffer.
pub(super) fn event_of(row: &PgRow) -> Result<Event, sqlx::Error> {
    let why = match StoredEvent::from_row(row) {
        Ok(stored) => return Ok(stored.event),
        Err(sqlx::Error::Decode(why)) => why.to_string(),
        Err(error) => return Err(error),
    };
    let mut event = attributes(row)?;
    event.extensions.insert(OMITTED.to_owned(), why);
    Ok(event)
}
