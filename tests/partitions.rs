//! Times at the edges: every event lands somewhere, and is found there.

mod large_default;
mod last_word;
mod upkeep;

use std::time::{Duration, Instant};

use ganesh::config::PartitionInterval;
use ganesh::event::{Event, Timestamp};
use ganesh::storage::partitions::{Partition, Upkeep, drop_expired, make_ahead, partition_of};

use crate::support::events::{event, publish};
use crate::support::{Stack, eventually};

const MICROS_A_DAY: i64 = 86_400_000_000;

fn at(id: &str, time: Timestamp) -> Event {
    Event { time, ..event(id) }
}

async fn table_of(stack: &Stack, id: &str) -> String {
    sqlx::query_scalar("SELECT tableoid::regclass::text FROM events WHERE id = $1")
        .bind(id)
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn years_back_and_ahead_land_in_the_default_partition() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let now = Timestamp::now().micros();
    let all = [
        at("back", Timestamp::from_micros(now - 3_650 * MICROS_A_DAY)),
        at("ahead", Timestamp::from_micros(now + 3_650 * MICROS_A_DAY)),
        at("first", Timestamp::MIN),
        at("last", Timestamp::MAX),
        at("now", Timestamp::from_micros(now)),
    ];
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    for id in ["back", "ahead", "first", "last"] {
        assert_eq!(table_of(&stack, id).await, "events_default", "{id}");
    }
    let today = partition_of(Timestamp::from_micros(now), PartitionInterval::Day);
    assert_eq!(table_of(&stack, "now").await, today.name);
}

#[tokio::test]
async fn a_time_exactly_on_a_boundary_belongs_to_the_later_partition() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let today = partition_of(Timestamp::now(), PartitionInterval::Day);
    let yesterday = partition_of(
        Timestamp::from_micros(today.from.micros() - 1),
        PartitionInterval::Day,
    );
    let all = [
        at("on", today.from),
        at("before", Timestamp::from_micros(today.from.micros() - 1)),
    ];
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    assert_eq!(table_of(&stack, "on").await, today.name);
    assert_eq!(table_of(&stack, "before").await, yesterday.name);
}

#[tokio::test]
async fn an_event_without_time_has_the_time_at_which_the_stream_stored_it() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "timeless"),
        ("ce-source", "/test"),
        ("ce-type", "t"),
    ] {
        headers.insert(name, value);
    }
    let jetstream = stack.jetstream().await;
    let acknowledgement = jetstream
        .publish_with_headers("events.test", headers, "{}".into())
        .await
        .unwrap();
    acknowledgement.await.unwrap();
    stack.wait_until_drained().await;
    let same: bool =
        sqlx::query_scalar("SELECT time = published_at FROM events WHERE id = 'timeless'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert!(same);
}

#[tokio::test]
async fn rows_that_waited_in_the_default_partition_move_when_theirs_is_made() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let next_week = Timestamp::from_micros(Timestamp::now().micros() + 7 * MICROS_A_DAY);
    publish(&stack.jetstream().await, &[at("early", next_week)]).await;
    stack.wait_until_drained().await;
    assert_eq!(table_of(&stack, "early").await, "events_default");
    make_ahead(&stack.pool, PartitionInterval::Day, next_week)
        .await
        .unwrap();
    let theirs = partition_of(next_week, PartitionInterval::Day);
    assert_eq!(table_of(&stack, "early").await, theirs.name);
    assert_eq!(stack.rows().await, 1);
}

#[tokio::test]
async fn retention_drops_whole_partitions_and_expired_rows_of_the_default_one() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let now = Timestamp::now();
    let old = Timestamp::from_micros(now.micros() - 30 * MICROS_A_DAY);
    // A minute younger than the retention period: its partition began before the cutoff.
    let kept = Timestamp::from_micros(now.micros() - 7 * MICROS_A_DAY + 60_000_000);
    for time in [old, kept] {
        make_ahead(&stack.pool, PartitionInterval::Day, time)
            .await
            .unwrap();
    }
    let outlier = Timestamp::from_micros(now.micros() - 400 * MICROS_A_DAY);
    let all = [
        at("expired", old),
        at("outlier", outlier),
        at("kept", kept),
        at("fresh", now),
    ];
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 4);
    drop_expired(&stack.pool, 7, now).await.unwrap();
    let left: Vec<String> = sqlx::query_scalar("SELECT id FROM events ORDER BY id")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(left, ["fresh", "kept"]);
    let name = partition_of(old, PartitionInterval::Day).name;
    let gone: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NULL")
        .bind(name)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!(gone);
}

