//! `GET /v1/subjects`: compared with what the test published.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ganesh::event::{Event, Timestamp};
use serde_json::json;

use super::client::{get, store};
use super::search::next_of;
use crate::support::reads::of;
use crate::support::{Ganesh, Stack};

const DAY: i64 = 86_400_000_000;

/// Subjects and times of all pages.
async fn all(ganesh: &Ganesh, query: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut path = Some(format!("/v1/subjects?{query}"));
    while let Some(asked) = path {
        let page = get(ganesh, &asked).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(page.header("content-type"), Some("application/json"));
        for listed in page.json()["subjects"].as_array().unwrap() {
            let text = |name: &str| listed[name].as_str().unwrap().to_owned();
            found.push((text("subject"), text("time")));
        }
        path = next_of(&page);
    }
    found
}

#[tokio::test]
async fn subjects_come_by_name_with_the_time_of_their_newest_event() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    assert_eq!(all(&ganesh, "").await, []);
    let now = Timestamp::now().micros();
    let names = [
        "a", "a/b", "a/b/c", "a%", "a_", "b", "ü", "Z", "zürich", "10", "9", "a b", "ab",
    ];
    let mut events: Vec<Event> = Vec::new();
    let mut newest: BTreeMap<String, Timestamp> = BTreeMap::new();
    for i in 0..200 {
        let name = names[i % names.len()];
        // In the default partition on both sides, and in those around now.
        let days = [0, -1, -300, 2, 300, 0][i / names.len() % 6];
        let seconds = i64::try_from(i * 7 % 11).unwrap();
        let time = Timestamp::from_micros(now + days * DAY * i64::from(i % 13 != 5) + seconds);
        events.push(of(name, &format!("e-{i}"), time));
        let known = newest.entry(name.to_owned()).or_insert(time);
        *known = time.max(*known);
    }
    events.push(Event {
        subject: None,
        ..of("none", "none", Timestamp::from_micros(now))
    });
    store(&stack, &events).await;
    for (query, prefix) in [
        ("", ""),
        ("prefix=a", "a"),
        ("prefix=a/b", "a/b"),
        ("prefix=a%25", "a%"),
        ("prefix=a_", "a_"),
        ("prefix=%C3%BC", "ü"),
        ("prefix=a+b", "a b"),
        ("prefix=unknown", "unknown"),
    ] {
        let matching = newest.iter().filter(|(name, _)| name.starts_with(prefix));
        let expected: Vec<(String, String)> = matching
            .map(|(name, time)| (name.clone(), time.to_string()))
            .collect();
        for limit in ["limit=1", "limit=3", "limit=13", "limit=1000"] {
            let found = all(&ganesh, &format!("{query}&{limit}")).await;
            assert_eq!(found, expected, "{query} {limit}");
        }
    }
}

#[tokio::test]
async fn a_list_of_subjects_does_not_read_their_events() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let insert = "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, \
         published_at, trace_id) \
         SELECT n::text, '/many', now() - n * interval '1 ms', 't', 's-' || n % 20, 'events.test', 0, \
         now(), '' FROM generate_series(1, 200000) AS n";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    sqlx::query("ANALYZE events")
        .execute(&stack.pool)
        .await
        .unwrap();
    let (mut listed, mut read) = (Duration::MAX, Duration::MAX);
    for _ in 0..10 {
        let began = Instant::now();
        assert_eq!(all(&ganesh, "").await.len(), 20);
        listed = listed.min(began.elapsed());
        let began = Instant::now();
        let by_reading = "SELECT subject, max(time) FROM events GROUP BY subject";
        let found = sqlx::query(by_reading).fetch_all(&stack.pool).await;
        assert_eq!(found.unwrap().len(), 20);
        read = read.min(began.elapsed());
    }
    assert!(listed * 2 < read, "{listed:?}, reading {read:?}");
    assert_eq!(
        get(&ganesh, "/v1/subjects?prefix=s-7").await.json()["subjects"][0]["subject"],
        json!("s-7")
    );
}

/// Rows older than all partitions, such as those of an import.
#[tokio::test]
async fn a_large_default_partition_does_not_keep_subjects_from_being_listed() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let insert = "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, \
         published_at, trace_id) \
         SELECT n::text, '/old', '2020-01-01Z'::timestamptz + n * interval '1 ms', 't', \
         CASE WHEN n > 5 THEN 's-' || lpad((n % 1000)::text, 3, '0') END, 'events.test', 0, \
         now(), '' FROM generate_series(1, 300000) AS n";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    // Whoever reads both together looks through the old rows for each of these.
    let insert = "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, \
         published_at, trace_id) \
         SELECT n::text, '/new', now() - interval '1 min', 't', 's-' || lpad(n::text, 3, '0'), 'events.test', 0, \
         now(), '' FROM generate_series(0, 999) AS n WHERE n % 10 <> 6";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    let now = Timestamp::from_micros(Timestamp::now().micros() / 1_000_000 * 1_000_000);
    let newer = of("s-002", "newer", now);
    let (before, after) = (of("a", "before", now), of("z", "after", now));
    store(&stack, &[newer, before, after]).await;
    let found = all(&ganesh, "limit=1000").await;
    assert_eq!(found.len(), 1_002);
    let at = |place: usize| (found[place].0.as_str(), found[place].1.as_str());
    let now = now.to_string();
    assert_eq!(at(0), ("a", now.as_str()));
    assert_eq!(at(1).0, "s-000");
    assert!(at(1).1 > "2026", "{}", at(1).1);
    assert_eq!(at(3), ("s-002", now.as_str()));
    assert_eq!(at(7), ("s-006", "2020-01-01T00:04:59.006Z"));
    assert_eq!(at(1_001), ("z", now.as_str()));
}
