//! Which subjects there are, by name, and when the newest event of each happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::deadline::{Deadline, LentConnection};
use super::layout::{Layout, Span};
use super::queries::Reads;
use super::turn::{ReadError, begin, in_time, time_left};
use crate::event::Timestamp;

// From subject to subject by the index, whose order is (subject, time DESC): what a subject costs does not
// depend on how many events it has. Where rows of another time stood between them, all would be read.
fn walk(table: &str) -> String {
    let first_after = |after: &str| {
        format!(
            "(SELECT subject, time FROM {table} WHERE {after} AND subject ^@ $4 \
              AND octet_length(subject) <= 1024 \
              AND ($1::timestamptz IS NULL OR time >= $1) AND ($2::timestamptz IS NULL OR time <= $2) \
              ORDER BY subject, time DESC LIMIT 1)"
        )
    };
    format!(
        "WITH RECURSIVE walk AS ({first} UNION ALL \
             SELECT following.* FROM walk CROSS JOIN LATERAL {following} AS following) \
         SELECT subject, time FROM walk LIMIT $5",
        first = first_after("subject IS NOT NULL AND ($3::text IS NULL OR subject > $3)"),
        following = first_after("subject > walk.subject"),
    )
}

/// Which subjects are asked for.
#[derive(Debug, Clone, Default)]
pub struct SubjectSearch {
    /// What they begin with.
    pub prefix: Option<String>,
    /// Only those that come after this one.
    pub after: Option<String>,
    /// Subjects of a page, at most.
    pub limit: usize,
}

/// A page of subjects.
#[derive(Debug)]
pub struct SubjectPage {
    /// Each with the time of its newest event, in the order of their bytes.
    pub subjects: Vec<(String, Timestamp)>,
    /// Whether others follow.
    pub has_more: bool,
}

impl Reads {
    /// A page of subjects.
    ///
    /// # Errors
    /// When there is no time for it, or Postgres does not answer.
    pub async fn subjects(&self, search: &SubjectSearch) -> Result<SubjectPage, ReadError> {
        let turn = self.turn("list of subjects").await?;
        let page = self.read_until_it_stands(turn.deadline, |lent, layout| {
            page(lent, layout, search, turn.deadline)
        });
        page.await?.ok_or(ReadError::TooMuch)
    }
}

/// Returns the page, if there is time for it, and into how many spans it took a look.
async fn page(
    mut lent: LentConnection,
    layout: Arc<Layout>,
    search: &SubjectSearch,
    deadline: Deadline,
) -> Result<(LentConnection, Option<SubjectPage>, usize), sqlx::Error> {
    // One more than asked for tells whether there are more.
    let wanted = search.limit + 1;
    let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut spans = 0;
    let default = layout.default_partition();
    let all = default.into_iter().map(|name| (Span::ALL, Some(name)));
    let covered = layout.covered_spans().map(|span| (span, None));
    for (span, default) in all.chain(covered) {
        let time = time_left(deadline);
        if time.is_zero() {
            return Ok((lent, None, spans));
        }
        spans += 1;
        let mut transaction = begin(&mut lent.connection, deadline, time, default).await?;
        let found = span
            .query::<(String, Timestamp)>(&walk(default.unwrap_or("events")))
            .bind(search.after.as_deref())
            .bind(search.prefix.as_deref().unwrap_or_default())
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
            .fetch_all(&mut *transaction)
            .await;
        transaction.rollback().await?;
        let Some(found) = in_time(found)? else {
            return Ok((lent, None, spans));
        };
        for (subject, time) in found {
            let known = newest.entry(subject).or_insert(time);
            *known = time.max(*known);
        }
        // The first ones of all are among the first ones of each span.
        while newest.len() > wanted {
            newest.pop_last();
        }
    }
    let has_more = newest.len() == wanted;
    let subjects = newest.into_iter().take(search.limit).collect();
    let page = SubjectPage { subjects, has_more };
    Ok((lent, Some(page), spans))
}
