//! Cache servers that are not the one they were.

use std::time::{Duration, Instant};

use super::fixture::{Fixture, hit, miss, n_of, read, until_usable};
use crate::support::PATIENCE;
use crate::support::cache_server::ask;
use crate::support::servers::Server;

/// What P5 leaves: an answer may be as old as this.
const ALLOWED: Duration = Duration::from_secs(1);

/// Which events were acknowledged when, of one subject whose events are in order.
#[derive(Default)]
pub struct Acknowledged(Vec<(Instant, i64)>);

impl Acknowledged {
    pub fn add(&mut self, n: i64) {
        self.0.push((Instant::now(), n));
    }

    /// The oldest event that a read which started at this moment may be answered with.
    pub fn floor(&self, started: Instant) -> i64 {
        let old_enough = |at: Instant| started.saturating_duration_since(at) >= ALLOWED;
        let floor = self.0.iter().rev().find(|(at, _)| old_enough(*at));
        floor.map_or(0, |(_, n)| *n)
    }
}

#[tokio::test]
async fn processes_that_reach_two_cache_servers_answer_with_no_older_state() {
    let mut fixture = Fixture::start().await;
    let other = Server::start("dragonfly", &[]);
    let a = fixture.process().await;
    let b = fixture.process().await;
    let c = fixture.process_at(other.port()).await;
    let mut acknowledged = Acknowledged::default();
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < Duration::from_secs(6) {
        n += 1;
        // For so long that what the other server holds would be too old.
        let turn = began.elapsed().as_millis() / 1_500;
        let writer = if turn.is_multiple_of(2) { &a } else { &c };
        fixture.put(writer, "x", n).await;
        acknowledged.add(n);
        for reader in [&a, &b, &c] {
            let started = Instant::now();
            let answer = reader.latest("x").await.unwrap();
            let floor = acknowledged.floor(started);
            assert!(n_of(&answer) >= floor, "{} < {floor}", n_of(&answer));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_replaced_under_its_address_is_not_trusted_with_the_old_epoch() {
    let mut fixture = Fixture::start().await;
    let a = fixture.process().await;
    let epoch = fixture.epoch().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    ask::<()>(&fixture.server, &["SAVE"]).await;
    fixture.put(&a, "x", 2).await;
    assert_eq!(hit(&a, "x").await, 2);
    let key = fixture.key("x").await;
    fixture.server.kill();
    until_usable(&a, false).await;
    fixture.server.run();
    until_usable(&a, true).await;
    assert!(fixture.stored(&key).await.unwrap().contains("\"x-1\""));
    assert!(fixture.epoch().await > epoch);
    assert_eq!(miss(&a, "x").await, 2);
}

#[tokio::test]
async fn a_server_that_became_the_replica_of_another_is_not_used() {
    let mut fixture = Fixture::start().await;
    let other = Server::start("dragonfly", &[]);
    let a = fixture.process().await;
    fixture.put(&a, "x", 1).await;
    assert_eq!(miss(&a, "x").await, 1);
    let port = other.port().to_string();
    ask::<()>(&fixture.server, &["REPLICAOF", "127.0.0.1", &port]).await;
    let mut acknowledged = Acknowledged::default();
    let mut n = 1;
    let began = Instant::now();
    while a.is_usable() {
        assert!(began.elapsed() < PATIENCE, "a replica is used");
        n += 1;
        fixture.put(&a, "x", n).await;
        acknowledged.add(n);
        let started = Instant::now();
        let answer = a.latest("x").await.unwrap();
        assert!(n_of(&answer) >= acknowledged.floor(started));
    }
    // Nor when it has taken the other's data over.
    for _ in 0..30 {
        assert!(!a.is_usable(), "a replica is used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Promoted: it is another history now, whatever it holds.
    let epoch = fixture.epoch().await;
    ask::<()>(&fixture.server, &["REPLICAOF", "NO", "ONE"]).await;
    until_usable(&a, true).await;
    assert!(fixture.epoch().await > epoch);
    fixture.put(&a, "x", n + 1).await;
    assert_eq!(read(&a, "x").await.0, n + 1);
}
