//! P9: every metric of ours that a dashboard, a rule or a document names is one that the
//! service exports, with that label; and every exported one is used, or is listed here with
//! a reason.

use std::collections::BTreeSet;

use ganesh::telemetry::catalogue::{CATALOGUE, Kind, Metric};

use crate::support::monitoring::{list, names, queries, rules, text, word, yaml};
use crate::support::promql::{self, Expression};

/// Exported, and in no dashboard or rule.
const UNUSED: [(&str, &str); 2] = [
    (
        "process_virtual_memory_bytes",
        "address space says nothing about memory in use",
    ),
    (
        "process_virtual_memory_max_bytes",
        "a limit of the address space, which nobody sets",
    ),
];
/// Labels that Prometheus gives to every series that it scrapes.
const SCRAPED: [&str; 2] = ["job", "instance"];

fn is_ours(name: &str) -> bool {
    ["ganesh_", "process_"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// The entry of a series: a histogram's have endings of their own.
fn entry(series: &str) -> Option<&'static Metric> {
    let named = |name: &str| CATALOGUE.iter().find(|metric| metric.name == name);
    named(series).or_else(|| {
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| series.strip_suffix(end))?;
        named(name).filter(|metric| matches!(metric.kind, Kind::Histogram(_)))
    })
}

fn has_label(series: &str, metric: &Metric, label: &str) -> bool {
    let bound = label == "le" && series.ends_with("_bucket");
    bound || metric.labels.contains(&label) || SCRAPED.contains(&label)
}

/// Every expression of dashboards, rules and data sources, with its place.
fn expressions() -> Vec<(String, Expression)> {
    let mut all: Vec<_> = queries().into_iter().map(|q| (q.place, q.read)).collect();
    for rule in rules() {
        let name = rule["alert"].as_str().or(rule["record"].as_str());
        let expression = promql::read(word(&rule["expr"]));
        all.push((name.expect("a rule has a name").to_owned(), expression));
    }
    let sources = yaml("grafana/provisioning/datasources/datasources.yml");
    for source in list(&sources["datasources"]) {
        for query in list(&source["jsonData"]["tracesToMetrics"]["queries"]) {
            // Grafana puts the span's matchers there.
            let filled = word(&query["query"]).replace("$$__tags", r#"job="ganesh""#);
            all.push((format!("{}", query["name"]), promql::read(&filled)));
        }
    }
    all
}

#[test]
fn every_metric_and_label_of_dashboards_and_rules_is_in_the_catalogue() {
    let mut wrong = BTreeSet::new();
    for (place, expression) in expressions() {
        let ours: Vec<_> = expression
            .selectors
            .iter()
            .filter(|s| is_ours(&s.metric))
            .collect();
        for selector in &ours {
            let name = &selector.metric;
            let Some(metric) = entry(name) else {
                wrong.insert(format!("{place}: no metric {name}"));
                continue;
            };
            for (label, _, _) in &selector.matchers {
                if !has_label(name, metric, label) {
                    wrong.insert(format!("{place}: {name} has no label {label}"));
                }
            }
        }
        if ours.len() < expression.selectors.len() {
            continue; // a group may be by a label of somebody else's metric
        }
        for label in &expression.grouping {
            let known = |s: &&promql::Selector| {
                entry(&s.metric).is_none_or(|metric| has_label(&s.metric, metric, label))
            };
            if !ours.is_empty() && !ours.iter().any(known) {
                wrong.insert(format!("{place}: none of its metrics has a label {label}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_label_value_of_dashboards_and_rules_is_one_that_the_help_or_the_code_knows() {
    use ganesh::telemetry::catalogue::{Outcome, Queue};
    let outcomes = Outcome::ALL.map(Outcome::as_str);
    let queues = Queue::ALL.map(Queue::as_str);
    let dependencies = ganesh::error::Dependency::ALL.map(ganesh::error::Dependency::as_str);
    for (place, expression) in expressions() {
        for selector in expression.selectors.iter().filter(|s| is_ours(&s.metric)) {
            for (label, _, value) in &selector.matchers {
                let closed: &[&str] = match label.as_str() {
                    "outcome" => &outcomes,
                    "queue" => &queues,
                    "dependency" => &dependencies,
                    _ => continue,
                };
                for part in value.split('|') {
                    assert!(closed.contains(&part), "{place}: {label}={part}");
                }
            }
        }
    }
}

#[test]
fn every_metric_of_the_catalogue_is_used_or_has_a_reason_not_to_be() {
    let used: BTreeSet<_> = expressions()
        .iter()
        .flat_map(|(_, expression)| &expression.selectors)
        .filter_map(|selector| entry(&selector.metric))
        .map(|metric| metric.name)
        .collect();
    for metric in CATALOGUE {
        let excused = UNUSED.iter().any(|(name, _)| *name == metric.name);
        assert_ne!(
            used.contains(metric.name),
            excused,
            "{}: in no dashboard or rule, or there and listed as unused",
            metric.name
        );
    }
    for (name, _) in UNUSED {
        assert!(
            entry(name).is_some(),
            "{name} is listed as unused and not exported"
        );
    }
}

/// What a document says of a metric.
struct Mention {
    name: String,
    labels: Vec<String>,
    /// `ganesh_runtime_*` and the like.
    is_prefix: bool,
}

/// Every `ganesh_…` and `process_…` of a text, with labels in braces right behind it.
fn mentions(text: &str) -> Vec<Mention> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if !is_ours(name) {
            continue;
        }
        let braces = after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let labels = braces.map_or(vec![], |(inner, _)| {
            let label = |part: &str| {
                part.split(['=', '!'])
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            };
            inner.split(',').map(label).collect()
        });
        found.push(Mention {
            name: name.to_owned(),
            labels,
            is_prefix: after.starts_with('*') || after.starts_with('…'),
        });
    }
    found
}

#[test]
fn every_metric_and_label_of_the_documents_is_in_the_catalogue() {
    let mut documents = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    documents.extend(
        names("docs", ".md")
            .into_iter()
            .map(|name| format!("docs/{name}")),
    );
    let mut wrong = BTreeSet::new();
    for document in documents {
        for Mention {
            name,
            labels,
            is_prefix,
        } in mentions(&text(&document))
        {
            if is_prefix {
                if !CATALOGUE
                    .iter()
                    .any(|metric| metric.name.starts_with(&name))
                {
                    wrong.insert(format!("{document}: nothing begins with {name}"));
                }
                continue;
            }
            match entry(&name) {
                None => drop(wrong.insert(format!("{document}: no metric {name}"))),
                Some(metric) => {
                    for label in labels
                        .iter()
                        .filter(|label| !has_label(&name, metric, label))
                    {
                        wrong.insert(format!("{document}: {name} has no label {label}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_document_is_read_for_names_labels_and_prefixes() {
    let found = mentions("`ganesh_a_total{x,y=\"1\"}`, ganesh_b_* and Xganesh_c.");
    let names: Vec<_> = found
        .iter()
        .map(|m| (m.name.as_str(), m.is_prefix))
        .collect();
    assert_eq!(names, [("ganesh_a_total", false), ("ganesh_b_", true)]);
    assert_eq!(found[0].labels, ["x", "y"]);
}
