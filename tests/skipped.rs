//! A trigger of the table that skips rows: they are no rows, and count as nothing else than skipped.

use std::time::Duration;

use ganesh::config::PartitionInterval;
use ganesh::event::{Event, Timestamp, TraceId};
use ganesh::storage::partitions::{Partition, partition_of};
use ganesh::storage::{EventWriter, Row, RowOutcome, WriteOptions};
use ganesh::telemetry::Metrics;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::support::events::{event, events, publish};
use crate::support::keys::{publish_in_one_batch, wait_until_so_many_wait};
use crate::support::{Ganesh, Stack, eventually};

const SKIPPED: &str = "com.example.skipped";
const STORED: &str = "com.example.test";
/// Skips before any constraint is looked at.
const SKIP: &str = "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN IF NEW.type = 'com.example.skipped' THEN RETURN NULL; END IF; RETURN NEW; END $$";

async fn skip_on(stack: &Stack, table: &str) {
    let trigger = format!(
        "{SKIP}; CREATE TRIGGER skip BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION skip()"
    );
    stack.pool.execute(trigger.as_str()).await.unwrap();
}

/// Every second one is skipped.
fn mixed(prefix: &str, count: usize) -> Vec<Event> {
    let mut all = events(prefix, count);
    for event in all.iter_mut().step_by(2) {
        SKIPPED.clone_into(&mut event.event_type);
    }
    all
}

async fn settled(ganesh: &Ganesh, outcome: &str) -> f64 {
    let series = format!("ganesh_messages_settled_total{{outcome=\"{outcome}\"}}");
    ganesh.metric(&series).await
}

/// Messages are counted after their acknowledgement.
async fn wait_for_settled(ganesh: &Ganesh, stored: f64, duplicate: f64, skipped: f64) {
    let expected = [stored, duplicate, skipped];
    eventually(
        &format!("stored, duplicate, skipped: {expected:?}"),
        || async {
            let found = [
                settled(ganesh, "stored").await,
                settled(ganesh, "duplicate").await,
                settled(ganesh, "skipped").await,
            ];
            assert!(
                found
                    .iter()
                    .zip(&expected)
                    .all(|(found, expected)| found <= expected),
                "{found:?}, expected {expected:?}"
            );
            found
                .iter()
                .zip(&expected)
                .all(|(found, expected)| found >= expected)
        },
    )
    .await;
}

#[tokio::test]
async fn rows_that_a_trigger_skips_are_counted_as_skipped_also_when_they_come_again() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    skip_on(&stack, "events").await;
    let (mut stored, mut duplicate, mut skipped) = (0.0, 0.0, 0.0);
    // By INSERT at once, and by COPY, which says only how many it has stored.
    for (count, half) in [(8, 4.0), (200, 100.0)] {
        let all = mixed(&format!("e-{count}"), count);
        publish_in_one_batch(&stack, &ganesh, &all).await;
        stack.wait_until_drained().await;
        stored += half + 1.0;
        skipped += half;
        wait_for_settled(&ganesh, stored, duplicate, skipped).await;
        publish_in_one_batch(&stack, &ganesh, &all).await;
        stack.wait_until_drained().await;
        stored += 1.0;
        duplicate += half;
        skipped += half;
        wait_for_settled(&ganesh, stored, duplicate, skipped).await;
    }
    let rows: Vec<String> = sqlx::query_scalar("SELECT DISTINCT type FROM events ORDER BY type")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(rows, ["com.example.busy", STORED]);
    assert_eq!(stack.dead_letters().await, 0);
    let end_to_end = ganesh.metric("ganesh_end_to_end_seconds_count").await;
    assert!((end_to_end - stored).abs() < f64::EPSILON, "{end_to_end}");
}

#[tokio::test]
async fn where_all_are_skipped_none_is_stored_and_the_slow_list_says_so() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    skip_on(&stack, "events_default").await;
    let mut all = events("e", 100);
    for event in &mut all {
        SKIPPED.clone_into(&mut event.event_type);
        // 2100: in the default partition, which has the trigger.
        event.time = Timestamp::from_micros(4_102_444_800_000_000);
    }
    publish_in_one_batch(&stack, &ganesh, &all).await;
    stack.wait_until_drained().await;
    wait_for_settled(&ganesh, 1.0, 0.0, 100.0).await;
    assert_eq!(stack.rows().await, 1);
    let (_, list) = ganesh.admin("/debug/slow").await;
    assert!(list.contains("\"skipped\""), "{list}");
}

