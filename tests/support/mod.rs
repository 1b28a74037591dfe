//! What the tests share: real servers on free ports, the real binary, and events.

pub mod binary;
pub mod cache_server;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod deliveries;
pub mod events;
pub mod exposition;
pub mod flood;
pub mod ganesh;
pub mod keys;
pub mod ledger;
pub mod monitoring;
pub mod prometheus;
pub mod proxy;
pub mod raw_nats;
pub mod reads;
pub mod servers;
pub mod stack;

use std::future::Future;
use std::time::{Duration, Instant};

pub use ganesh::Ganesh;
pub use stack::Stack;

/// How long anything that should happen may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; panics with `what` when it does not within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
