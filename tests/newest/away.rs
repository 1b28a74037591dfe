//! Through `serve` and HTTP, while the cache is away, hangs, or came back with old data.

use std::time::{Duration, Instant};

use ganesh::event::{Timestamp, TraceId};
use ganesh::storage::{EventWriter, Row, WriteOptions};
use ganesh::telemetry::Metrics;
use sqlx::Executor;

use super::fixture::until_all_go_by_its_epoch;
use crate::support::cache_server::{ask, keys_of};
use crate::support::events::publish;
use crate::support::reads::{assert_newest, latest, latest_by_cache, of};
use crate::support::servers::free_port;
use crate::support::{Ganesh, Stack, eventually};

const CACHE_UP: &str = "ganesh_dependency_up{dependency=\"cache\"}";

async fn store(stack: &Stack, id: &str) {
    let event = of("s", id, Timestamp::now());
    publish(&stack.jetstream().await, &[event]).await;
    stack.wait_until_drained().await;
}

async fn epoch(stack: &Stack) -> i64 {
    ganesh::storage::epoch::read(&stack.pool)
        .await
        .unwrap()
        .epoch
}

async fn until_cache_is(processes: &[&Ganesh], up: bool) {
    let wanted = if up { 1.0 } else { 0.0 };
    for ganesh in processes {
        eventually("the process notices the cache", || async {
            (ganesh.metric(CACHE_UP).await - wanted).abs() < f64::EPSILON
        })
        .await;
    }
}

/// Two processes that use the cache.
async fn two_processes(stack: &Stack) -> (Ganesh, Ganesh) {
    let (one, two) = (stack.serve(&[]).await, stack.serve(&[]).await);
    until_cache_is(&[&one, &two], true).await;
    until_all_go_by_its_epoch().await;
    (one, two)
}

#[tokio::test]
async fn without_the_cache_events_are_stored_and_reads_come_from_postgres() {
    let mut stack = Stack::start().await;
    let (one, two) = two_processes(&stack).await;
    store(&stack, "1").await;
    latest_by_cache(&one, "s").await;
    stack.cache.kill();
    assert_eq!(latest(&one, "s").await.id.as_deref(), Some("1"));
    until_cache_is(&[&one, &two], false).await;
    assert_eq!(one.admin("/readyz").await.0, 200);
    let before = epoch(&stack).await;
    store(&stack, "2").await;
    assert!(epoch(&stack).await > before, "the epoch did not advance");
    // It was known in time, so the epoch advanced in the batch's own transaction.
    let together: bool = sqlx::query_scalar(
        "SELECT e.xmin::text = c.xmin::text FROM events e, cache_epoch c WHERE e.id = '2'",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert!(together, "the epoch advanced in another transaction");
    let answer = latest(&one, "s").await;
    assert_eq!(answer.cache, "ganesh; fwd=bypass");
    assert_newest(&stack, &[&one, &two], &["s".to_owned()]).await;
    stack.cache.run();
    until_cache_is(&[&one, &two], true).await;
    latest_by_cache(&one, "s").await;
    let answer = latest_by_cache(&two, "s").await;
    assert!(answer.cache.contains("hit"), "{answer:?}");
    assert_eq!(answer.id.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_cache_that_hangs_holds_up_neither_events_nor_reads() {
    let stack = Stack::start().await;
    let (one, two) = two_processes(&stack).await;
    store(&stack, "1").await;
    latest_by_cache(&one, "s").await;
    let before = epoch(&stack).await;
    stack.cache.pause();
    let started = Instant::now();
    assert_eq!(latest(&two, "s").await.id.as_deref(), Some("1"));
    assert!(started.elapsed() < Duration::from_secs(2));
    for id in ["2", "3", "4"] {
        store(&stack, id).await;
        // Not written, so before the acknowledgement the epoch moved on.
        assert!(epoch(&stack).await > before);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_newest(&stack, &[&one, &two], &["s".to_owned()]).await;
    }
    until_cache_is(&[&one, &two], false).await;
    let warning = "the cache does not answer: reads go to Postgres";
    let (status, body) = one.admin("/readyz").await;
    assert!(status == 200 && body.contains(warning), "{status}: {body}");
    stack.cache.resume();
    until_cache_is(&[&one, &two], true).await;
    assert!(!one.admin("/readyz").await.1.contains(warning));
    for ganesh in [&one, &two] {
        assert_eq!(latest_by_cache(ganesh, "s").await.id.as_deref(), Some("4"));
    }
}

#[tokio::test]
async fn a_cache_restored_from_an_old_snapshot_shows_nothing_of_it() {
    let mut stack = Stack::start().await;
    let (one, two) = two_processes(&stack).await;
    store(&stack, "old").await;
    latest_by_cache(&one, "s").await;
    let old_key = keys_of(&stack.cache, "s").await.remove(0);
    ask::<()>(&stack.cache, &["SAVE"]).await;
    store(&stack, "new").await;
    let answer = latest_by_cache(&two, "s").await;
    assert_eq!(answer.id.as_deref(), Some("new"));
    assert!(answer.cache.contains("hit"), "{answer:?}");
    stack.cache.kill();
    stack.cache.run();
    let restored: Option<Vec<u8>> = ask(&stack.cache, &["GET", &old_key]).await;
    let restored = String::from_utf8(restored.expect("the snapshot has the key")).unwrap();
    assert!(restored.contains("\"old\""), "{restored}");
    let started = Instant::now();
    let mut hits = 0;
    while started.elapsed() < Duration::from_secs(3) || hits == 0 {
        for ganesh in [&one, &two] {
            let answer = latest(ganesh, "s").await;
            assert_eq!(answer.id.as_deref(), Some("new"), "{answer:?}");
            hits += u32::from(answer.cache.contains("hit"));
        }
        assert!(started.elapsed() < Duration::from_secs(30), "never used");
    }
}

/// Its row is of another process, which died before it wrote to the cache. This one has no cache.
#[tokio::test]
async fn a_duplicate_that_is_known_only_at_its_decision_leaves_no_older_state_in_the_cache() {
    let stack = Stack::start().await;
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    let _writes = stack.serve(&[("REDIS_URL", nowhere.as_str())]).await;
    let settings = [
        ("GANESH_STREAM", "OTHER"),
        ("GANESH_SUBJECTS", "other.>"),
        ("GANESH_DLQ_STREAM", "OTHER_DLQ"),
    ];
    let reads = stack.serve(&settings).await;
    until_cache_is(&[&reads], true).await;
    until_all_go_by_its_epoch().await;
    store(&stack, "1").await;
    // That advanced it.
    until_all_go_by_its_epoch().await;
    eventually("the cache has it", || async {
        latest(&reads, "s").await.cache.contains("hit")
    })
    .await;
    let second = of("s", "2", Timestamp::now());
    let row = Row {
        event: &second,
        stream: "EVENTS",
        nats_subject: "events.test",
        stream_seq: 2,
        published_at: second.time,
        trace_id: TraceId::of_message(None, "EVENTS", 2, second.time),
    };
    let dies = EventWriter::new(stack.pool.clone(), Metrics::default());
    let options = WriteOptions::default();
    dies.write(&[row], &mut [None], options).await.unwrap();
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE 'refused' USING ERRCODE = '22000'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.pool.execute(refuse).await.unwrap();
    publish(&stack.jetstream().await, &[second]).await;
    stack.wait_until_drained().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(latest(&reads, "s").await.id.as_deref(), Some("2"));
    assert_eq!(stack.dead_letters().await, 0);
}
