//! Readers and writers of several processes at once.

use std::time::Duration;

use futures::future::join_all;
use ganesh::cache::{NewestState, Origin};

use super::fixture::{Fixture, hit, miss, n_of, numbered, read, state};
use crate::support::eventually;

#[tokio::test]
async fn a_write_replaces_an_older_state_and_no_newer_one() {
    let mut fixture = Fixture::start().await;
    let (a, b) = (fixture.process().await, fixture.process().await);
    fixture.put(&a, "x", 5).await;
    assert_eq!(fixture.stored(&fixture.key("x").await).await, None);
    assert_eq!(miss(&a, "x").await, 5);
    assert_eq!(hit(&b, "x").await, 5);
    fixture.put(&b, "x", 9).await;
    assert_eq!(hit(&a, "x").await, 9);
    fixture.put(&a, "x", 7).await;
    assert_eq!(hit(&b, "x").await, 9);
    // As doubles, 2^53 and 2^53 + 1 are the same number.
    let same_time = numbered("x", 10);
    let (lower, higher) = (1_i64 << 53, (1_i64 << 53) + 1);
    fixture.put_event(&a, &same_time, lower).await;
    let mut later = numbered("x", 10);
    later.id = "later".to_owned();
    later.data = numbered("x", 11).data;
    fixture.put_event(&a, &later, higher).await;
    assert_eq!(hit(&b, "x").await, 11);
}

#[tokio::test]
async fn a_duplicate_makes_the_cache_forget_what_a_dead_process_did_not_write() {
    let mut fixture = Fixture::start().await;
    let b = fixture.process().await;
    fixture.put(&b, "x", 1).await;
    assert_eq!(miss(&b, "x").await, 1);
    // Another process commits 2 and dies before its write and its acknowledgement.
    fixture.commit("x", 2).await;
    assert_eq!(hit(&b, "x").await, 1);
    // The message comes again, to us, who find the row.
    let duplicate = numbered("x", 2);
    let invalidate = true;
    let state = NewestState {
        invalidate,
        ..state(&duplicate, 3)
    };
    b.write_committed(&[state], false).await.unwrap();
    assert_eq!(miss(&b, "x").await, 2);
}

#[tokio::test]
async fn of_one_subject_a_batch_writes_the_newest_and_remembers_its_duplicates() {
    let (older, newer) = (numbered("x", 1), numbered("x", 2));
    let duplicate = NewestState {
        invalidate: true,
        ..state(&older, 1)
    };
    let stored = state(&newer, 2);
    for state in [duplicate.newer_of(stored), stored.newer_of(duplicate)] {
        assert_eq!(state.stream_seq, 2);
        assert!(state.invalidate);
    }
}

#[tokio::test]
async fn one_query_answers_however_many_ask() {
    let mut fixture = Fixture::start().await;
    let (a, b) = (fixture.process().await, fixture.process().await);
    // On a busy machine some do not wait for the answer: then once more.
    for round in 0..100 {
        let subject = format!("many{round}");
        fixture.put(&a, &subject, 1).await;
        let answers = join_all((0..100).map(|i| {
            let process = if i % 2 == 0 { &a } else { &b };
            let subject = &subject;
            async move { process.latest(subject).await.unwrap() }
        }))
        .await;
        assert!(answers.iter().all(|answer| n_of(answer) == 1));
        let queries = |origin: fn(&Origin) -> bool| {
            let origins = answers.iter().map(|answer| &answer.origin);
            origins.filter(|o| origin(o)).count()
        };
        let misses = queries(|origin| matches!(origin, Origin::Miss { .. }));
        assert!(misses <= 1, "{misses} queries");
        if misses == 1 && queries(|origin| *origin == Origin::Bypass) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never one query only");
}

#[tokio::test]
async fn a_fill_that_a_write_overtook_is_not_stored() {
    let mut fixture = Fixture::start().await;
    let (fast, slow) = (fixture.process().await, fixture.slow_process().await);
    fixture.commit("x", 1).await;
    let held = fixture.hold_slow_queries().await;
    let reader = tokio::spawn(async move { read(&slow, "x").await });
    fixture.until_a_query_hangs().await;
    let key = fixture.key("x").await;
    let lease = fixture.stored(&key).await.unwrap();
    assert!(lease.starts_with('L'), "{lease}");
    fixture.put(&fast, "x", 2).await;
    assert_eq!(fixture.stored(&key).await, None);
    held.close().await;
    // It began before 2 was acknowledged, and its answer is for itself alone.
    assert_eq!(reader.await.unwrap(), (1, Origin::Miss { stored: false }));
    assert_eq!(fixture.stored(&key).await, None);
    assert_eq!(miss(&fast, "x").await, 2);
}

#[tokio::test]
async fn a_fill_that_took_longer_than_its_lease_replaces_nothing() {
    let mut fixture = Fixture::start().await;
    let (fast, slow) = (fixture.process().await, fixture.slow_process().await);
    fixture.commit("x", 1).await;
    let held = fixture.hold_slow_queries().await;
    let reader = tokio::spawn(async move { read(&slow, "x").await });
    fixture.until_a_query_hangs().await;
    let key = fixture.key("x").await;
    eventually("the lease ends", || async {
        fixture.stored(&key).await.is_none()
    })
    .await;
    // Finds no key, so it writes none; nothing is left that says so to the slow fill.
    fixture.put(&fast, "x", 2).await;
    held.close().await;
    assert_eq!(reader.await.unwrap(), (1, Origin::Miss { stored: false }));
    assert_eq!(miss(&fast, "x").await, 2);
}

#[tokio::test]
async fn a_fill_that_took_longer_than_its_lease_leaves_the_next_one_alone() {
    let mut fixture = Fixture::start().await;
    let (fast, slow) = (fixture.process().await, fixture.slow_process().await);
    fixture.commit("x", 1).await;
    let held = fixture.hold_slow_queries().await;
    let reader = tokio::spawn(async move { read(&slow, "x").await });
    fixture.until_a_query_hangs().await;
    let key = fixture.key("x").await;
    eventually("the lease ends", || async {
        fixture.stored(&key).await.is_none()
    })
    .await;
    fixture.commit("x", 2).await;
    assert_eq!(miss(&fast, "x").await, 2);
    held.close().await;
    assert_eq!(reader.await.unwrap(), (1, Origin::Miss { stored: false }));
    assert_eq!(hit(&fast, "x").await, 2);
}

#[tokio::test]
async fn a_reader_waits_for_anothers_fill_only_a_moment() {
    let mut fixture = Fixture::start().await;
    let (fast, slow) = (fixture.process().await, fixture.slow_process().await);
    fixture.commit("x", 1).await;
    let held = fixture.hold_slow_queries().await;
    let reader = tokio::spawn(async move { read(&slow, "x").await });
    fixture.until_a_query_hangs().await;
    let answer = tokio::time::timeout(Duration::from_secs(1), fast.latest("x"));
    let answer = answer.await.expect("it waited longer").unwrap();
    assert_eq!((n_of(&answer), answer.origin), (1, Origin::Bypass));
    held.close().await;
    assert_eq!(reader.await.unwrap().0, 1);
    assert_eq!(hit(&fast, "x").await, 1);
}
