//! Rules and dashboards in the chart are those of the repository: there is one source.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Chart, the};
use crate::support::monitoring::{at, dashboards, list, rules, word, yaml};

/// Of rules that watch what docker-compose.yml runs beside ganesh.
fn is_about_other_jobs(rule: &Value) -> bool {
    let expr = word(&rule["expr"]);
    expr.contains("up{job!=\"ganesh\"}") || expr.contains("up{job=\"prometheus\"}")
}

#[test]
fn the_chart_has_the_folders_of_the_repository_and_a_package_their_files() {
    for (link, folder) in [
        ("rules", "prometheus/rules"),
        ("dashboards", "grafana/dashboards"),
    ] {
        let link = at(&format!("deploy/helm/ganesh/files/{link}"));
        assert!(
            link.is_symlink(),
            "{}: a copy would be a second source",
            link.display()
        );
        assert_eq!(
            link.canonicalize().unwrap(),
            at(folder).canonicalize().unwrap()
        );
    }
    let Some(mut chart) = Chart::find() else {
        return;
    };
    let values = [
        "monitoring.rules.enabled=true",
        "monitoring.dashboards.enabled=true",
    ];
    let from_folder = chart.with(&values);
    let destination = tempfile::tempdir().unwrap();
    let (folder, into) = (
        chart.folder.to_str().unwrap(),
        destination.path().to_str().unwrap(),
    );
    let packaged = chart.helm(&["package", folder, "--destination", into]);
    assert!(
        packaged.status.success(),
        "{}",
        String::from_utf8_lossy(&packaged.stderr)
    );
    let archive = std::fs::read_dir(destination.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    chart.folder = archive.path();
    assert!(chart.folder.is_file());
    assert_eq!(chart.with(&values), from_folder);
}

#[test]
fn the_rules_of_the_chart_are_those_of_the_repository() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.with(&["monitoring.rules.enabled=true"]);
    let groups = list(&the(&documents, "PrometheusRule")["spec"]["groups"]);
    let rendered: Vec<_> = groups
        .iter()
        .flat_map(|group| list(&group["rules"]))
        .cloned()
        .collect();
    let own = rules();
    let left_out = own.iter().filter(|rule| is_about_other_jobs(rule)).count();
    assert_eq!(
        left_out, 2,
        "one rule for targets that are down, one for those that are missing"
    );
    let expected: Vec<_> = own
        .into_iter()
        .filter(|rule| !is_about_other_jobs(rule))
        .collect();
    assert_eq!(rendered, expected);
    let of_files =
        ["alerts.yml", "recording.yml"].map(|name| yaml(&format!("prometheus/rules/{name}")));
    let named = |groups: &[Value]| -> Vec<_> {
        groups
            .iter()
            .map(|group| (group["name"].clone(), group["interval"].clone()))
            .collect()
    };
    let expected: Vec<_> = of_files
        .iter()
        .flat_map(|file| named(list(&file["groups"])))
        .collect();
    assert_eq!(named(groups), expected);
}

#[test]
fn another_job_and_other_addresses_reach_rules_dashboards_and_targets() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.with(&[
        "monitoring.job=orders",
        "monitoring.podMonitor.enabled=true",
        "monitoring.rules.enabled=true",
        "monitoring.rules.runbookUrl=https://runbook.example.com/x",
        "monitoring.dashboards.enabled=true",
        "monitoring.dashboards.jaegerUrl=https://jaeger.example.com",
    ]);
    let rendered = serde_json::to_string(&documents).unwrap();
    for gone in ["job=\\\"ganesh\\\"", "localhost:9464", "localhost:16686"] {
        assert!(!rendered.contains(gone), "{gone}");
    }
    for there in [
        "up{job=\\\"orders\\\"}",
        "https://runbook.example.com/x#target-down",
        "https://jaeger.example.com",
    ] {
        assert!(rendered.contains(there), "{there}");
    }
    let endpoint = &the(&documents, "PodMonitor")["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], "admin");
    assert_eq!(endpoint["relabelings"][0]["replacement"], "orders");
}

#[test]
fn the_dashboards_of_the_chart_are_those_of_the_repository() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.with(&["monitoring.dashboards.enabled=true"]);
    let is_dashboard = |one: &&Value| one["metadata"]["labels"]["grafana_dashboard"] == "1";
    let rendered = documents
        .iter()
        .filter(is_dashboard)
        .flat_map(|one| one["data"].as_object().unwrap());
    let rendered: Vec<(String, Value)> = rendered
        .map(|(name, json)| (name.clone(), serde_json::from_str(word(json)).unwrap()))
        .collect();
    let own = dashboards()
        .into_iter()
        .map(|(name, json)| (format!("ganesh-{name}"), json));
    assert_eq!(rendered, own.collect::<Vec<_>>());
    let names: BTreeSet<_> = rendered.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 3);
}
