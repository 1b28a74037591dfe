//! What a search, and a page of the tail, read of a million events, by the counters of Postgres.

use std::collections::BTreeMap;
use std::time::Instant;

use ganesh::config::PartitionInterval;
use ganesh::event::Timestamp;
use ganesh::storage::queries::Reads;
use ganesh::storage::search::{
    Comparison, DataCondition, DataTest, EventFilter, EventSearch, Operand,
};
use ganesh::storage::tail::lease::TailLease;
use ganesh::storage::tail::{TailPace, TailPosition};
use serde_json::Value;
use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};

use super::{APART_MICROS, EVENTS, START_MICROS, filled};
use crate::support::PATIENCE;

const LIMIT: usize = 100;

/// The time of an event.
pub fn at(event: i64) -> Timestamp {
    Timestamp::from_micros(START_MICROS + event * APART_MICROS)
}

/// Of each partition, how many rows and entries of indexes were read, and whether without an index.
pub async fn read(pool: &PgPool) -> BTreeMap<String, (i64, bool)> {
    pool.execute("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    let counters = "SELECT relname::text, \
            (seq_tup_read + (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes AS index \
             WHERE index.relid = partition.relid))::bigint, seq_tup_read > 0 \
        FROM pg_stat_user_tables AS partition WHERE relname ~ '^p\\d$' OR relname = 'events_default'";
    let counters: Vec<(String, i64, bool)> =
        sqlx::query_as(counters).fetch_all(pool).await.unwrap();
    let counters = counters.into_iter().filter(|(_, rows, _)| *rows > 0);
    counters
        .map(|(name, rows, all)| (name, (rows, all)))
        .collect()
}

fn condition(path: &str, comparison: Comparison, value: &str) -> DataCondition {
    let operand = Operand {
        text: value.to_owned(),
        is_number: true,
    };
    DataCondition {
        path: vec![path.to_owned()],
        test: DataTest::Compare(comparison, operand),
    }
}

/// Each with its name, and how many rows and entries a page of it may read.
fn shapes() -> Vec<(&'static str, EventSearch, i64)> {
    let with = |set: fn(&mut EventSearch)| {
        let mut search = EventSearch {
            limit: LIMIT,
            ..EventSearch::default()
        };
        search.filter.to = Some(at(EVENTS));
        set(&mut search);
        search
    };
    let range = with(|search| {
        search.filter.from = Some(at(450_000));
        search.filter.to = Some(at(460_000));
    });
    let frequent = with(|search| {
        search.filter.event_type = Some("com.example.device.telemetry.v1".to_owned());
    });
    let rare =
        with(|search| search.filter.event_type = Some("com.example.order.created.v1".to_owned()));
    let source = with(|search| search.filter.source = Some("https://fleet.example.com".to_owned()));
    let subject = with(|search| search.filter.subject = Some("device-000100".to_owned()));
    let prefix = with(|search| search.filter.subject_prefix = Some("device-0001".to_owned()));
    let value = with(|search| {
        let condition = condition("temperature_celsius", Comparison::GreaterOrEqual, "34");
        search.filter.data.push(condition);
    });
    let of_subject = with(|search| {
        search.filter.subject = Some("device-000100".to_owned());
        let condition = condition("sequence", Comparison::Less, "900");
        search.filter.data.push(condition);
    });
    vec![
        ("all", with(|_| {}), 300),
        ("a range", range, 300),
        ("a type that many have", frequent, 400),
        ("a type of one in ten", rare, 3_000),
        ("a source", source, 300),
        ("a subject", subject, 450),
        ("subjects of one in ten", prefix, 3_000),
        ("a value of one in 20", value, 6_000),
        ("a value of a subject", of_subject, 600),
    ]
}

#[tokio::test]
async fn a_page_reads_little_more_than_it_shows() {
    let (_alone, filled) = filled().await;
    // The counters of a session are seen once it has flushed them: it is the one that reads.
    let one = PgPoolOptions::new().max_connections(1);
    let options = (*filled.connect_options()).clone();
    let pool = one.connect_with(options).await.unwrap();
    let reads = Reads::new(pool.clone(), PartitionInterval::Day);
    for (name, mut search, most) in shapes() {
        for page in ["first", "second"] {
            pool.execute("SELECT pg_stat_reset()").await.unwrap();
            let found = reads.search(&search).await.unwrap();
            let read = read(&pool).await;
            let events: Vec<Value> = found
                .events
                .iter()
                .map(|event| serde_json::from_slice(event).unwrap())
                .collect();
            assert_eq!(events.len(), LIMIT, "{name}, {page} page");
            let rows: i64 = read.values().map(|(rows, _)| *rows).sum();
            let is_by_index = read.values().all(|(_, all)| !*all);
            assert!(is_by_index && rows <= most, "{name}, {page} page: {read:?}");
            search.after = found.next;
        }
    }
}

#[tokio::test]
async fn a_page_of_the_tail_reads_little_more_than_it_shows() {
    let (_alone, filled) = filled().await;
    let one = PgPoolOptions::new().max_connections(1);
    let options = (*filled.connect_options()).clone();
    let pool = one.connect_with(options).await.unwrap();
    let reads = Reads::new(pool.clone(), PartitionInterval::Day);
    let end = TailLease::new(pool.clone()).begin().await.unwrap();
    let begin = TailPosition::Before(end.running);
    // Each transaction stores into all partitions.
    for transaction in 0..60 {
        let store = format!(
            "INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
             SELECT 'tail-{transaction}-' || n, '/tail', '2026-11-20Z'::timestamptz + n * interval '12 h', \
                 'tail-' || n % 2, 'events.tail', 0, now(), '' FROM generate_series(0, 19) AS n"
        );
        pool.execute(store.as_str()).await.unwrap();
    }
    let all = EventFilter::default();
    let half = EventFilter {
        event_type: Some("tail-0".to_owned()),
        ..EventFilter::default()
    };
    let (mut found, started) = (Vec::new(), Instant::now());
    for (filter, most) in [(&all, 3_000), (&half, 4_000)] {
        // Transactions of other tests hold the end of the tail back.
        let (page, read) = loop {
            pool.execute("SELECT pg_stat_reset()").await.unwrap();
            let start = TailPace::default();
            let page = reads.tail_page(filter, (end.marking, &begin), &start);
            let page = page.await.unwrap();
            if page.events.len() >= 500 {
                break (page, read(&pool).await);
            }
            assert!(started.elapsed() < PATIENCE, "{page:?}");
        };
        found.push((page.events.len(), read, most));
    }
    pool.execute("DELETE FROM tail").await.unwrap();
    pool.execute("DELETE FROM events WHERE source = '/tail'")
        .await
        .unwrap();
    for (events, read, most) in found {
        let rows: i64 = read.values().map(|(rows, _)| *rows).sum();
        let is_by_index = read.values().all(|(_, all)| !*all);
        assert_eq!(events, 500);
        assert!(is_by_index && rows <= most, "{read:?}");
    }
}