#[tokio::test]
async fn another_interval_leaves_partitions_that_exist_alone() {
    let stack = Stack::start().await;
    drop(stack.serve(&[]).await);
    let hourly = stack.serve(&[("GANESH_PARTITION_INTERVAL", "hour")]).await;
    publish(&stack.jetstream().await, &[event("e")]).await;
    stack.wait_until_drained().await;
    let today = partition_of(Timestamp::now(), PartitionInterval::Day);
    assert_eq!(table_of(&stack, "e").await, today.name);
    assert!(hourly.terminate().await.success());
}

#[test]
fn a_partition_is_a_calendar_day_or_hour_of_utc() {
    let partition = |time: &str, interval| {
        let found = partition_of(Timestamp::parse_rfc3339(time).unwrap(), interval);
        (found.name, found.from.to_string(), found.to.to_string())
    };
    let expected = |name: &str, from: &str, to: &str| (name.into(), from.into(), to.into());
    let day = expected(
        "events_p20261123",
        "2026-11-23T00:00:00Z",
        "2026-11-24T00:00:00Z",
    );
    assert_eq!(
        partition("2026-11-23T00:00:00Z", PartitionInterval::Day),
        day
    );
    assert_eq!(
        partition("2026-11-23T23:59:59.999999Z", PartitionInterval::Day),
        day
    );
    let hour = expected(
        "events_p2026112320",
        "2026-11-23T20:00:00Z",
        "2026-11-23T21:00:00Z",
    );
    assert_eq!(
        partition("2026-11-23T20:00:00Z", PartitionInterval::Hour),
        hour
    );
    assert_eq!(
        partition("2026-11-23T20:59:59.999999Z", PartitionInterval::Hour),
        hour
    );
}

#[tokio::test]
async fn partitions_are_there_days_before_their_time() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let now = Timestamp::now().micros();
    let day = |days: i64| Timestamp::from_micros(now + days * MICROS_A_DAY);
    let all: Vec<Event> = (-1..=3)
        .map(|days| at(&format!("{days}"), day(days)))
        .collect();
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    for days in -1..=3 {
        let theirs = partition_of(day(days), PartitionInterval::Day);
        assert_eq!(table_of(&stack, &days.to_string()).await, theirs.name);
    }
}

#[tokio::test]
async fn another_interval_begins_where_partitions_that_exist_end() {
    let stack = Stack::start().await;
    drop(stack.serve(&[]).await);
    // The last hour that the days made by `serve` cover: the hours after it are free.
    let last_day = Timestamp::from_micros(Timestamp::now().micros() + 3 * MICROS_A_DAY);
    let days_end = partition_of(last_day, PartitionInterval::Day).to;
    let last_hour = Timestamp::from_micros(days_end.micros() - 1);
    make_ahead(&stack.pool, PartitionInterval::Hour, last_hour)
        .await
        .unwrap();
    let first_free = partition_of(days_end, PartitionInterval::Hour).name;
    let made: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(first_free)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!(made);
}

