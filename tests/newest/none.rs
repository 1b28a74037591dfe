//! The answer that a subject has no event: kept, and ended by the first event that it gets.

use std::collections::BTreeSet;
use std::time::Duration;

use ganesh::cache::{Cache, NewestState, Origin};
use tokio::time::sleep;

use super::fixture::{Fixture, hit, is_kept, miss, numbered, read, state, until_usable};
use crate::support::cache_server::ask;

/// Reads until the answer that there is none is in the cache: on a busy machine a fill can be late.
async fn none(process: &Cache, subject: &str) {
    loop {
        let (n, origin) = read(process, subject).await;
        assert_eq!(n, 0);
        if is_kept(origin) {
            return;
        }
    }
}

#[tokio::test]
async fn a_subject_without_events_is_asked_for_once_and_kept_for_half_a_minute() {
    let mut fixture = Fixture::start().await;
    let (a, b) = (fixture.process().await, fixture.process().await);
    none(&a, "x").await;
    assert_eq!(hit(&a, "x").await, 0);
    assert_eq!(hit(&b, "x").await, 0);
    let left: i64 = ask(&fixture.server, &["PTTL", &fixture.key("x").await]).await;
    assert!((1..=30_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn the_first_event_of_a_subject_ends_it() {
    let mut fixture = Fixture::start().await;
    let (a, b) = (fixture.process().await, fixture.process().await);
    none(&a, "x").await;
    assert_eq!(hit(&b, "x").await, 0);
    fixture.put(&b, "x", 1).await;
    // A write makes no key.
    assert_eq!(fixture.stored(&fixture.key("x").await).await, None);
    assert_eq!(miss(&a, "x").await, 1);
    // Another process commits the first event of y, and dies before its write and its acknowledgement.
    none(&a, "y").await;
    fixture.commit("y", 1).await;
    let duplicate = numbered("y", 1);
    let invalidate = true;
    let state = NewestState {
        invalidate,
        ..state(&duplicate, 2)
    };
    b.write_committed(&[state], false).await.unwrap();
    assert_eq!(miss(&a, "y").await, 1);
}

#[tokio::test]
async fn where_a_write_overtook_it_it_is_not_kept() {
    let mut fixture = Fixture::start().await;
    let (fast, slow) = (fixture.process().await, fixture.slow_process().await);
    let held = fixture.hold_slow_queries().await;
    let reader = tokio::spawn(async move { read(&slow, "x").await.1 });
    fixture.until_a_query_hangs().await;
    fixture.put(&fast, "x", 1).await;
    held.close().await;
    assert_eq!(reader.await.unwrap(), Origin::Miss { stored: false });
    assert_eq!(fixture.stored(&fixture.key("x").await).await, None);
    assert_eq!(miss(&fast, "x").await, 1);
}

/// What the cache goes through while the first event of the subject is stored.
#[derive(Debug, Clone, Copy)]
enum Outage {
    Hangs,
    IsAway,
    ComesBackOld,
    RefusesEverything,
    IsFlushed,
}

async fn store_the_first_event_during(outage: Outage, fixture: &mut Fixture, process: &Cache) {
    let refuse = |replicas| ["CONFIG", "SET", "min-replicas-to-write", replicas];
    match outage {
        Outage::Hangs => {
            fixture.server.pause();
            fixture.put(process, "x", 1).await;
            fixture.server.resume();
        }
        Outage::IsAway | Outage::ComesBackOld => {
            let is_known = matches!(outage, Outage::IsAway);
            ask::<()>(&fixture.server, &["SAVE"]).await;
            if is_known {
                fixture.server.kill();
                until_usable(process, false).await;
            }
            fixture.put(process, "x", 1).await;
            if !is_known {
                fixture.server.kill();
                until_usable(process, false).await;
            }
            fixture.server.run();
        }
        Outage::RefusesEverything => {
            ask::<()>(&fixture.server, &refuse("1")).await;
            fixture.put(process, "x", 1).await;
            ask::<()>(&fixture.server, &refuse("0")).await;
        }
        Outage::IsFlushed => {
            ask::<()>(&fixture.server, &["FLUSHALL"]).await;
            fixture.put(process, "x", 1).await;
        }
    }
}

#[tokio::test]
async fn a_second_after_the_first_event_nobody_is_told_that_there_is_none() {
    for outage in [
        Outage::Hangs,
        Outage::IsAway,
        Outage::ComesBackOld,
        Outage::RefusesEverything,
        Outage::IsFlushed,
    ] {
        let mut fixture = Fixture::start().await;
        let (a, b) = (fixture.process().await, fixture.process().await);
        none(&a, "x").await;
        store_the_first_event_during(outage, &mut fixture, &b).await;
        sleep(Duration::from_secs(1)).await;
        for process in [&a, &b] {
            let answer = process.latest("x").await.unwrap();
            assert!(answer.event.is_some(), "{outage:?}: {answer:?}");
            until_usable(process, true).await;
            assert_eq!(read(process, "x").await.0, 1, "{outage:?}");
        }
    }
}

#[tokio::test]
async fn what_was_filled_together_does_not_end_together() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let mut seconds = BTreeSet::new();
    for i in 0..30 {
        let subject = format!("s{i}");
        fixture.put(&a, &subject, 1).await;
        assert_eq!(miss(&a, &subject).await, 1);
        let left: i64 = ask(&fixture.server, &["PTTL", &fixture.key(&subject).await]).await;
        // Of ten minutes, and some for a busy machine.
        assert!((530_000..=600_000).contains(&left), "{left} ms");
        seconds.insert(left / 1_000);
    }
    assert!(seconds.len() > 10, "{seconds:?}");
}
