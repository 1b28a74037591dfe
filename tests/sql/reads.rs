//! What the other reads of the API read of a million events, by the counters of Postgres.

use ganesh::config::PartitionInterval;
use ganesh::storage::counts::{CountBy, CountSearch};
use ganesh::storage::queries::{EventKey, Reads};
use ganesh::storage::subjects::SubjectSearch;
use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use super::searches::{at, read};
use super::{Made, filled};

const SOURCE: &str = "https://fleet.example.com";
const EVENT: i64 = 450_000;
const A_QUARTER_OF_AN_HOUR: i64 = 1_042;

/// A pool of one session: its counters are seen once it has flushed them, and it is the one that reads.
async fn one_session(filled: &PgPool) -> PgPool {
    let one = PgPoolOptions::new().max_connections(1);
    let options = (*filled.connect_options()).clone();
    one.connect_with(options).await.unwrap()
}

/// Rows and entries of indexes that were read since the counters began anew, all by an index.
async fn by_index(pool: &PgPool, what: &str) -> i64 {
    let read = read(pool).await;
    let is_by_index = read.values().all(|(_, all)| !*all);
    assert!(is_by_index, "{what}: {read:?}");
    pool.execute("SELECT pg_stat_reset()").await.unwrap();
    read.values().map(|(rows, _)| *rows).sum()
}

#[tokio::test]
async fn single_events_newest_states_and_subjects_are_read_by_an_index() {
    let (_alone, filled) = filled().await;
    let pool = one_session(&filled).await;
    let reads = Reads::new(pool.clone(), PartitionInterval::Day);
    pool.execute("SELECT pg_stat_reset()").await.unwrap();
    let id = format!("event-{EVENT}");
    for (id, source, time, is_there) in [
        (id.as_str(), None, None, true),
        (&id, Some(SOURCE), None, true),
        (&id, Some(SOURCE), Some(at(EVENT)), true),
        (&id, None, Some(at(EVENT)), true),
        ("unknown", None, None, false),
        ("unknown", Some(SOURCE), None, false),
    ] {
        let key = EventKey { id, source, time };
        let found = reads.event_by_id(&key).await.unwrap();
        assert_eq!(found.is_some(), is_there, "{key:?}");
        let read = by_index(&pool, &format!("{key:?}")).await;
        assert!(read <= 40, "{key:?}: {read} rows and entries");
    }
    for (subject, is_there) in [(Made(EVENT).subject(), true), ("unknown".to_owned(), false)] {
        let found = reads.newest_of_subject(&subject).await.unwrap();
        assert_eq!(found.is_some(), is_there, "{subject}");
        let read = by_index(&pool, &subject).await;
        assert!(read <= 40, "{subject}: {read} rows and entries");
    }
    let list = SubjectSearch {
        limit: 100,
        ..SubjectSearch::default()
    };
    assert_eq!(reads.subjects(&list).await.unwrap().subjects.len(), 100);
    let read = by_index(&pool, "subjects").await;
    // A row and an entry for each subject and partition, and for the one that tells whether there are more.
    assert!(read <= 2 * 101 * 11, "subjects: {read} rows and entries");
}

#[tokio::test]
async fn counts_read_only_their_range() {
    let (_alone, filled) = filled().await;
    let pool = one_session(&filled).await;
    let reads = Reads::new(pool.clone(), PartitionInterval::Day);
    for (events, is_by_index) in [(A_QUARTER_OF_AN_HOUR, true), (40_000, false)] {
        for by in [None, Some(CountBy::Type), Some(CountBy::Subject)] {
            pool.execute("SELECT pg_stat_reset()").await.unwrap();
            let search = CountSearch {
                from: at(EVENT),
                to: at(EVENT + events),
                bucket_micros: 60_000_000,
                by,
                counts_max: 1_000_000,
            };
            let counts = reads.counts(&search).await.unwrap();
            assert_eq!(counts.values().sum::<i64>(), events);
            let read = read(&pool).await;
            let partitions: Vec<&str> = read.keys().map(String::as_str).collect();
            assert_eq!(partitions, ["p4"], "{read:?}");
            let (rows, all) = read["p4"];
            if is_by_index {
                assert!(!all && rows <= 2 * events + 2, "{read:?}");
            }
        }
    }
}
