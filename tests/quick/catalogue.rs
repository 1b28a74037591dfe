//! P9: names and labels are those that the documents fix.

mod table;

use std::collections::BTreeSet;

use ganesh::error::Dependency;
use ganesh::labels::{Decision, Outcome, Queue, SpanResult, Stage};
use ganesh::telemetry::metrics::{Kind, TABLE};
use strum::VariantArray;

fn names<L: VariantArray + Copy + Into<&'static str>>() -> Vec<&'static str> {
    L::VARIANTS.iter().map(|value| (*value).into()).collect()
}

/// One family as `/metrics` shows it.

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut names = BTreeSet::new();
    for metric in TABLE {
        let name = metric.name;
        assert!(names.insert(name), "{name} stands there twice");
        let ours = name.starts_with("ganesh_") || name.starts_with("process_");
        assert!(ours, "{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(plain), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            metric.kind.as_str() == "counter",
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
        assert_eq!(ending.unwrap_or(""), metric.unit(), "{name}");
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
fn series_are_distinct_and_nothing_in_the_table_needs_an_escape() {
    const ESCAPED: [char; 3] = ['"', '\\', '\n'];
    for metric in TABLE {
        assert!(!metric.help.contains(ESCAPED), "{}", metric.name);
        let series = (metric.series)();
        for values in &series {
            assert_eq!(values.len(), metric.labels.len(), "{}", metric.name);
            let plain = values.iter().all(|value| !value.contains(ESCAPED));
            assert!(plain, "{}: {values:?}", metric.name);
        }
        let distinct: BTreeSet<_> = series.iter().collect();
        assert_eq!(distinct.len(), series.len(), "{}", metric.name);
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
        ("ganesh_http_request_seconds", &["route", "status"]),
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
        let metric = TABLE.iter().find(|metric| metric.name == name);
        assert_eq!(metric.map(|metric| metric.labels), Some(labels), "{name}");
    }
    let outcomes = names::<Outcome>();
    assert_eq!(
        outcomes,
        [
            "stored",
            "duplicate",
            "skipped",
            "dead_lettered",
            "marker",
            "released"
        ]
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
    let metric = TABLE.iter().find(|metric| metric.name == name);
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
