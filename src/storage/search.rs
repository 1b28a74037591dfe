//! A search of `events`: pages of those that match, newest first.
//!
//! A page is looked for in windows of time, from the newest to the oldest, each with one statement. A quick
//! window makes the next one longer. One that runs into its limit is tried again, shorter. So a page costs a
//! bounded time whatever is asked, and may end before it is full: the next one goes on from there.

mod condition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgPool, PgRow, Postgres};
use sqlx::{Connection, FromRow, QueryBuilder, Row};

pub use self::condition::{Comparison, DataCondition, DataTest, JsonState, Operand};
use super::classify::sqlstate;
use super::columns::{bounded_json, bounded_text, columns};
use super::deadline::{Deadline, LentConnection};
use super::layout::Layout;
use super::queries::{READ_LIMIT, Reads, StoredEvent, text};
use crate::error::Error;
use crate::event::{Data, Event, Timestamp, to_json};

/// No window begins later than this after the first one. With the limit of a window it fits in [`READ_LIMIT`].
const WINDOWS_LIMIT: Duration = Duration::from_secs(2);
/// Begins the transaction of a window, which the server ends after 800 ms.
const BEGIN_WINDOW: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '800ms'";
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

/// What orders events on pages: no two of them have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the attributes have the same names")]
pub struct PageKey {
    pub time: Timestamp,
    pub source: String,
    pub id: String,
}

/// Which events are asked for: those that meet all of it.
#[derive(Debug, Clone, Default)]
pub struct EventSearch {
    /// The attribute `type`.
    pub event_type: Option<String>,
    /// The attribute `source`.
    pub source: Option<String>,
    /// The attribute `subject`.
    pub subject: Option<String>,
    /// What the attribute `subject` begins with.
    pub subject_prefix: Option<String>,
    /// Conditions on JSON data.
    pub data: Vec<DataCondition>,
    /// The earliest `time`.
    pub from: Option<Timestamp>,
    /// The first `time` that is too late.
    pub to: Option<Timestamp>,
    /// Where the page before ended.
    pub after: Option<PageKey>,
    /// Events of a page, at most.
    pub limit: usize,
}

/// A page. It can have fewer events than asked for, or none, and still not be the last one.
#[derive(Debug, Default)]
pub struct EventPage {
    /// In the JSON format of `CloudEvents`, newest first.
    pub events: Vec<Bytes>,
    /// Where the next page begins; `None`: there is nothing more.
    pub next: Option<PageKey>,
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
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn search(&self, search: &EventSearch) -> Result<EventPage, Error> {
        let deadline = Deadline::new(READ_LIMIT, "search of events");
        let _turn = deadline.wait_for(self.searches.acquire()).await?;
        let _permit = deadline.wait_for(self.permits.acquire()).await?;
        self.read_until_it_stands(deadline, |lent, layout| {
            page(self.pool(), lent, layout, search)
        })
        .await
    }
}

/// Returns the page, and how many windows it took.
async fn page(
    pool: &PgPool,
    mut lent: LentConnection,
    layout: Arc<Layout>,
    search: &EventSearch,
) -> Result<(LentConnection, EventPage, usize), sqlx::Error> {
    let began = Instant::now();
    let mut walk = Walk::new(search);
    let mut windows = 0;
    while let Some((from, to)) = walk.next_window(&layout) {
        windows += 1;
        let window_began = Instant::now();
        match walk.look(&mut lent.connection, from, to).await? {
            WindowEnd::Passed => walk.pass(from, window_began.elapsed()),
            WindowEnd::PageIsFull => return Ok((lent, walk.end(), windows)),
            WindowEnd::PageIsLarge => {
                // It has the other rows, and is closed.
                drop(lent);
                let lent = LentConnection::of(pool).await?;
                return Ok((lent, walk.end(), windows));
            }
            WindowEnd::Late(error) if began.elapsed() > WINDOWS_LIMIT && !walk.has_moved() => {
                return Err(error);
            }
            WindowEnd::Late(_) => walk.width = (walk.width / SHORTER_AFTER_LIMIT).max(1),
        }
        if began.elapsed() > WINDOWS_LIMIT {
            return Ok((lent, walk.end(), windows));
        }
    }
    let events = walk.events;
    Ok((lent, EventPage { events, next: None }, windows))
}

/// The way of one page.
struct Walk<'a> {
    search: &'a EventSearch,
    /// Of the next window, in microseconds.
    width: i64,
    /// What is left to look for comes after this.
    after: Option<PageKey>,
    events: Vec<Bytes>,
    bytes: usize,
}

