//! What the searches of `ganesh explain` and `GET /v1/explain` read of a million events, by the counters of
//! Postgres.

use std::collections::BTreeMap;

use ganesh::storage::trail::{self, FoundRows, RowSearch};
use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::searches::{at, read};
use super::{Made, filled};
use crate::support::{PATIENCE, eventually};

const SOURCE: &str = "https://fleet.example.com";
const EVENT: i64 = 450_000;
const SESSIONS: &str = "trail";
/// As of partitions that nobody has analysed yet.
const FORGET_STATISTICS: &str = "BEGIN; DELETE FROM pg_statistic WHERE starelid IN \
     (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)";

/// Partitions with how many rows and entries of indexes were read, and whether without an index.
type Read = BTreeMap<String, (i64, bool)>;

/// Looks for rows in a session that does this first.
async fn searched(
    filled: &PgPool,
    first: &'static str,
    wanted: &RowSearch<'_>,
) -> (FoundRows, Read) {
    let options: PgConnectOptions = (*filled.connect_options()).clone();
    let pool = PgPoolOptions::new().after_connect(move |connection, _| {
        Box::pin(async move { connection.execute(first).await.map(drop) })
    });
    let pool = pool.connect_lazy_with(options.application_name(SESSIONS));
    filled.execute("SELECT pg_stat_reset()").await.unwrap();
    let found = trail::rows(&pool, wanted, PATIENCE).await.unwrap();
    pool.close().await;
    // A session counts what it has read when it ends.
    let open =
        format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '{SESSIONS}'");
    eventually("the session ends", || async {
        sqlx::query_scalar(&open).fetch_one(filled).await.unwrap()
    })
    .await;
    (found, read(filled).await)
}

#[tokio::test]
async fn a_row_is_looked_for_by_an_index_where_one_has_it() {
    let (_alone, filled) = filled().await;
    let id = format!("event-{EVENT}");
    let by_id = |id, source, time| RowSearch::Id { id, source, time };
    let subject = Made(EVENT).subject();
    for statistics in ["", FORGET_STATISTICS] {
        for (wanted, is_there) in [
            (by_id(&id, None, None), true),
            (by_id(&id, Some(SOURCE), None), true),
            (by_id(&id, Some(SOURCE), Some(at(EVENT))), true),
            (by_id(&id, None, Some(at(EVENT))), true),
            (by_id("unknown", None, None), false),
            (by_id("unknown", Some(SOURCE), None), false),
            (RowSearch::Subject(&subject), true),
            (RowSearch::Subject("unknown"), false),
        ] {
            let (found, read) = searched(&filled, statistics, &wanted).await;
            assert!(found.is_complete, "{wanted:?}");
            assert_eq!(!found.rows.is_empty(), is_there, "{wanted:?}");
            let rows: i64 = read.values().map(|(rows, _)| *rows).sum();
            let is_by_index = read.values().all(|(_, all)| !*all);
            assert!(is_by_index && rows <= 100, "{wanted:?}: {read:?}");
        }
    }
}

#[tokio::test]
async fn without_an_index_no_partition_is_read_that_is_older_than_the_row() {
    let (_alone, filled) = filled().await;
    let trace = format!("{EVENT:032x}");
    let sequence = u64::try_from(EVENT).unwrap() + 1;
    for wanted in [RowSearch::Sequence(sequence), RowSearch::Trace(&trace)] {
        let (found, read) = searched(&filled, "", &wanted).await;
        let sequences: Vec<_> = found.rows.iter().map(trail::EventRow::sequence).collect();
        assert_eq!(sequences, [sequence], "{wanted:?}");
        let partitions: Vec<&str> = read.keys().map(String::as_str).collect();
        assert_eq!(
            partitions,
            ["p4", "p5", "p6", "p7", "p8", "p9"],
            "{wanted:?}"
        );
    }
}
