//! Through `serve` and HTTP, while the cache answers.

use ganesh::event::{Data, Event, Timestamp};

use super::fixture::until_all_go_by_its_epoch;
use crate::support::cache_server::{ask, keys_of};
use crate::support::events::publish;
use crate::support::reads::{ago, assert_newest, latest, latest_by_cache, of};
use crate::support::servers::Server;
use crate::support::{Ganesh, Stack, eventually};

/// `ganesh serve` that uses the cache by now: before that it stores all the same.
pub async fn serve(stack: &Stack, settings: &[(&str, &str)]) -> Ganesh {
    let ganesh = stack.serve(settings).await;
    let cache = "ganesh_dependency_up{dependency=\"cache\"}";
    ganesh.wait_for_metric(cache, 1.0).await;
    until_all_go_by_its_epoch().await;
    ganesh
}

/// Publishes in a batch of its own, and waits until that is acknowledged.
pub async fn store(stack: &Stack, events: &[Event]) {
    publish(&stack.jetstream().await, events).await;
    stack.wait_until_drained().await;
}

/// The answer when the cache has it.
async fn hit(ganesh: &Ganesh, subject: &str) -> Option<String> {
    let answer = latest_by_cache(ganesh, subject).await;
    assert!(answer.cache.contains("hit"), "{answer:?}");
    answer.id
}

#[tokio::test]
async fn the_first_read_fills_the_cache_and_all_processes_read_it_there() {
    let stack = Stack::start().await;
    let (one, two) = (serve(&stack, &[]).await, serve(&stack, &[]).await);
    let subjects = ["a".to_owned(), "b/ü%".to_owned()];
    store(&stack, &[of("a", "a1", ago(10)), of("b/ü%", "b1", ago(10))]).await;
    let first = latest_by_cache(&one, "a").await;
    assert_eq!(first.cache, "ganesh; fwd=miss; stored");
    assert_eq!(first.id.as_deref(), Some("a1"));
    assert_eq!(hit(&one, "a").await.as_deref(), Some("a1"));
    assert_eq!(hit(&two, "a").await.as_deref(), Some("a1"));
    let encoded = "b%2F%C3%BC%25";
    assert_eq!(latest(&one, encoded).await.id.as_deref(), Some("b1"));
    assert_eq!(hit(&two, encoded).await.as_deref(), Some("b1"));
    let unknown = latest_by_cache(&one, "c").await;
    assert_eq!((unknown.status, unknown.id), (404, None));
    assert_eq!(hit(&two, "c").await, None);
    assert_newest(&stack, &[&one, &two], &subjects[..1]).await;
}

#[tokio::test]
async fn an_older_event_that_comes_later_replaces_nothing() {
    let stack = Stack::start().await;
    let (one, two) = (serve(&stack, &[]).await, serve(&stack, &[]).await);
    for (warm, subject) in [(true, "warm"), (false, "cold")] {
        store(&stack, &[of(subject, "second", ago(2_000))]).await;
        if warm {
            latest_by_cache(&one, subject).await;
        }
        store(&stack, &[of(subject, "first", ago(3_000))]).await;
        if warm {
            assert_eq!(hit(&one, subject).await.as_deref(), Some("second"));
        }
        assert_newest(&stack, &[&one, &two], &[subject.to_owned()]).await;
        let batch = [
            of(subject, "fourth", ago(500)),
            of(subject, "third", ago(1_000)),
        ];
        store(&stack, &batch).await;
        // Replaced, not removed.
        assert_eq!(hit(&two, subject).await.as_deref(), Some("fourth"));
        assert_newest(&stack, &[&one, &two], &[subject.to_owned()]).await;
    }
}

#[tokio::test]
async fn of_equal_times_the_later_in_the_stream_is_the_newest() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, &[]).await;
    let time = Timestamp::now();
    store(&stack, &[of("s", "z", time)]).await;
    latest_by_cache(&ganesh, "s").await;
    store(&stack, &[of("s", "a", time)]).await;
    assert_eq!(hit(&ganesh, "s").await.as_deref(), Some("a"));
    // Twice in one batch.
    store(&stack, &[of("s", "y", time), of("s", "b", time)]).await;
    assert_eq!(hit(&ganesh, "s").await.as_deref(), Some("b"));
    assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
    ask::<()>(&stack.cache, &["FLUSHALL"]).await;
    assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
}

