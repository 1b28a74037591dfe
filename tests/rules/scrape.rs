//! A real Prometheus, started as `make up` starts it, scrapes a real ganesh under load:
//! every rule can be evaluated, every panel about ganesh has something to show, and the points
//! of its histograms lead to traces that a collector has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ganesh::event::Timestamp;
use ganesh::produce::events::subject_name;

use crate::support::collector::Collector;
use crate::support::ganesh::Load;
use crate::support::monitoring::{Query, list, queries, rules_that, word};
use crate::support::prometheus::Prometheus;
use crate::support::{PATIENCE, Stack};

/// Beginnings of names that only come from programs that this test does not run.
const OTHERS: [&str; 4] = ["jetstream_", "gnatsd_", "pg_", "dragonfly_"];

/// Reads the newest states of busy subjects, until the test ends.
async fn read(api: String) {
    loop {
        for rank in 0..10 {
            let url = format!("{api}/v1/subjects/{}/latest", subject_name(rank));
            let _ = reqwest::get(url).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// As Grafana fills it in, with everything chosen.
fn filled(expr: &str) -> String {
    let expr = expr.replace("$__rate_interval", "15s");
    let expr = expr.replace("$__interval", "5s");
    expr.replace("$job", ".+").replace("$instance", ".+")
}

/// Fine without data: nothing fires.
fn is_of_alerts(expr: &str) -> bool {
    expr.contains("ALERTS{alertstate=\"firing\"}")
}

/// Needs a day of data.
fn is_of_a_month(expr: &str) -> bool {
    expr.contains("ratio_rate30d") || expr.contains("ratio30d")
}

/// Shows only what is there; another expression of the panel then says that nothing is.
fn may_be_empty(expr: &str) -> bool {
    expr.ends_with("> 0") || expr.ends_with("== 0")
}

fn is_about_what_runs_here(query: &Query) -> bool {
    let mut words = query.expr.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.all(|word| !OTHERS.iter().any(|start| word.starts_with(start)))
}

/// What has no data now: panels without any, expressions that must have some, and rules.
async fn missing(prometheus: &Prometheus) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    let mut shown = BTreeSet::new();
    let queries = queries().into_iter().filter(is_about_what_runs_here);
    let needed = |expr: &str| !is_of_alerts(expr) && !is_of_a_month(expr);
    for query in queries.filter(|query| needed(&query.expr)) {
        let has_data = prometheus.has_data(&filled(&query.expr)).await;
        if has_data {
            shown.insert(query.place);
        } else if may_be_empty(&query.expr) {
            missing.insert(query.place);
        } else {
            missing.insert(format!("{}: {}", query.place, query.expr));
        }
    }
    for rule in rules_that("record") {
        let record = word(&rule["record"]);
        if !is_of_a_month(record) && !prometheus.has_data(record).await {
            missing.insert(record.to_owned());
        }
    }
    missing.retain(|place| !shown.contains(place));
    missing
}

#[tokio::test]
async fn every_panel_about_ganesh_has_data_and_every_rule_can_be_evaluated() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let every_message = [("GANESH_TRACE_SLOW_MS", "0")];
    let ganesh = stack.serve(&collector.settings_with(&every_message)).await;
    let target = ganesh.admin_address();
    let prometheus = Prometheus::start(&target).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    tokio::spawn(read(ganesh.api.clone()));

    let started = Instant::now();
    loop {
        let missing = missing(&prometheus).await;
        if missing.is_empty() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "no data: {missing:#?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    let answer = prometheus.ask("rules", &[]).await;
    let rules = list(&answer["groups"])
        .iter()
        .flat_map(|group| list(&group["rules"]));
    let runbook = format!("http://{target}/runbook#");
    let mut evaluated = 0;
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        if rule["type"] == "alerting" {
            let page = word(&rule["annotations"]["runbook_url"]);
            assert!(page.starts_with(&runbook), "{page}");
        }
        evaluated += 1;
    }
    assert_eq!(
        evaluated,
        rules_that("alert").len() + rules_that("record").len()
    );
    // The other jobs were given no target: nobody misses them.
    let missed = "ALERTS{alertname=\"GaneshTargetMissing\"}";
    assert!(!prometheus.has_data(missed).await, "{missed}");
    assert_exemplars_lead_to_traces(&prometheus, &collector).await;
}

/// Grafana asks the same for the points of the heatmap.
async fn assert_exemplars_lead_to_traces(prometheus: &Prometheus, collector: &Collector) {
    let now = Timestamp::now().micros() / 1_000_000;
    let (start, end) = ((now - 600).to_string(), now.to_string());
    let parameters = [
        ("query", "ganesh_end_to_end_seconds_bucket"),
        ("start", start.as_str()),
        ("end", end.as_str()),
    ];
    let answer = prometheus.ask("query_exemplars", &parameters).await;
    let found: BTreeSet<&str> = list(&answer)
        .iter()
        .flat_map(|series| list(&series["exemplars"]))
        .map(|exemplar| word(&exemplar["labels"]["trace_id"]))
        .collect();
    assert!(!found.is_empty(), "no exemplars");
    let accepted: BTreeSet<String> = collector.spans().into_iter().map(|s| s.trace_id).collect();
    for trace_id in found {
        assert!(accepted.contains(trace_id), "{trace_id} leads nowhere");
    }
}
