//! Reads, upkeep and `doctor` where somebody detached, dropped or replaced the default partition.

use std::process::Output;

use ganesh::config::PartitionInterval;
use ganesh::event::Timestamp;
use ganesh::storage::partitions::{Upkeep, drop_expired, make_ahead, partition_of};
use sqlx::Executor;

use super::client::{get, store};
use super::tail_client::Tail;
use crate::support::ganesh::run;
use crate::support::reads::of;
use crate::support::{Ganesh, Stack};

const DAY: i64 = 86_400_000_000;

/// What is done to it, and whether its rows are rows of `events` then.
const CASES: [(&str, bool); 3] = [
    ("ALTER TABLE events DETACH PARTITION events_default", false),
    ("DROP TABLE events_default", false),
    (
        "ALTER TABLE events DETACH PARTITION events_default; \
         CREATE TABLE \"Another one\" (LIKE events INCLUDING ALL); \
         ALTER TABLE events ATTACH PARTITION \"Another one\" DEFAULT; \
         INSERT INTO events SELECT * FROM events_default",
        true,
    ),
];

/// The ids of a search, the subjects of a list, and how many events are counted.
async fn read(ganesh: &Ganesh) -> (Vec<String>, Vec<String>, i64) {
    let (mut ids, mut path) = (
        Vec::new(),
        Some("/v1/events?type=com.example.test".to_owned()),
    );
    while let Some(asked) = path {
        let page = get(ganesh, &asked).await;
        assert_eq!(page.status, 200, "{page:?}");
        let events = page.json().as_array().unwrap().clone();
        ids.extend(events.iter().map(|e| e["id"].as_str().unwrap().to_owned()));
        path = super::search::next_of(&page);
    }
    let list = get(ganesh, "/v1/subjects").await;
    assert_eq!(list.status, 200, "{list:?}");
    let subjects = list.json()["subjects"].as_array().unwrap().clone();
    let subjects = subjects.iter().map(|s| s["subject"].as_str().unwrap());
    let now = Timestamp::now().micros();
    let [from, to] = [-400, 400].map(|days| Timestamp::from_micros(now + days * DAY));
    let stats = get(ganesh, &format!("/v1/stats?bucket=30d&from={from}&to={to}")).await;
    assert_eq!(stats.status, 200, "{stats:?}");
    let counts = stats.json()["counts"].as_array().unwrap().clone();
    let counts = counts.iter().map(|count| count["count"].as_i64().unwrap());
    (ids, subjects.map(str::to_owned).collect(), counts.sum())
}

#[tokio::test]
async fn reads_and_upkeep_do_without_the_default_partition() {
    for (change, has_far) in CASES {
        let stack = Stack::start().await;
        let ganesh = stack.serve(&[]).await;
        let now = Timestamp::now().micros();
        let at = |days: i64| Timestamp::from_micros(now + days * DAY);
        let all = [
            of("near", "near", at(0)),
            of("far", "far", at(-300)),
            of("week", "week", at(7)),
        ];
        store(&stack, &all).await;
        let (ids, subjects, count) = read(&ganesh).await;
        assert_eq!((ids.len(), subjects.len(), count), (3, 3, 3), "{change}");
        stack.pool.execute(change).await.unwrap();
        let (ids, subjects, count) = read(&ganesh).await;
        if has_far {
            assert_eq!(ids, ["week", "near", "far"], "{change}");
            assert_eq!(subjects, ["far", "near", "week"], "{change}");
            assert_eq!(count, 3, "{change}");
            let mut tail = Tail::open(&ganesh, "newest=3").await.ids(3).await;
            tail.sort_unstable();
            assert_eq!(tail, ["far", "near", "week"], "{change}");
        } else {
            assert_eq!((ids, subjects), (vec!["near".into()], vec!["near".into()]));
            assert_eq!(count, 1, "{change}");
            let mut tail = Tail::open(&ganesh, "newest=3").await;
            assert_eq!(tail.ids(1).await, ["near"]);
            store(&stack, &[of("near", "then", at(0))]).await;
            assert_eq!(tail.ids(1).await, ["then"]);
            assert_eq!(get(&ganesh, "/v1/events/far").await.status, 404);
            upkeep_leaves_its_rows_alone(&stack, at(7)).await;
        }
    }
}

/// A partition for that time is made and dropped all the same.
async fn upkeep_leaves_its_rows_alone(stack: &Stack, time: Timestamp) {
    let made = make_ahead(&stack.pool, PartitionInterval::Day, time).await;
    assert_eq!(made.unwrap(), Upkeep::Done);
    let name = partition_of(time, PartitionInterval::Day).name;
    let rows = format!("SELECT count(*) FROM {name}");
    let rows: i64 = sqlx::query_scalar(&rows)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    drop_expired(&stack.pool, 1, Timestamp::now())
        .await
        .unwrap();
    let there = "SELECT to_regclass('events_default')::text";
    let there: Option<String> = sqlx::query_scalar(there)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    if there.is_some() {
        let rows = "SELECT count(*) FROM events_default";
        let rows: i64 = sqlx::query_scalar(rows)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        assert_eq!(rows, 2, "rows of a detached table are the operator's");
    }
}

#[tokio::test]
async fn doctor_says_which_statement_puts_it_back() {
    for (change, is_replaced) in CASES {
        let stack = Stack::start().await;
        stack.make_streams().await;
        let doctor = || run(Some(&stack), &["doctor"], &[]);
        let find = |output: &Output| {
            let said = String::from_utf8(output.stdout.clone()).unwrap();
            let line = said.lines().find(|line| line.contains("default partition"));
            line.map(str::to_owned)
        };
        let output = doctor();
        assert_eq!((output.status.code(), find(&output)), (Some(0), None));
        stack.pool.execute(change).await.unwrap();
        let output = doctor();
        // Another one has the rows, too, but upkeep does not know it.
        assert_eq!(output.status.code(), Some(i32::from(!is_replaced)));
        let said = find(&output).unwrap();
        let level = if is_replaced { "warning" } else { "FAILED" };
        assert!(said.starts_with(level), "{said}");
        // The fix as it stands there.
        let fix = said.rsplit_once(": ").unwrap().1;
        stack.pool.execute(fix).await.unwrap();
        let output = doctor();
        assert_eq!(
            (output.status.code(), find(&output)),
            (Some(0), None),
            "{fix}"
        );
        assert_eq!(
            make_ahead(&stack.pool, PartitionInterval::Day, Timestamp::now())
                .await
                .unwrap(),
            Upkeep::Done
        );
    }
}
