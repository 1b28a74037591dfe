//! P9: every metric of the catalogue is exported from the start, and no other; names are
//! those that the documents fix.

mod moved;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use ganesh::error::Dependency;
use ganesh::labels::{Decision, Outcome, Queue, SpanResult, Stage};
use ganesh::telemetry::catalogue::{CATALOGUE, Kind, Metric};
use strum::VariantArray;

use crate::support::Stack;

fn names<L: VariantArray + Copy + Into<&'static str>>() -> Vec<&'static str> {
    L::VARIANTS.iter().map(|value| (*value).into()).collect()
}

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
    metric.series().into_iter().map(series).collect()
}

#[tokio::test]
async fn a_fresh_serve_exports_the_catalogue_with_all_label_values_and_nothing_else() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let (status, text) = ganesh.admin("/metrics").await;
    assert_eq!(status, 200);
    let mut exported = families(&text);
    for metric in CATALOGUE {
        let family = exported.remove(metric.name);
        let family = family.unwrap_or_else(|| panic!("{} is not exported", metric.name));
        assert_eq!(family.help, metric.help, "{}", metric.name);
        assert_eq!(family.kind, metric.kind.as_str(), "{}", metric.name);
        if let Kind::Histogram(buckets) = metric.kind {
            assert_buckets(metric, buckets, &family.labels);
        } else {
            assert_eq!(family.labels, expected_labels(metric), "{}", metric.name);
        }
    }
    let unknown: Vec<_> = exported.keys().collect();
    assert!(unknown.is_empty(), "not in the catalogue: {unknown:?}");
}

/// Each series has all its buckets, its sum and its count.
fn assert_buckets(metric: &Metric, bounds: &[f64], found: &BTreeSet<String>) {
    let mut expected = Vec::new();
    for labels in expected_labels(metric) {
        let all = bounds.iter().copied().chain([f64::INFINITY]);
        expected.extend(all.map(|bound| (labels.clone(), bound.to_string())));
        expected.push((labels, "no bucket".to_owned()));
    }
    let split = |series: &String| {
        let (buckets, labels): (Vec<&str>, Vec<&str>) = series
            .split(',')
            .partition(|label| label.starts_with("le="));
        let bound = buckets.first().map_or("no bucket".to_owned(), |le| {
            let number = le.trim_start_matches("le=\"").trim_end_matches('"');
            number.parse::<f64>().unwrap().to_string()
        });
        (labels.join(","), bound)
    };
    let found: BTreeSet<_> = found.iter().map(split).collect();
    assert_eq!(found, expected.into_iter().collect(), "{}", metric.name);
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut names = BTreeSet::new();
    for metric in CATALOGUE {
        let name = metric.name;
        assert!(names.insert(name), "{name} stands there twice");
        let ours = name.starts_with("ganesh_") || name.starts_with("process_");
        assert!(ours, "{name}");
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
        let units = ["seconds", "bytes", "ratio"];
        let ending = units.into_iter().find(|known| *known == unit);
        assert_eq!(ending.unwrap_or(""), metric.unit, "{name}");
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
    let fixed: [(&str, &[&str]); 29] = [
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
        ("ganesh_stage_seconds", &["stage"]),
        ("ganesh_batch_events", &[]),
        ("ganesh_batch_bytes", &[]),
        ("ganesh_consumer_oldest_pending_seconds", &[]),
        ("ganesh_clock_skew_seconds", &[]),
        ("ganesh_traces_total", &["decision"]),
        ("ganesh_spans_built_total", &[]),
        ("ganesh_spans_total", &["result"]),
        ("ganesh_runtime_busy_ratio", &["worker"]),
        ("ganesh_runtime_tasks", &[]),
        ("ganesh_runtime_global_queue_depth", &[]),
        ("process_cpu_seconds_total", &[]),
    ];
    for (name, labels) in fixed {
        let metric = CATALOGUE.iter().find(|metric| metric.name == name);
        assert_eq!(metric.map(|metric| metric.labels), Some(labels), "{name}");
    }
    let outcomes = names::<Outcome>();
    assert_eq!(
        outcomes,
        ["stored", "duplicate", "dead_lettered", "released"]
    );
    let stages = names::<Stage>();
    assert_eq!(
        stages,
        ["stream", "decode", "queue", "store", "cache", "settle"]
    );
    let decisions = names::<Decision>();
    assert_eq!(
        decisions,
        [
            "failed",
            "redelivered",
            "slow",
            "upstream",
            "baseline",
            "over_budget",
            "unsampled"
        ]
    );
    let results = names::<SpanResult>();
    assert_eq!(results, ["exported", "dropped", "failed"]);
    assert!(names::<Queue>().contains(&"export"));
    let dependencies = names::<Dependency>();
    assert_eq!(dependencies, ["nats", "postgres", "cache"]);
}

fn bounds(name: &str) -> &'static [f64] {
    let metric = CATALOGUE.iter().find(|metric| metric.name == name);
    let Kind::Histogram(bounds) = metric.unwrap().kind else {
        panic!("{name} is no histogram");
    };
    bounds
}

fn assert_ends(bounds: &[f64], first: f64, last: f64) {
    assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
    let ends = [bounds[0], bounds[bounds.len() - 1]];
    assert!((ends[0] - first).abs() < f64::EPSILON, "{ends:?}");
    assert!((ends[1] - last).abs() < f64::EPSILON, "{ends:?}");
}

#[test]
fn histograms_have_the_boundaries_that_the_objective_and_a_backlog_need() {
    let end_to_end = bounds("ganesh_end_to_end_seconds");
    assert_ends(end_to_end, 0.001, 3_600.0);
    assert!(end_to_end.contains(&0.25));
    let stage = bounds("ganesh_stage_seconds");
    assert_ends(stage, 0.000_1, 60.0);
    assert!(stage.contains(&0.25));
}
