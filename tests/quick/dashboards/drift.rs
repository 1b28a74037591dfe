//! P9: every metric of ours that a dashboard, a rule or a document names is one that the
//! service exports, with that label; and every exported one is used, or is listed here with
//! a reason.

use std::collections::BTreeSet;

use ganesh::telemetry::metrics::{Kind, Metric, TABLE};

use crate::support::monitoring::{annotations, list, names, queries, rules, text, word, yaml};
use crate::support::promql::{self, Expression};

/// Exported, and in no dashboard or rule.
const UNUSED: [(&str, &str); 3] = [
    (
        "ganesh_tails",
        "a stream too many is refused with 503, which the dashboard and an alert show",
    ),
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
    let named = |name: &str| TABLE.iter().find(|metric| metric.name == name);
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
    let mut all: Vec<_> = queries()
        .into_iter()
        .chain(annotations())
        .map(|q| (q.place, promql::read(&q.expr)))
        .collect();
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
        for label in expression.grouping.difference(&expression.quoted) {
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

/// The values that a label of a series can have; none when they are not ours to know.
fn closed_values(series: &str, metric: &Metric, label: &str) -> Option<BTreeSet<String>> {
    if let (true, Kind::Histogram(bounds)) = (label == "le", metric.kind) {
        assert!(series.ends_with("_bucket"), "{series} has no {label}");
        return Some(bounds.iter().map(f64::to_string).collect());
    }
    let at = metric.labels.iter().position(|known| *known == label)?;
    let values = (metric.series)().into_iter();
    Some(values.map(|values| values[at].to_owned()).collect())
}

/// What is wrong with the matchers of a selector: a value that its label never has, or values
/// that no one series has together.
fn wrong_values(selector: &promql::Selector) -> Vec<String> {
    let Some(metric) = entry(&selector.metric) else {
        return vec![]; // said elsewhere
    };
    let mut wrong = Vec::new();
    for (label, operator, value) in &selector.matchers {
        let Some(closed) = closed_values(&selector.metric, metric, label) else {
            continue;
        };
        // Of regular expressions only alternatives are used; anything else is found here.
        let is_pattern = operator.ends_with('~');
        let parts: Vec<&str> = value.split('|').collect();
        assert!(is_pattern || parts.len() == 1, "{label}{operator}{value}");
        let unknown = parts.iter().filter(|part| !closed.contains(**part));
        wrong.extend(unknown.map(|part| format!("{}: {label}={part}", selector.metric)));
    }
    let selects = |series: &Vec<&'static str>| {
        let mut labels = metric.labels.iter().zip(series);
        labels.all(|(label, has)| {
            let mut asked = selector.matchers.iter().filter(|(l, _, _)| l == label);
            asked.all(|(_, operator, value)| {
                value.split('|').any(|part| part == *has) != operator.starts_with('!')
            })
        })
    };
    if !(metric.series)().iter().any(selects) {
        wrong.push(format!("{selector:?} selects no series"));
    }
    wrong
}

#[test]
fn every_label_value_of_dashboards_and_rules_is_one_that_the_catalogue_has() {
    let mut wrong = BTreeSet::new();
    let mut looked_up = 0;
    for (place, expression) in expressions() {
        for selector in expression.selectors.iter().filter(|s| is_ours(&s.metric)) {
            looked_up += selector.matchers.len();
            let said = wrong_values(selector).into_iter();
            wrong.extend(said.map(|words| format!("{place}: {words}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(looked_up > 100, "{looked_up} matchers");
}

#[test]
fn label_values_that_no_series_has_are_found() {
    let wrong = |text: &str| wrong_values(&promql::read(text).selectors[0]).len();
    assert_eq!(wrong(r#"ganesh_spans_total{result=~"dropped|failed"}"#), 0);
    assert_eq!(wrong(r#"ganesh_end_to_end_seconds_bucket{le="0.25"}"#), 0);
    assert_eq!(wrong(r#"ganesh_end_to_end_seconds_bucket{le="0.3"}"#), 1);
    assert_eq!(wrong(r#"ganesh_dependency_up{dependency!="redis"}"#), 1);
    assert_eq!(wrong(r#"ganesh_traces_total{decision!~"slow|fast"}"#), 1);
    // Each value is known, but fills are never hits.
    let apart = r#"ganesh_cache_requests_total{operation="fill",result="hit"}"#;
    assert_eq!(wrong(apart), 1);
}

#[test]
fn every_metric_of_the_catalogue_is_used_or_has_a_reason_not_to_be() {
    let used: BTreeSet<_> = expressions()
        .iter()
        .flat_map(|(_, expression)| &expression.selectors)
        .filter_map(|selector| entry(&selector.metric))
        .map(|metric| metric.name)
        .collect();
    for metric in TABLE {
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
                if !TABLE.iter().any(|metric| metric.name.starts_with(&name)) {
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
