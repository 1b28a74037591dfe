//! Hundreds of partitions on a server with room for few locks, as thousands on one with its defaults.

use std::time::{Duration, Instant};

use ganesh::config::PartitionInterval;
use ganesh::event::{Data, Event, Timestamp};
use ganesh::storage::partitions::{Partition, partition_of};
use sqlx::Executor;

use crate::support::events::{event, publish};
use crate::support::ganesh::run;
use crate::support::keys::publish_in_one_batch;
use crate::support::servers::postgres_with;
use crate::support::{Ganesh, Stack};

const MICROS_AN_HOUR: i64 = 3_600_000_000;
const PARTITIONS: i64 = 400;

/// Room for 300 locks and some slack: a statement that touches all partitions needs 1,200.
const FEW_LOCKS: &str =
    "-c max_connections=30 -c max_locks_per_transaction=10 -c max_wal_senders=0";

/// Statements for which the server had too few locks.
const TOO_MUCH: &str = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"resources\"}";

fn hours_ago(hours: i64) -> Timestamp {
    Timestamp::from_micros(Timestamp::now().micros() - hours * MICROS_AN_HOUR)
}

fn of(id: &str, hours: i64) -> Event {
    Event {
        time: hours_ago(hours),
        subject: Some(format!("subject-of-{id}")),
        ..event(id)
    }
}

/// Hourly partitions up to the current one, and events in some of them.
async fn with_partitions() -> (Stack, Ganesh) {
    let stack = Stack::start_on(postgres_with(&[("POSTGRES_ARGS", FEW_LOCKS)])).await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    for hours in 0..PARTITIONS {
        let Partition { name, from, to } = partition_of(hours_ago(hours), PartitionInterval::Hour);
        let make = format!(
            "CREATE TABLE {name} (LIKE events INCLUDING ALL); \
             ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
        );
        stack.pool.execute(make.as_str()).await.unwrap();
    }
    let settings = [
        ("GANESH_PARTITION_INTERVAL", "hour"),
        ("GANESH_WRITERS", "1"),
    ];
    let ganesh = stack.serve(&settings).await;
    let all = [
        of("new", 0),
        of("old", PARTITIONS - 2),
        of("older-than-all", 10 * PARTITIONS),
        of("often", 1),
        of("often", 100),
        of("often", PARTITIONS - 3),
    ];
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    (stack, ganesh)
}

#[tokio::test]
async fn reads_touch_a_bounded_number_of_partitions_at_a_time() {
    let (stack, ganesh) = with_partitions().await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", ganesh.api)).await.unwrap();
        let link = answer.headers().get("link").cloned();
        let links = link.map_or(0, |link| {
            link.to_str().unwrap().matches("alternate").count()
        });
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        (
            status,
            body["time"].as_str().unwrap_or_default().to_owned(),
            links,
        )
    };
    for id in ["new", "old", "older-than-all"] {
        let (status, time, links) = get(&format!("/v1/events/{id}")).await;
        assert_eq!((status, links), (200, 0), "{id}");
        let (status, same, _) = get(&format!("/v1/events/{id}?source=/test&time={time}")).await;
        assert_eq!((status, &same), (200, &time), "{id}");
        let (status, same, _) = get(&format!("/v1/subjects/subject-of-{id}/latest")).await;
        assert_eq!((status, &same), (200, &time), "{id}");
    }
    let (status, time, links) = get("/v1/events/often").await;
    assert_eq!((status, links), (200, 2));
    assert!(time > hours_ago(2).to_string(), "{time}");
    let (status, _, links) = get(&format!("/v1/events/often?time={time}")).await;
    assert_eq!((status, links), (200, 0));
    let stream = format!("{}/v1/events/stream?newest=10", ganesh.api);
    let mut stream = reqwest::get(stream).await.unwrap();
    let mut sent = String::new();
    for (count, then) in [(6, PARTITIONS - 5), (7, 3), (8, 10 * PARTITIONS), (9, 0)] {
        while sent.matches("event: event").count() < count {
            let more = stream.chunk().await.unwrap().expect("the stream goes on");
            sent.push_str(str::from_utf8(&more).unwrap());
        }
        publish(
            &stack.jetstream().await,
            &[of(&format!("then-{then}"), then)],
        )
        .await;
    }
    assert!(!sent.contains("lagged"), "{sent}");
    for path in ["/v1/events/none?source=/test", "/v1/subjects/none/latest"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
}

/// A statement takes locks of every partition that it writes to.
#[tokio::test]
async fn a_batch_for_more_partitions_than_the_server_has_locks_for_is_written_in_parts() {
    let (stack, ganesh) = with_partitions().await;
    let all: Vec<Event> = (0..PARTITIONS).map(|n| of(&format!("e-{n}"), n)).collect();
    let began = Instant::now();
    publish_in_one_batch(&stack, &ganesh, &all).await;
    stack.wait_until_drained().await;
    let took = began.elapsed();
    let mut stored = 0;
    for hours in 0..PARTITIONS {
        let partition = partition_of(hours_ago(hours), PartitionInterval::Hour).name;
        let count = format!("SELECT count(*) FROM {partition} WHERE id LIKE 'e-%'");
        let count: i64 = sqlx::query_scalar(&count)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        stored += count;
    }
    assert_eq!(stored, PARTITIONS);
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(TOO_MUCH).await > 0.0, "nothing was too much");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// What is not stored of a batch is looked for by its key, wherever that may be.
#[tokio::test]
async fn duplicates_of_all_times_in_one_batch_are_found_a_few_partitions_at_a_time() {
    let (stack, ganesh) = with_partitions().await;
    let all = [
        of("first", PARTITIONS - 2),
        of("between", 200),
        of("last", 1),
    ];
    for _ in 0..2 {
        publish_in_one_batch(&stack, &ganesh, &all).await;
        stack.wait_until_drained().await;
    }
    let duplicates = "ganesh_messages_settled_total{outcome=\"duplicate\"}";
    ganesh.wait_for_metric(duplicates, 3.0).await;
    assert!(
        ganesh.metric(TOO_MUCH).await < 1.0,
        "one statement was too much"
    );
}

/// Before a message becomes a dead letter, it is looked for by its key, too.
#[tokio::test]
async fn letters_of_all_times_in_one_batch_are_decided_a_few_partitions_at_a_time() {
    let (stack, ganesh) = with_partitions().await;
    let refused = |id: &str, hours| Event {
        data: Data::Json("{\"text\":\"\\u0000\"}".into()),
        ..of(id, hours)
    };
    let all = [refused("first", PARTITIONS - 2), refused("last", 1)];
    publish_in_one_batch(&stack, &ganesh, &all).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 2);
}

#[tokio::test]
async fn doctor_warns_of_more_partitions_than_the_server_has_room_for() {
    let (stack, _ganesh) = with_partitions().await;
    let output = run(Some(&stack), &["doctor"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    let words = ["warning", "partitions", "max_locks_per_transaction"];
    let fits = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(said.lines().any(fits), "{said}");
}
