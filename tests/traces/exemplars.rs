//! An exemplar on `/metrics` leads to a trace that the collector has accepted.

use std::collections::BTreeSet;

use super::shape::wait_for_traces;
use crate::support::collector::{Collector, Manner};
use crate::support::events::{events, publish, publish_invalid};
use crate::support::{Ganesh, Stack, eventually};

/// Series (with its labels) and trace id of every exemplar.
pub async fn exemplars(ganesh: &Ganesh) -> Vec<(String, String)> {
    let client = reqwest::Client::new();
    let request = client
        .get(ganesh.admin_url("/metrics"))
        .header("accept", "application/openmetrics-text; version=1.0.0");
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, exemplar) = line.split_once(" # {trace_id=\"")?;
            let (trace_id, _) = exemplar.split_once('"').unwrap();
            Some((series.to_owned(), trace_id.to_owned()))
        })
        .collect()
}

#[tokio::test]
async fn every_exemplar_names_a_trace_that_was_accepted() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", "1000000"),
    ]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;

    // What the collector refuses leaves none.
    collector.behave(Manner::Refuse);
    publish(&jetstream, &events("refused", 200)).await;
    publish_invalid(&jetstream).await;
    let failed = "ganesh_spans_total{result=\"failed\"}";
    ganesh.wait_for_metric(failed, 200.0 * 7.0).await;
    assert_eq!(exemplars(&ganesh).await, []);

    collector.behave(Manner::Accept);
    for round in 0..5 {
        publish(&jetstream, &events(&format!("round-{round}"), 200)).await;
        stack.wait_until_drained().await;
    }
    publish_invalid(&jetstream).await;
    let arrived = wait_for_traces(&collector, 1_001).await;
    let accepted: BTreeSet<&str> = arrived
        .iter()
        .map(|whole| whole.process.trace_id.as_str())
        .collect();
    let stages = ["stream", "decode", "queue", "store", "cache", "settle"];
    let mut families: BTreeSet<String> = stages
        .map(|stage| format!("ganesh_stage_seconds_bucket{{stage=\"{stage}\""))
        .into();
    families.insert("ganesh_end_to_end_seconds_bucket{le=".to_owned());
    eventually("every histogram has an exemplar", || async {
        let found = exemplars(&ganesh).await;
        families
            .iter()
            .all(|family| found.iter().any(|(series, _)| series.starts_with(family)))
    })
    .await;
    for (series, trace_id) in exemplars(&ganesh).await {
        assert!(accepted.contains(trace_id.as_str()), "{series}: {trace_id}");
    }
}
