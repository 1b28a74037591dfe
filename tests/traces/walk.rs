//! The walk of an investigation: from a slow bucket to the trace, the row and the log line.

use std::time::Duration;

use serde_json::Value;

use super::exemplars::exemplars;
use super::shape::{traces, wait_for_traces};
use crate::support::collector::Collector;
use crate::support::events::{event, events, publish};
use crate::support::{Stack, eventually};

#[tokio::test]
async fn from_a_slow_bucket_an_exemplar_leads_to_the_trace_the_row_and_the_log_line() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[("GANESH_TRACE_SLOW_MS", "1000")]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("fast", 200)).await;
    stack.wait_until_drained().await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, &[event("slow")]).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    wait_for_traces(&collector, 1).await;

    let store = "ganesh_stage_seconds_bucket{stage=\"store\"";
    let exemplar = async || {
        let mut exemplars = exemplars(&ganesh).await.into_iter();
        exemplars.find(|(series, _)| series.starts_with(store))
    };
    eventually("the store stage has an exemplar", || async {
        exemplar().await.is_some()
    })
    .await;
    let (series, trace_id) = exemplar().await.unwrap();
    let slow = ["le=\"2.5\"", "le=\"5.0\""];
    assert!(slow.iter().any(|le| series.contains(le)), "{series}");

    let arrived = traces(&collector);
    let found = arrived.iter().find(|w| w.process.trace_id == trace_id);
    let whole = found.expect("the exemplar leads to a trace");
    assert_eq!((whole.event(), whole.keep_reason()), ("slow", "slow"));
    assert_eq!(whole.longest().name, "store");

    let row: String = sqlx::query_scalar("SELECT id FROM events WHERE trace_id = $1")
        .bind(&trace_id)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(row, "slow");

    let log = ganesh.log();
    let mut lines = log
        .lines()
        .map(|line| -> Value { serde_json::from_str(line).unwrap() });
    let line = lines.find(|line| line["trace_id"] == trace_id.as_str());
    let line = line.expect("the message has a line in the log");
    assert_eq!(line["keep_reason"], "slow");
    assert_eq!(line["longest_stage"], "store");
    let sequence = line["stream_seq"].as_u64().unwrap().to_string();
    assert_eq!(sequence, whole.process.attribute("ganesh.stream_sequence"));
    let total_ms = line["total_ms"].as_u64().unwrap();
    assert_eq!(total_ms, whole.process.duration() / 1_000_000);
}