#[tokio::test]
async fn upkeep_that_fails_is_counted_and_events_are_stored_all_the_same() {
    const FAILURES: &str = "ganesh_partition_upkeep_failures";
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    // That of whoever makes partitions ("ganesh" in ASCII).
    let mut busy = stack.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(x'67616e657368'::bigint)")
        .execute(&mut *busy)
        .await
        .unwrap();
    let ganesh = stack.serve(&[]).await;
    assert!((ganesh.metric(FAILURES).await - 1.0).abs() < f64::EPSILON);
    let log = ganesh.log();
    assert!(log.contains("partitions were not looked after"), "{log}");
    publish(&stack.jetstream().await, &[event("early")]).await;
    stack.wait_until_drained().await;
    assert_eq!(table_of(&stack, "early").await, "events_default");
    assert!(ganesh.terminate().await.success());
    drop(busy.detach());
    let ganesh = stack.serve(&[]).await;
    assert!(ganesh.metric(FAILURES).await < f64::EPSILON);
    assert!(table_of(&stack, "early").await.starts_with("events_p"));
}

/// The runbook's statements for one partition.
fn move_by_hand(partition: &Partition) -> String {
    let Partition { name, from, to } = partition;
    let runbook = include_str!("../docs/RUNBOOK.md");
    let (_, statements) = runbook.split_once("```sql\nBEGIN;\n").unwrap();
    let (statements, _) = statements.split_once("```").unwrap();
    let statements = format!("BEGIN;\n{statements}").replace("events_p…", name);
    // The bounds, in turn.
    let mut bounds = [from, to].into_iter().cycle();
    let parts: Vec<&str> = statements.split('…').collect();
    let (last, parts) = parts.split_last().unwrap();
    let filled = parts
        .iter()
        .map(|part| format!("{part}{}", bounds.next().unwrap()));
    filled.collect::<String>() + last
}

#[tokio::test]
async fn rows_of_the_default_partition_move_by_hand_as_the_runbook_says() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let next_week = Timestamp::from_micros(Timestamp::now().micros() + 7 * MICROS_A_DAY);
    publish(&stack.jetstream().await, &[at("ahead", next_week)]).await;
    stack.wait_until_drained().await;
    let partition = partition_of(next_week, PartitionInterval::Day);
    let statements = move_by_hand(&partition);
    sqlx::raw_sql(&statements)
        .execute(&stack.pool)
        .await
        .unwrap();
    assert_eq!(table_of(&stack, "ahead").await, partition.name);
    assert_eq!(stack.rows().await, 1);
}

#[tokio::test]
async fn rows_that_another_replica_moves_are_left_to_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let next_week = Timestamp::from_micros(Timestamp::now().micros() + 7 * MICROS_A_DAY);
    publish(&stack.jetstream().await, &[at("ahead", next_week)]).await;
    stack.wait_until_drained().await;
    assert!(ganesh.terminate().await.success());
    // That of whoever copies ("ganesi" in ASCII).
    let mut other = stack.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(x'67616e657369'::bigint)")
        .execute(&mut *other)
        .await
        .unwrap();
    let make = || make_ahead(&stack.pool, PartitionInterval::Day, next_week);
    assert_eq!(make().await.unwrap(), Upkeep::LeftToAnother);
    assert_eq!(table_of(&stack, "ahead").await, "events_default");
    drop(other.detach());
    eventually("its lock is gone", || async {
        make().await.unwrap() == Upkeep::Done
    })
    .await;
    assert!(table_of(&stack, "ahead").await.starts_with("events_p"));
}

#[tokio::test]
async fn partitions_are_looked_after_at_once_when_postgres_is_back() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    let began = Instant::now();
    let tomorrow = partition_of(
        Timestamp::from_micros(Timestamp::now().micros() + MICROS_A_DAY),
        PartitionInterval::Day,
    )
    .name;
    let drop = format!("DROP TABLE {tomorrow}");
    sqlx::query(&drop).execute(&stack.pool).await.unwrap();
    stack.postgres.as_mut().unwrap().crash();
    eventually("it is missed", || async {
        ganesh
            .metric("ganesh_dependency_up{dependency=\"postgres\"}")
            .await
            < 0.5
    })
    .await;
    stack.postgres.as_mut().unwrap().run();
    eventually("the partition is made again", || async {
        let there = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(&tomorrow)
            .fetch_one(&stack.pool)
            .await;
        there.unwrap_or(false)
    })
    .await;
    // The next round would come a minute after the start.
    assert!(began.elapsed() < Duration::from_secs(55));
}