#[tokio::test]
async fn duplicates_of_older_events_change_no_newest_state() {
    let stack = Stack::start().await;
    let (one, two) = (serve(&stack, &[]).await, serve(&stack, &[]).await);
    let time = ago(100);
    // The row keeps its place in the stream: "b" stays the newest although "a" comes again later.
    let (a, b) = (of("s", "a", time), of("s", "b", time));
    store(&stack, &[a.clone(), b.clone()]).await;
    for again in [&a, &b, &a] {
        latest_by_cache(&one, "s").await;
        store(&stack, std::slice::from_ref(again)).await;
        assert_eq!(latest(&one, "s").await.id.as_deref(), Some("b"));
        assert_newest(&stack, &[&one, &two], &["s".to_owned()]).await;
    }
}

#[tokio::test]
async fn an_expired_state_is_not_followed_by_an_older_one() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, &[("GANESH_CACHE_TTL_SECS", "1")]).await;
    store(&stack, &[of("s", "new", ago(1_000))]).await;
    latest_by_cache(&ganesh, "s").await;
    assert_eq!(keys_of(&stack.cache, "s").await.len(), 1);
    eventually("the state expires", || async {
        keys_of(&stack.cache, "s").await.is_empty()
    })
    .await;
    store(&stack, &[of("s", "old", ago(2_000))]).await;
    // Only a read makes a key.
    assert!(keys_of(&stack.cache, "s").await.is_empty());
    assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
}

#[tokio::test]
async fn a_state_that_is_written_but_not_read_expires_all_the_same() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, &[("GANESH_CACHE_TTL_SECS", "2")]).await;
    store(&stack, &[of("s", "0", Timestamp::now())]).await;
    latest_by_cache(&ganesh, "s").await;
    let key = keys_of(&stack.cache, "s").await.remove(0);
    let before: i64 = ask(&stack.cache, &["PEXPIRETIME", &key]).await;
    store(&stack, &[of("s", "1", Timestamp::now())]).await;
    let after: i64 = ask(&stack.cache, &["PEXPIRETIME", &key]).await;
    // -2: it went already.
    assert!(after == before || after == -2, "{before} {after}");
    assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
}

#[tokio::test]
async fn an_evicted_state_is_not_followed_by_an_older_one() {
    let mut stack = Stack::start().await;
    stack.cache = Server::start("dragonfly", &[("MAXMEMORY", "3mb")]);
    let (one, two) = (serve(&stack, &[]).await, serve(&stack, &[]).await);
    let subjects: Vec<String> = (0..300).map(|i| format!("s{i}")).collect();
    let large = |i: usize, id: &str, millis: i64| Event {
        data: Data::Json(format!("\"{}\"", "x".repeat(20_000)).into()),
        ..of(&format!("s{i}"), id, ago(millis))
    };
    let all = |id: &'static str, millis| (0..300).map(|i| large(i, id, millis)).collect::<Vec<_>>();
    store(&stack, &with_ids(all("second", 60_000))).await;
    assert_newest(&stack, &[&one], &subjects).await;
    let info: String = ask(&stack.cache, &["INFO", "stats"]).await;
    let evicted = info.lines().find_map(|l| l.strip_prefix("evicted_keys:"));
    assert_ne!(evicted, Some("0"));
    store(&stack, &with_ids(all("first", 120_000))).await;
    assert_newest(&stack, &[&one], &subjects).await;
    store(&stack, &with_ids(all("third", 0))).await;
    assert_newest(&stack, &[&one, &two], &subjects).await;
}

/// Ids that differ between subjects.
fn with_ids(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        event.id = format!("{}-{}", event.subject.as_deref().unwrap(), event.id);
    }
    events
}

#[tokio::test]
async fn a_flush_in_the_middle_of_load_changes_no_answer() {
    let stack = Stack::start().await;
    let (one, two) = (serve(&stack, &[]).await, serve(&stack, &[]).await);
    let jetstream = stack.jetstream().await;
    let subjects: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    for round in 0..20 {
        let ids = (0..200).map(|i| format!("{round}-{i}"));
        let events: Vec<Event> = ids
            .zip(subjects.iter().cycle())
            .map(|(id, subject)| of(subject, &id, ago(rand::random_range(0..5_000))))
            .collect();
        publish(&jetstream, &events).await;
        for subject in &subjects[..5] {
            latest(&one, subject).await;
            latest(&two, subject).await;
        }
        ask::<()>(&stack.cache, &["FLUSHALL"]).await;
    }
    stack.wait_until_drained().await;
    assert_newest(&stack, &[&one, &two], &subjects).await;
}
