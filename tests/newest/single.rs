//! Single events: an answer that names one row is kept, any other one for less than the second of P5.

use std::time::{Duration, Instant};

use ganesh::cache::{Cache, Origin};
use ganesh::event::Event;
use ganesh::storage::queries::EventKey;
use tokio::time::sleep;

use super::fixture::{Fixture, is_kept, n_of, numbered, until_all_go_by_its_epoch, until_usable};
use super::servers::Acknowledged;
use crate::support::cache_server::ask;
use crate::support::eventually;

/// Names one row.
fn exactly(event: &Event) -> EventKey<'_> {
    EventKey {
        id: &event.id,
        source: Some(&event.source),
        time: Some(event.time),
    }
}

const fn by_id(id: &str) -> EventKey<'_> {
    EventKey {
        id,
        source: None,
        time: None,
    }
}

/// The `n`th event with this id.
fn version(n: i64) -> Event {
    Event {
        id: "e".to_owned(),
        ..numbered("x", n)
    }
}

/// Reads; again while the process does not know the epoch, because it had to wait for the machine.
async fn read(process: &Cache, asked: &EventKey<'_>) -> (i64, Origin) {
    for _ in 0..200 {
        let answer = process.event(asked).await.unwrap();
        if answer.origin != Origin::Bypass {
            return (n_of(&answer), answer.origin);
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the cache is not used");
}

/// Reads until the answer is in the cache: on a busy machine a fill can be late.
async fn miss(process: &Cache, asked: &EventKey<'_>) -> i64 {
    loop {
        let (n, origin) = read(process, asked).await;
        if is_kept(origin) {
            return n;
        }
    }
}

async fn hit(process: &Cache, asked: &EventKey<'_>) -> i64 {
    let (n, origin) = read(process, asked).await;
    assert!(matches!(origin, Origin::Hit { .. }), "{n} {origin:?}");
    n
}

async fn keys(fixture: &Fixture) -> Vec<String> {
    ask(&fixture.server, &["KEYS", "*:event:*"]).await
}

#[tokio::test]
async fn an_event_that_is_named_whole_is_asked_for_once_and_kept_for_a_minute() {
    let mut fixture = Fixture::start().await;
    let (a, b) = (fixture.process().await, fixture.process().await);
    let event = numbered("x", 1);
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, &exactly(&event)).await, 1);
    assert_eq!(hit(&b, &exactly(&event)).await, 1);
    let keys = keys(&fixture).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    let left: i64 = ask(&fixture.server, &["PTTL", &keys[0]]).await;
    assert!((40_000..=60_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn what_a_later_event_can_change_is_kept_for_less_than_a_second() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let (event, unknown) = (version(1), numbered("y", 1));
    fixture.put_event(&a, &event, 1).await;
    let whole = exactly(&event);
    for asked in [
        by_id("e"),
        EventKey {
            time: None,
            ..whole
        },
        EventKey {
            source: None,
            ..whole
        },
        exactly(&unknown),
    ] {
        miss(&a, &asked).await;
        for key in keys(&fixture).await {
            // -2: it went already.
            let left: i64 = ask(&fixture.server, &["PTTL", &key]).await;
            assert!(
                left == -2 || (0..=1_000).contains(&left),
                "{asked:?}: {left} ms"
            );
        }
    }
    eventually("nothing is left", || async {
        keys(&fixture).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_newer_event_with_an_id_is_answered_a_second_after_its_acknowledgement() {
    let mut fixture = Fixture::start().await;
    let (a, b) = (fixture.process().await, fixture.process().await);
    let mut acknowledged = Acknowledged::default();
    let (began, mut n, mut hits) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(5) || hits == 0 {
        for reader in [&a, &b] {
            for asked in [
                by_id("e"),
                EventKey {
                    source: Some("/test"),
                    ..by_id("e")
                },
            ] {
                let started = Instant::now();
                let answer = reader.event(&asked).await.unwrap();
                let (shown, floor) = (n_of(&answer), acknowledged.floor(started));
                assert!(shown >= floor, "{shown} < {floor}");
                hits += u32::from(matches!(answer.origin, Origin::Hit { .. }));
            }
        }
        n += 1;
        fixture.put_event(&a, &version(n), n).await;
        acknowledged.add(n);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn whatever_the_cache_goes_through_a_newer_event_is_answered_a_second_later() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let first = version(1);
    fixture.put_event(&a, &first, 1).await;
    for n in 2..6 {
        read(&a, &by_id("e")).await;
        assert_eq!(read(&a, &exactly(&first)).await.0, 1);
        match n {
            2 => ask::<()>(&fixture.server, &["FLUSHALL"]).await,
            3 => ask::<()>(&fixture.server, &["SCRIPT", "FLUSH"]).await,
            4 => {
                fixture.server.pause();
                let answer = a.event(&by_id("e")).await.unwrap();
                assert_eq!((n_of(&answer), answer.origin), (3, Origin::Bypass));
            }
            _ => ask::<()>(&fixture.server, &["SAVE"]).await,
        }
        fixture.put_event(&a, &version(n), n).await;
        if n == 5 {
            fixture.server.kill();
            until_usable(&a, false).await;
            fixture.server.run();
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(n_of(&a.event(&by_id("e")).await.unwrap()), n);
        fixture.server.resume();
        until_usable(&a, true).await;
        assert_eq!(read(&a, &by_id("e")).await.0, n);
    }
}

#[tokio::test]
async fn a_fill_that_took_longer_than_its_lease_is_not_kept() {
    let mut fixture = Fixture::start().await;
    let slow = fixture.slow_process().await;
    fixture.commit("x", 1).await;
    let held = fixture.hold_slow_queries().await;
    let event = numbered("x", 1);
    let reader = tokio::spawn(async move { read(&slow, &exactly(&event)).await });
    fixture.until_a_query_hangs().await;
    eventually("the lease ends", || async {
        keys(&fixture).await.is_empty()
    })
    .await;
    held.close().await;
    assert_eq!(reader.await.unwrap(), (1, Origin::Miss { stored: false }));
    assert!(keys(&fixture).await.is_empty());
}

/// As `ganesh forget` does it.
#[tokio::test]
async fn a_row_that_was_deleted_is_gone_a_second_after_the_epoch_advanced() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let event = numbered("x", 1);
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, &exactly(&event)).await, 1);
    for change in [
        "DELETE FROM events",
        "UPDATE cache_epoch SET epoch = epoch + 1",
    ] {
        sqlx::query(change).execute(&fixture.pool).await.unwrap();
    }
    until_all_go_by_its_epoch().await;
    assert_eq!(read(&a, &exactly(&event)).await.0, 0);
}
