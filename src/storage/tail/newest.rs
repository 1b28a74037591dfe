//! Where the newest events begin, which come before those of the tail: by time, as a search has them.

use std::time::{Duration, Instant};

use super::lease::TailEnd;
use super::{TailKey, TailPosition};
use crate::event::Timestamp;
use crate::storage::queries::Reads;
use crate::storage::search::{EventFilter, EventSearch, PageEnd};
use crate::storage::turn::ReadError;

/// No page begins later than this after the first one.
const PAGES_LIMIT: Duration = Duration::from_secs(1);

impl Reads {
    /// Returns the position before the newest matching events that were stored before `end`, so many of them. Fewer
    /// follow it where there are no more, or no time to look for more.
    ///
    /// # Errors
    /// When there is no time for it, or Postgres does not answer.
    pub async fn tail_start(
        &self,
        filter: &EventFilter,
        count: usize,
        end: TailEnd,
    ) -> Result<TailPosition, ReadError> {
        let began = Instant::now();
        let mut search = EventSearch {
            filter: filter.clone(),
            after: None,
            // One more: they come after it.
            limit: count + 1,
            stored_before: Some(end.running),
        };
        loop {
            let page = self.search(&search).await?;
            search.limit -= page.events.len();
            search.after = page.next;
            if search.limit == 0 || search.after.is_none() || began.elapsed() > PAGES_LIMIT {
                break;
            }
        }
        let first = |time: Timestamp| (time, String::new(), String::new());
        let (time, source, id) = match search.after {
            Some(PageEnd::Event { time, source, id }) => (time, source, id),
            Some(PageEnd::Time(time)) => first(time),
            None => first(filter.first()),
        };
        Ok(TailPosition::Older(TailKey {
            stored_in: end.running,
            time,
            source,
            id,
        }))
    }
}
