//! `/debug/slow`, where no trace is exported: the decisions and the list work all the same.

use std::time::Duration;

use serde_json::Value;

use crate::support::events::{events, publish, publish_invalid};
use crate::support::{Ganesh, Stack};

async fn lately(ganesh: &Ganesh) -> Value {
    let (status, body) = ganesh.admin("/debug/slow").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn the_slowest_and_the_failed_are_listed_without_a_trace_being_exported() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_TRACE_SLOW_MS", "1000")]).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("fast", 100)).await;
    stack.wait_until_drained().await;
    let mut lock = stack.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    publish(&jetstream, &events("slow", 5)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    lock.rollback().await.unwrap();
    publish_invalid(&jetstream).await;
    stack.wait_until_drained().await;
    ganesh
        .wait_for_metric("ganesh_traces_total{decision=\"slow\"}", 5.0)
        .await;

    let lately = lately(&ganesh).await;
    let slowest = lately["slowest"].as_array().unwrap();
    assert!(slowest.len() <= 120);
    let totals: Vec<f64> = slowest
        .iter()
        .map(|e| e["total_ms"].as_f64().unwrap())
        .collect();
    assert!(totals.is_sorted_by(|a, b| a >= b), "{totals:?}");
    for entry in &slowest[..5] {
        assert!(
            entry["event_id"].as_str().unwrap().starts_with("slow-"),
            "{entry}"
        );
        assert_eq!(entry["decision"], "slow");
        let stages = entry["stages_ms"].as_object().unwrap();
        let sum: f64 = stages.values().map(|stage| stage.as_f64().unwrap()).sum();
        let total = entry["total_ms"].as_f64().unwrap();
        assert!((sum - total).abs() < 0.001, "{entry}");
        assert!(
            entry["stages_ms"]["store"].as_f64().unwrap() > total / 2.0,
            "{entry}"
        );
        let id = entry["event_id"].as_str().unwrap();
        let of_row: String = sqlx::query_scalar("SELECT trace_id FROM events WHERE id = $1")
            .bind(id)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        assert_eq!(entry["trace_id"], of_row.as_str());
    }
    let failed = lately["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{lately}");
    assert_eq!(failed[0]["error"]["type"], "missing_attribute");
    assert_eq!(failed[0]["error"]["stage"], "decode");
    assert_eq!(failed[0]["outcome"], "dead_lettered");
    assert!(ganesh.metric("ganesh_spans_built_total").await < f64::EPSILON);
}

/// What waits behind a stuck writer waits as long as it, and is more.
#[tokio::test]
async fn the_few_that_name_a_slow_stage_are_not_pushed_out_by_what_waits_behind_them() {
    let stack = Stack::start().await;
    let ganesh = stack
        .serve(&[("GANESH_WRITERS", "1"), ("GANESH_BATCH_MAX_EVENTS", "5")])
        .await;
    let jetstream = stack.jetstream().await;
    let lock = stack.lock("events", "SHARE").await;
    publish(&jetstream, &events("stuck", 1)).await;
    stack.wait_until_writers_wait().await;
    publish(&jetstream, &events("waiting", 200)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    ganesh
        .wait_for_metric("ganesh_messages_settled_total{outcome=\"stored\"}", 201.0)
        .await;
    let lately = lately(&ganesh).await;
    let slowest = lately["slowest"].as_array().unwrap();
    let share_of = |stage: &str, entry: &Value| {
        let in_stage = entry["stages_ms"][stage].as_f64().unwrap();
        in_stage / entry["total_ms"].as_f64().unwrap()
    };
    let in_store = |entry: &Value| share_of("store", entry) > 0.5;
    assert!(slowest.iter().any(in_store), "{lately:#}");
    let in_queue = slowest
        .iter()
        .filter(|entry| share_of("queue", entry) > 0.5);
    assert_eq!(in_queue.count(), 20);
}