#[tokio::test]
async fn the_cache_is_not_given_what_was_skipped() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    skip_on(&stack, "events").await;
    let jetstream = stack.jetstream().await;
    let of = |id: &str, event_type: &str| Event {
        subject: Some("s".to_owned()),
        event_type: event_type.to_owned(),
        ..event(id)
    };
    let latest = || async {
        let url = format!("{}/v1/subjects/s/latest", ganesh.api);
        let answer = reqwest::get(url).await.unwrap();
        let is_hit = answer.headers()["cache-status"] == "ganesh; hit";
        let answer: serde_json::Value = answer.json().await.unwrap();
        (answer["id"].as_str().unwrap().to_owned(), is_hit)
    };
    publish(&jetstream, &[of("first", STORED)]).await;
    stack.wait_until_drained().await;
    // Alone, by INSERT; and with so many others that COPY takes them.
    for others in [0, 50] {
        eventually("the cache holds the state", || async {
            latest().await == ("first".to_owned(), true)
        })
        .await;
        let mut all = events(&format!("other-{others}"), others);
        all.push(of(&format!("skipped-{others}"), SKIPPED));
        publish_in_one_batch(&stack, &ganesh, &all).await;
        stack.wait_until_drained().await;
        assert_eq!(latest().await.0, "first");
    }
    let mut all = events("more", 50);
    all.extend([of("second", STORED), of("skipped too", SKIPPED)]);
    publish_in_one_batch(&stack, &ganesh, &all).await;
    stack.wait_until_drained().await;
    // P5 gives a second: what a cache write that failed needs until the epoch moved on for all.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(latest().await.0, "second", "{}", ganesh.log());
}

/// Triggers that do the work of our key themselves.
#[tokio::test]
async fn a_row_that_a_trigger_skips_because_it_is_there_is_a_duplicate() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    let trigger = "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF EXISTS (SELECT FROM events WHERE (id, source, time) = (NEW.id, NEW.source, NEW.time)) \
         THEN RETURN NULL; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER skip BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION skip()";
    stack.pool.execute(trigger).await.unwrap();
    let first = events("e", 50);
    publish_in_one_batch(&stack, &ganesh, &first).await;
    stack.wait_until_drained().await;
    let mut all = events("more", 50);
    all.extend(first);
    publish_in_one_batch(&stack, &ganesh, &all).await;
    stack.wait_until_drained().await;
    wait_for_settled(&ganesh, 102.0, 50.0, 0.0).await;
    assert_eq!(stack.rows().await, 102);
}

/// A statement that waits while rows move from the default partition to their own was planned without that one.
#[tokio::test]
async fn a_row_that_moves_to_its_partition_while_it_is_looked_for_is_a_duplicate() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    let writer = EventWriter::new(stack.pool.clone(), Metrics::default());
    let event = event("e");
    let write = async || {
        let row = Row {
            event: &event,
            stream: "EVENTS",
            nats_subject: "events.test",
            stream_seq: 1,
            published_at: event.time,
            trace_id: TraceId::of_message(None, "EVENTS", 1, event.time),
        };
        let mut outcomes = [None];
        let options = WriteOptions::default();
        writer.write(&[row], &mut outcomes, options).await.unwrap();
        outcomes.into_iter().next().flatten().unwrap()
    };
    assert_eq!(write().await, RowOutcome::Stored);
    // Holds an INSERT up at its end.
    let gate = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$; \
         CREATE TRIGGER gate AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION gate()";
    stack.pool.execute(gate).await.unwrap();
    let mut closed = PgConnection::connect(&stack.database_url).await.unwrap();
    closed.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let meanwhile = async {
        wait_until_so_many_wait(&stack, 1).await;
        let mover = stack.lock("events_default", "ACCESS EXCLUSIVE");
        let open = async {
            wait_until_so_many_wait(&stack, 2).await;
            closed.close().await.unwrap();
        };
        let (mut mover, ()) = tokio::join!(mover, open);
        // The row is looked for.
        wait_until_so_many_wait(&stack, 1).await;
        let Partition { name, from, to } = partition_of(event.time, PartitionInterval::Day);
        let move_rows = format!(
            "CREATE TABLE {name} (LIKE events INCLUDING ALL); \
             INSERT INTO {name} SELECT * FROM events_default; \
             DELETE FROM events_default; \
             ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
        );
        mover.execute(move_rows.as_str()).await.unwrap();
        mover.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(write(), meanwhile);
    assert_eq!(outcome, RowOutcome::Duplicate);
}
