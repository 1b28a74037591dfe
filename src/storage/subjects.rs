//! Which subjects there are, by name, and when the newest event of each happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::Connection;

use super::deadline::{Deadline, LentConnection};
use super::layout::Layout;
use super::queries::{READ_LIMIT, Reads};
use crate::error::Error;
use crate::event::Timestamp;

/// The server ends a statement after this time. It fits in [`READ_LIMIT`].
pub(super) const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '3500ms'";

// From subject to subject by the index, whose order is (subject, time DESC): what a subject costs does not
// depend on how many events it has.
macro_rules! first_subject {
    ($after:literal) => {
        concat!(
            "(SELECT subject, time FROM events WHERE ", $after, " AND subject ^@ $4 \
              AND octet_length(subject) <= 1024 \
              AND ($1::timestamptz IS NULL OR time >= $1) AND ($2::timestamptz IS NULL OR time <= $2) \
              ORDER BY subject, time DESC LIMIT 1)"
        )
    };
}
const WALK: &str = concat!(
    "WITH RECURSIVE walk AS (",
    first_subject!("($3::text IS NULL OR subject > $3)"),
    " UNION ALL SELECT following.* FROM walk CROSS JOIN LATERAL ",
    first_subject!("subject > walk.subject"),
    " AS following) SELECT subject, time FROM walk LIMIT $5"
);

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
    /// When Postgres does not answer within [`READ_LIMIT`], or with an error.
    pub async fn subjects(&self, search: &SubjectSearch) -> Result<SubjectPage, Error> {
        let deadline = Deadline::new(READ_LIMIT, "list of subjects");
        let _turn = deadline.wait_for(self.searches.acquire()).await?;
        let _permit = deadline.wait_for(self.permits.acquire()).await?;
        self.read_until_it_stands(deadline, |lent, layout| page(lent, layout, search))
            .await
    }
}

/// Returns the page, and into how many spans it took a look.
async fn page(
    mut lent: LentConnection,
    layout: Arc<Layout>,
    search: &SubjectSearch,
) -> Result<(LentConnection, SubjectPage, usize), sqlx::Error> {
    // One more than asked for tells whether there are more.
    let wanted = search.limit + 1;
    let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut spans = 0;
    for span in layout.spans() {
        spans += 1;
        let mut transaction = lent.connection.begin_with(BEGIN).await?;
        let found: Vec<(String, Timestamp)> = span
            .query(WALK)
            .bind(search.after.as_deref())
            .bind(search.prefix.as_deref().unwrap_or_default())
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
            .fetch_all(&mut *transaction)
            .await?;
        transaction.rollback().await?;
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
    Ok((lent, page, spans))
}
