//! P9: every metric of the catalogue is exported from the start, and no other; names are
//! those that the documents fix.

use std::collections::{BTreeMap, BTreeSet};

use ganesh::error::{Code, Dependency};
use ganesh::pipeline::dead_letter::Reason;
use ganesh::telemetry::catalogue::{CATALOGUE, CacheRequest, Kind, Metric, Outcome, Queue};
use ganesh::telemetry::metrics::{HTTP_ROUTES, HTTP_STATUS_CLASSES};

use crate::support::Stack;

/// One family as `/metrics` shows it.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    /// What stands between the braces of each series, sorted.
    labels: BTreeSet<String>,
}

/// The families of an exposition in the text format 0.0.4.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
            name.clone_into(&mut current);
        } else {
            let series = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert!(name.starts_with(&current), "{line} stands under {current}");
            let labels = labels.strip_suffix('}').unwrap();
            // No label value of ours holds a comma.
            let mut labels: Vec<&str> = labels.split(',').collect();
            labels.sort_unstable();
            let family = families.get_mut(&current).unwrap();
            family.labels.insert(labels.join(","));
        }
    }
    families
}

/// All combinations of label values that a metric may ever have.
fn closed_values(metric: &Metric) -> Vec<Vec<&'static str>> {
    let each = |values: &[&'static str]| values.iter().map(|value| vec![*value]).collect();
    let pairs = |one: &[&'static str], other: &[&'static str]| {
        let with = |a: &&'static str| other.iter().map(|b| vec![*a, *b]).collect::<Vec<_>>();
        one.iter().flat_map(with).collect()
    };
    match metric.labels {
        [] => vec![vec![]],
        ["outcome"] => each(&Outcome::ALL.map(Outcome::as_str)),
        ["reason"] => each(&Reason::ALL.map(Reason::as_str)),
        ["queue"] => each(&Queue::ALL.map(Queue::as_str)),
        ["dependency"] => each(&Dependency::ALL.map(Dependency::as_str)),
        ["dependency", "code"] => pairs(
            &Dependency::ALL.map(Dependency::as_str),
            &Code::ALL.map(Code::as_str),
        ),
        ["method"] => each(&["copy", "insert"]),
        ["operation", "result"] => {
            let pair = |request: CacheRequest| [request.labels().0, request.labels().1].to_vec();
            CacheRequest::ALL.map(pair).to_vec()
        }
        ["state"] => each(&["idle", "used"]),
        ["route", "status"] => pairs(&HTTP_ROUTES, &HTTP_STATUS_CLASSES),
        ["version"] => each(&[env!("CARGO_PKG_VERSION")]),
        other => panic!("{}: no closed list for {other:?}", metric.name),
    }
}

/// The series of a metric, as they stand between the braces.
fn expected_labels(metric: &Metric) -> BTreeSet<String> {
    let series = |values: Vec<&str>| {
        let mut labels: Vec<String> = metric
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        labels.sort();
        labels.join(",")
    };
    closed_values(metric).into_iter().map(series).collect()
}

#[tokio::test]
async fn a_fresh_serve_exports_the_catalogue_with_all_label_values_and_nothing_else() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let (status, text) = ganesh.admin("/metrics").await;
    assert_eq!(status, 200);
    let mut exported = families(&text);
    exported.retain(|name, _| name.starts_with("ganesh_"));
    for metric in CATALOGUE {
        let family = exported.remove(metric.name);
        let family = family.unwrap_or_else(|| panic!("{} is not exported", metric.name));
        assert_eq!(family.help, metric.help, "{}", metric.name);
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert_eq!(family.kind, kind, "{}", metric.name);
        if let Kind::Histogram(buckets) = metric.kind {
            assert_buckets(metric.name, buckets, &family.labels);
        } else {
            assert_eq!(family.labels, expected_labels(metric), "{}", metric.name);
        }
    }
    let unknown: Vec<_> = exported.keys().collect();
    assert!(unknown.is_empty(), "not in the catalogue: {unknown:?}");
}

fn assert_buckets(name: &str, buckets: &[f64], found: &BTreeSet<String>) {
    let bounds = buckets.iter().map(|bound| format!("le=\"{bound}\""));
    let sum_and_count = String::new();
    let all = bounds.chain(["le=\"+Inf\"".to_owned(), sum_and_count]);
    assert_eq!(*found, all.collect::<BTreeSet<_>>(), "{name}");
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut names = BTreeSet::new();
    for metric in CATALOGUE {
        let name = metric.name;
        assert!(names.insert(name), "{name} stands there twice");
        assert!(name.starts_with("ganesh_"), "{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(plain), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            metric.kind == Kind::Counter,
            "{name}"
        );
        // The unit is the last word, but for `_total`, and only base units are used.
        let unit = name.trim_end_matches("_total").rsplit('_').next().unwrap();
        assert!(
            !["ms", "millis", "milliseconds", "micros", "kb", "mib"].contains(&unit),
            "{name}"
        );
        assert_eq!(metric.unit == "seconds", unit == "seconds", "{name}");
        assert!(
            metric.help.ends_with('.') && metric.help.len() > 15,
            "{name}"
        );
        assert!(
            metric.labels.iter().all(|label| label.chars().all(plain)),
            "{name}"
        );
    }
}

#[test]
fn the_names_and_labels_that_dashboards_rely_on_are_there() {
    let fixed: [(&str, &[&str]); 17] = [
        ("ganesh_messages_received_total", &[]),
        ("ganesh_messages_redelivered_total", &[]),
        ("ganesh_messages_settled_total", &["outcome"]),
        ("ganesh_dead_letters_total", &["reason"]),
        ("ganesh_end_to_end_seconds", &[]),
        ("ganesh_in_flight_messages", &[]),
        ("ganesh_in_flight_limit", &[]),
        ("ganesh_queue_depth", &["queue"]),
        ("ganesh_queue_capacity", &["queue"]),
        ("ganesh_consumer_pending_messages", &[]),
        ("ganesh_consumer_ack_pending_messages", &[]),
        ("ganesh_dependency_up", &["dependency"]),
        ("ganesh_dependency_errors_total", &["dependency", "code"]),
        ("ganesh_cache_requests_total", &["operation", "result"]),
        ("ganesh_postgres_connections", &["state"]),
        ("ganesh_http_requests_total", &["route", "status"]),
        ("ganesh_build_info", &["version"]),
    ];
    for (name, labels) in fixed {
        let metric = CATALOGUE.iter().find(|metric| metric.name == name);
        assert_eq!(metric.map(|metric| metric.labels), Some(labels), "{name}");
    }
    let outcomes = Outcome::ALL.map(Outcome::as_str);
    assert_eq!(
        outcomes,
        ["stored", "duplicate", "dead_lettered", "released"]
    );
    let dependencies = Dependency::ALL.map(Dependency::as_str);
    assert_eq!(dependencies, ["nats", "postgres", "cache"]);
}

#[test]
fn end_to_end_has_the_boundaries_that_the_objective_and_a_backlog_need() {
    let mut histograms = CATALOGUE
        .iter()
        .filter(|m| m.name == "ganesh_end_to_end_seconds");
    let Kind::Histogram(buckets) = histograms.next().unwrap().kind else {
        panic!("it is no histogram");
    };
    assert!(buckets.is_sorted() && buckets.contains(&0.25));
    assert!((buckets.last().unwrap() - 3_600.0).abs() < f64::EPSILON);
}
