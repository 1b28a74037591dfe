//! A real Prometheus, started as `make up` starts it, scrapes a real ganesh under load:
//! every rule can be evaluated, every panel about ganesh has something to show, and the points
//! of its histograms lead to traces that a collector has.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ganesh::event::Timestamp;
use ganesh::produce::events::subject_name;
use serde_json::Value;

use crate::support::collector::Collector;
use crate::support::ganesh::command;
use crate::support::monitoring::{Query, list, queries, rules_that, word};
use crate::support::servers::Server;
use crate::support::{PATIENCE, Stack, eventually};

/// Beginnings of names that only come from programs that this test does not run.
const OTHERS: [&str; 4] = ["jetstream_", "gnatsd_", "pg_", "dragonfly_"];

/// A producer, until it is dropped.
struct Load(Child);

impl Load {
    fn start(stack: &Stack) -> Self {
        let mut producer = command(Some(stack), &["produce", "--rate", "300"], &[]);
        producer.stdout(Stdio::null()).stderr(Stdio::null());
        Self(producer.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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

/// It listens a moment before it answers.
async fn wait_until_it_answers(prometheus: &Server) {
    let ready = format!("http://127.0.0.1:{}/-/ready", prometheus.port());
    eventually("Prometheus is ready", || async {
        reqwest::get(&ready)
            .await
            .is_ok_and(|answer| answer.status().is_success())
    })
    .await;
}

async fn ask(prometheus: &Server, path: &str, parameters: &[(&str, &str)]) -> Value {
    let address = format!("http://127.0.0.1:{}/api/v1/{path}", prometheus.port());
    let url = url::Url::parse_with_params(&address, parameters).unwrap();
    let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
    answer["data"].clone()
}

/// Whether an expression gives at least one number.
async fn has_data(prometheus: &Server, expr: &str) -> bool {
    let data = ask(prometheus, "query", &[("query", expr)]).await;
    let mut results = list(&data["result"]).iter();
    results.any(|result| word(&result["value"][1]) != "NaN")
}

/// As Grafana fills it in, with everything chosen.
fn filled(expr: &str) -> String {
    let expr = expr.replace("$__rate_interval", "15s");
    expr.replace("$job", ".+").replace("$instance", ".+")
}

/// What is fine without data: nothing fires.
const EMPTY_IS_GOOD: [&str; 1] = ["ALERTS{alertstate=\"firing\"}"];

/// Shows only what is there; another expression of the panel then says that nothing is.
fn may_be_empty(expr: &str) -> bool {
    expr.ends_with("> 0") || expr.ends_with("== 0")
}

fn is_about_what_runs_here(query: &Query) -> bool {
    let mut words = query.expr.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.all(|word| !OTHERS.iter().any(|start| word.starts_with(start)))
}

/// What has no data now: panels without any, expressions that must have some, and rules.
async fn missing(prometheus: &Server) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    let mut shown = BTreeSet::new();
    let queries = queries().into_iter().filter(is_about_what_runs_here);
    for query in queries.filter(|query| !EMPTY_IS_GOOD.contains(&query.expr.as_str())) {
        let has_data = has_data(prometheus, &filled(&query.expr)).await;
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
        if !has_data(prometheus, record).await {
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
    let prometheus = Server::start(
        "prometheus",
        &[("GANESH_TARGETS", &target), ("INTERVAL", "1s")],
    );
    wait_until_it_answers(&prometheus).await;
    let _load = Load::start(&stack);
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

    let answer = ask(&prometheus, "rules", &[]).await;
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
    assert!(!has_data(&prometheus, missed).await, "{missed}");
    assert_exemplars_lead_to_traces(&prometheus, &collector).await;
}

/// Grafana asks the same for the points of the heatmap.
async fn assert_exemplars_lead_to_traces(prometheus: &Server, collector: &Collector) {
    let now = Timestamp::now().micros() / 1_000_000;
    let (start, end) = ((now - 600).to_string(), now.to_string());
    let parameters = [
        ("query", "ganesh_end_to_end_seconds_bucket"),
        ("start", start.as_str()),
        ("end", end.as_str()),
    ];
    let answer = ask(prometheus, "query_exemplars", &parameters).await;
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
