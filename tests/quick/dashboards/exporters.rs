//! The metrics of others that dashboards and rules use exist: in what the real programs
//! answered, whose names and labels are kept in `captured/`.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::monitoring::{names, queries, rules, text, word};
use crate::support::promql;

const CAPTURED: &str = "tests/quick/dashboards/captured";
/// Series that Prometheus makes itself for each scrape and alert.
const MADE: [&str; 4] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "ALERTS",
];

/// Names and labels of all captured programs.
fn captured() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in names(CAPTURED, ".txt") {
        let file = text(&format!("{CAPTURED}/{name}"));
        let mut lines = file.lines();
        let head = lines.next().unwrap_or_default();
        let versioned = head.starts_with("# ") && head.contains(|c: char| c.is_ascii_digit());
        assert!(
            versioned,
            "{name} says in its first line what version it is from"
        );
        for line in lines.filter(|line| !line.starts_with('#')) {
            let (metric, labels) = line.split_once(' ').unwrap_or((line, ""));
            let labels = labels.split(',').filter(|label| !label.is_empty());
            metrics
                .entry(metric.to_owned())
                .or_default()
                .extend(labels.map(str::to_owned));
        }
    }
    metrics
}

fn is_somebody_elses(metric: &str) -> bool {
    let ours = metric.starts_with("ganesh_") || metric.starts_with("process_");
    !ours && !metric.contains(':') && !MADE.contains(&metric)
}

#[test]
fn every_metric_and_label_of_an_exporter_was_seen_in_its_real_output() {
    let captured = captured();
    let mut places: Vec<_> = queries()
        .into_iter()
        .map(|q| (q.place, promql::read(&q.expr)))
        .collect();
    for rule in rules() {
        places.push((rule.to_string(), promql::read(word(&rule["expr"]))));
    }
    let mut wrong = BTreeSet::new();
    for (place, expression) in places {
        let others = expression.selectors.iter();
        let others: Vec<_> = others.filter(|s| is_somebody_elses(&s.metric)).collect();
        for selector in &others {
            let Some(labels) = captured.get(&selector.metric) else {
                wrong.insert(format!("{place}: {} was not captured", selector.metric));
                continue;
            };
            let matched = selector.matchers.iter().map(|(label, _, _)| label);
            for label in matched.chain(&expression.grouping) {
                if !labels.contains(label) && label != "job" && label != "instance" {
                    wrong.insert(format!("{place}: {} has no label {label}", selector.metric));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
