//! What the cache refuses, cannot hold, or does not hold as we left it.

use ganesh::cache::Origin;
use ganesh::event::{Data, Event};

use super::fixture::{Fixture, hit, miss, n_of, numbered, read, state, until_usable};
use crate::support::cache_server::ask;

fn large(subject: &str, n: i64) -> Event {
    let padding = "x".repeat(300 * 1024);
    Event {
        data: Data::Json(format!("{{\"n\":{n},\"padding\":\"{padding}\"}}").into()),
        ..numbered(subject, n)
    }
}

#[tokio::test]
async fn a_large_state_is_read_from_postgres_and_leaves_no_older_one_behind() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    fixture.put_event(&a, &large("x", 2), 2).await;
    for _ in 0..2 {
        assert_eq!(read(&a, "x").await, (2, Origin::Miss { stored: false }));
    }
    fixture.put(&a, "x", 3).await;
    assert_eq!(miss(&a, "x").await, 3);
}

#[tokio::test]
async fn flushed_states_and_scripts_cost_a_query_and_no_epoch() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let epoch = fixture.epoch().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    ask::<()>(&fixture.server, &["FLUSHALL"]).await;
    fixture.put(&a, "x", 2).await;
    assert_eq!(miss(&a, "x").await, 2);
    ask::<()>(&fixture.server, &["SCRIPT", "FLUSH"]).await;
    fixture.put(&a, "x", 3).await;
    assert_eq!(hit(&a, "x").await, 3);
    assert_eq!(fixture.epoch().await, epoch);
}

#[tokio::test]
async fn a_key_that_holds_what_we_did_not_write_is_removed() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let epoch = fixture.epoch().await;
    fixture.put(&a, "x", 1).await;
    let key = fixture.key("x").await;
    for foreign in [["LPUSH", &key, "x"], ["SET", &key, "x"]] {
        ask::<()>(&fixture.server, &["DEL", &key]).await;
        ask::<()>(&fixture.server, &foreign).await;
        let answer = a.latest("x").await.unwrap();
        assert_eq!((n_of(&answer), answer.origin), (1, Origin::Bypass));
        assert_eq!(miss(&a, "x").await, 1);
    }
    for (n, foreign) in [(2, ["LPUSH", &key, "x"]), (3, ["SET", &key, "x"])] {
        ask::<()>(&fixture.server, &["DEL", &key]).await;
        ask::<()>(&fixture.server, &foreign).await;
        fixture.put(&a, "x", n).await;
        let left: i64 = ask(&fixture.server, &["EXISTS", &key]).await;
        assert_eq!(left, 0, "{foreign:?}");
        assert_eq!(miss(&a, "x").await, n);
    }
    assert_eq!(fixture.epoch().await, epoch);
    assert!(a.is_usable());
}

#[tokio::test]
async fn a_cache_without_memory_keeps_no_older_state_and_costs_no_epoch() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let epoch = fixture.epoch().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    for setting in [["maxmemory-policy", "noeviction"], ["maxmemory", "1"]] {
        ask::<()>(&fixture.server, &["CONFIG", "SET", setting[0], setting[1]]).await;
    }
    fixture.put(&a, "x", 2).await;
    assert_eq!(fixture.stored(&fixture.key("x").await).await, None);
    let answer = a.latest("x").await.unwrap();
    assert_eq!((n_of(&answer), answer.origin), (2, Origin::Bypass));
    ask::<()>(&fixture.server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(miss(&a, "x").await, 2);
    assert_eq!(fixture.epoch().await, epoch);
}

#[tokio::test]
async fn a_cache_that_refuses_even_to_forget_costs_an_epoch() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    let epoch = fixture.epoch().await;
    // As a primary without its replicas: it answers, and takes no write.
    for setting in [["min-replicas-to-write", "1"]] {
        ask::<()>(&fixture.server, &["CONFIG", "SET", setting[0], setting[1]]).await;
    }
    fixture.put(&a, "x", 2).await;
    assert!(fixture.epoch().await > epoch);
    let off = ["CONFIG", "SET", "min-replicas-to-write", "0"];
    ask::<()>(&fixture.server, &off).await;
    // A second after the acknowledgement.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(read(&a, "x").await.0, 2);
}

#[tokio::test]
async fn one_late_read_is_no_reason_to_do_without_the_cache_but_three_in_a_row_are() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    fixture.server.pause();
    let mut late = 0;
    while a.is_usable() {
        let answer = a.latest("x").await.unwrap();
        assert_eq!((n_of(&answer), answer.origin), (1, Origin::Bypass));
        late += 1;
    }
    // Each waits for 100 ms; the check of the connection itself fails after a second.
    assert!((3..9).contains(&late), "{late} late reads");
}

#[tokio::test]
async fn a_write_that_was_skipped_or_late_moves_the_epoch_before_it_returns() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let one = numbered("x", 1);
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    fixture.server.pause();
    // Late: nobody knows yet that the server hangs.
    assert!(a.is_usable());
    let before = fixture.epoch().await;
    a.write_committed(&[state(&one, 1)], false).await.unwrap();
    let late = fixture.epoch().await;
    assert!(late > before);
    // Skipped: now it is known.
    until_usable(&a, false).await;
    a.write_committed(&[state(&one, 1)], false).await.unwrap();
    let skipped = fixture.epoch().await;
    assert!(skipped > late);
    // The batch's own transaction did it.
    a.write_committed(&[state(&one, 1)], true).await.unwrap();
    assert_eq!(fixture.epoch().await, skipped);
    fixture.server.resume();
}
