//! A stage that is slowed down: every slow message arrives as a whole trace, and it shows
//! which stage that was.

use std::collections::BTreeSet;
use std::time::Duration;

use ganesh::event::Event;

use super::shape::{BATCH, Whole, traces, wait_for_traces};
use crate::support::collector::Collector;
use crate::support::events::{events, publish};
use crate::support::{Stack, eventually};

fn ids(events: &[Event]) -> BTreeSet<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

#[tokio::test]
async fn every_message_slowed_by_a_lock_is_a_whole_trace_that_shows_where_it_waited() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "2000"),
        ("GANESH_TRACE_MAX_PER_SEC", "10000"),
        // Few enough that messages also wait for the batch, and in the stream.
        ("GANESH_BATCH_MAX_EVENTS", "50"),
        ("GANESH_MAX_IN_FLIGHT", "400"),
    ]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("before", 200)).await;
    stack.wait_until_drained().await;

    let mut lock = stack.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let slow = events("slow", 600);
    publish(&jetstream, &slow).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    publish(&jetstream, &events("after", 200)).await;
    stack.wait_until_drained().await;

    let arrived = wait_for_traces(&collector, slow.len()).await;
    let arrived_ids: BTreeSet<&str> = arrived.iter().map(Whole::event).collect();
    assert_eq!(arrived.len(), slow.len(), "each one once");
    assert_eq!(arrived_ids, ids(&slow));
    let mut longest = BTreeSet::new();
    for whole in &arrived {
        assert_eq!(whole.keep_reason(), "slow");
        assert_eq!(whole.names().len(), 6);
        let stage = whole.longest().name.as_str();
        assert!(["store", "queue", "stream"].contains(&stage), "{whole:#?}");
        longest.insert(stage);
        let store = whole.stage("store");
        if store.duration() > 2_500_000_000 {
            assert_eq!(stage, "store", "{whole:#?}");
        }
    }
    assert!(
        longest.contains("store") && longest.contains("stream"),
        "{longest:?}"
    );
    // One span for each batch, however many of its messages are kept.
    let batches = BATCH.map(|name| collector.named(name)).concat();
    let distinct: BTreeSet<&str> = batches.iter().map(|batch| batch.id.as_str()).collect();
    assert_eq!(distinct.len(), batches.len());
    assert!((12..60).contains(&batches.len()), "{}", batches.len());
    let slow_count = ganesh
        .metric("ganesh_traces_total{decision=\"slow\"}")
        .await;
    assert!((slow_count - 600.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_message_slowed_by_the_cache_shows_the_cache_as_its_longest_stage() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    // Below the limit of a cache write, which is half a second.
    let settings = collector.settings_with(&[("GANESH_TRACE_SLOW_MS", "400")]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    // Until it answers, writes are skipped, and no message would be written to it.
    ganesh
        .wait_for_metric("ganesh_dependency_up{dependency=\"cache\"}", 1.0)
        .await;
    publish(&jetstream, &events("warm-up", 10)).await;
    let written = "ganesh_cache_requests_total{operation=\"write\",result=\"ok\"}";
    ganesh.wait_for_metric(written, 1.0).await;
    stack.cache.pause();
    publish(&jetstream, &events("slow", 5)).await;
    stack.wait_until_drained().await;
    stack.cache.resume();
    let slow = || {
        let mut slow = traces(&collector);
        slow.retain(|whole| whole.event().starts_with("slow"));
        slow
    };
    eventually("the slow ones arrive", || async { slow().len() >= 5 }).await;
    assert_eq!(slow().len(), 5);
    for whole in slow() {
        assert_eq!(whole.longest().name, "cache", "{whole:#?}");
        // An attempt failed on the way, and the message did not.
        assert_eq!(whole.keep_reason(), "failed");
        assert!(whole.stage("cache").is_error && !whole.process.is_error);
        assert_eq!(whole.stage("cache").attribute("error.type"), "timeout");
    }
}

#[tokio::test]
async fn what_is_not_slow_is_kept_at_the_rate_of_the_baseline() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "60000"),
        ("GANESH_TRACE_BASELINE", "10"),
        ("GANESH_TRACE_MAX_PER_SEC", "100000"),
    ]);
    let ganesh = stack.serve(&settings).await;
    publish(&stack.jetstream().await, &events("e", 2_000)).await;
    let series = |decision: &str| format!("ganesh_traces_total{{decision=\"{decision}\"}}");
    // Counted a moment after the acknowledgements.
    eventually("all are counted", || async {
        let baseline = ganesh.metric(&series("baseline")).await;
        let unsampled = ganesh.metric(&series("unsampled")).await;
        (baseline + unsampled - 2_000.0).abs() < f64::EPSILON
    })
    .await;
    let baseline = ganesh.metric(&series("baseline")).await;
    assert!((120.0..280.0).contains(&baseline), "{baseline}");
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let expected = baseline as usize;
    let arrived = wait_for_traces(&collector, expected).await;
    assert_eq!(arrived.len(), expected);
    assert!(
        traces(&collector)
            .iter()
            .all(|w| w.keep_reason() == "baseline"
                && w.process.attribute("ganesh.sample_weight") == "10")
    );
}