impl<'a> Walk<'a> {
    fn new(search: &'a EventSearch) -> Self {
        let width = match &search.subject {
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

    fn oldest(&self) -> Timestamp {
        self.search.from.unwrap_or(Timestamp::MIN)
    }

    /// The first and the last time of the next window, which meets few partitions; `None` at the end.
    fn next_window(&self, layout: &Layout) -> Option<(Timestamp, Timestamp)> {
        let before = |time: Timestamp| Timestamp::from_micros(time.micros() - 1);
        let mut to = self.search.to.map_or(Timestamp::MAX, before);
        if let Some(after) = &self.after {
            // No source is empty: this is the first instant of a window that was passed.
            let is_passed = after.source.is_empty();
            if is_passed && after.time <= self.oldest() {
                return None;
            }
            to = to.min(if is_passed {
                before(after.time)
            } else {
                after.time
            });
        }
        let newest = to.min(Timestamp::now()).micros();
        let from = Timestamp::from_micros(newest.saturating_sub(self.width));
        let from = from.max(layout.reach(to)).max(self.oldest());
        (from <= to).then_some((from, to))
    }

    /// Looks for events of the window that come after the last one.
    async fn look(
        &mut self,
        connection: &mut PgConnection,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<WindowEnd, sqlx::Error> {
        let mut transaction = connection.begin_with(BEGIN_WINDOW).await?;
        let after = self.after.clone();
        // One more than there is room for, which tells that there is more.
        let room = self.search.limit + 1 - self.events.len();
        let mut statement = statement(self.search, (from, to), after.as_ref(), room);
        let end = {
            let rows = statement.build().persistent(false);
            let mut rows = rows.fetch(&mut *transaction);
            loop {
                match rows.try_next().await {
                    Ok(Some(row)) => {
                        if let Some(end) = self.take(&row)? {
                            break end;
                        }
                    }
                    Ok(None) => break WindowEnd::Passed,
                    // query_canceled: statement_timeout.
                    Err(error) if sqlstate(&error).as_deref() == Some("57014") => {
                        break WindowEnd::Late(error);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if !matches!(end, WindowEnd::PageIsLarge) {
            transaction.rollback().await?;
        }
        Ok(end)
    }

    /// Puts an event on the page. Returns how the window ends, if it does.
    fn take(&mut self, row: &PgRow) -> Result<Option<WindowEnd>, sqlx::Error> {
        if self.events.len() == self.search.limit {
            return Ok(Some(WindowEnd::PageIsFull));
        }
        let event = event_of(row)?;
        let json = to_json(&event);
        self.bytes += json.len();
        self.events.push(json);
        self.after = Some(PageKey {
            time: event.time,
            source: event.source,
            id: event.id,
        });
        Ok((self.bytes >= PAGE_MAX_BYTES).then_some(WindowEnd::PageIsLarge))
    }

    /// Goes on to what is older than `from`.
    fn pass(&mut self, from: Timestamp, took: Duration) {
        self.after = Some(PageKey {
            time: from,
            source: String::new(),
            id: String::new(),
        });
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
    (from, to): (Timestamp, Timestamp),
    after: Option<&'a PageKey>,
    limit: usize,
) -> QueryBuilder<'a, Postgres> {
    let mut sql = QueryBuilder::new(SELECT);
    sql.push_bind(from).push(" AND time <= ").push_bind(to);
    if let Some(PageKey { time, source, id }) = after {
        sql.push(" AND (time, source, id) < (").push_bind(*time);
        sql.push(", ").push_bind(source.as_str());
        sql.push(", ").push_bind(id.as_str()).push(")");
    }
    for (condition, value) in [
        (" AND type = ", &search.event_type),
        (" AND source = ", &search.source),
        (" AND subject = ", &search.subject),
        (" AND subject ^@ ", &search.subject_prefix),
    ] {
        if let Some(value) = value {
            sql.push(condition).push_bind(value.as_str());
        }
    }
    for condition in &search.data {
        sql.push(" AND ");
        condition.push(&mut sql);
    }
    sql.push(ORDER)
        .push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    sql
}

/// An event that is too large comes without its data, and says so: the others of its page do not suffer.
fn event_of(row: &PgRow) -> Result<Event, sqlx::Error> {
    let why = match StoredEvent::from_row(row) {
        Ok(stored) => return Ok(stored.event),
        Err(sqlx::Error::Decode(why)) => why.to_string(),
        Err(error) => return Err(error),
    };
    Ok(Event {
        id: text(row, "id")?,
        source: text(row, "source")?,
        event_type: text(row, "type")?,
        subject: row.try_get("subject")?,
        time: row.try_get("time")?,
        datacontenttype: row.try_get("datacontenttype")?,
        dataschema: row.try_get("dataschema")?,
        extensions: BTreeMap::from([(OMITTED.to_owned(), why)]),
        data: Data::None,
    })
}
