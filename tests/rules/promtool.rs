//! Prometheus' own tool finds nothing wrong: with the configuration, with the rules, with
//! what they do over time, with the expressions of the dashboards.

use std::process::Command;

use serde_json::json;

use crate::support::monitoring::{at, names, queries};

/// Runs promtool in the folder of the configuration; panics with what it says when it fails.
fn promtool(arguments: &[&str]) {
    let tool = Command::new(at("scripts/fetch"))
        .args(["--print", "promtool"])
        .output()
        .unwrap();
    assert!(
        tool.status.success(),
        "{}",
        String::from_utf8_lossy(&tool.stderr)
    );
    let tool = String::from_utf8(tool.stdout).unwrap();
    let ran = Command::new(tool.trim())
        .args(arguments)
        .current_dir(at("prometheus"))
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "promtool {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// Paths of the YAML files in a folder below `prometheus/`.
fn files(folder: &str) -> Vec<String> {
    let names = names(&format!("prometheus/{folder}"), ".yml");
    assert!(!names.is_empty(), "{folder} is empty");
    names
        .into_iter()
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

fn with<'a>(command: &[&'a str], files: &'a [String]) -> Vec<&'a str> {
    command
        .iter()
        .copied()
        .chain(files.iter().map(String::as_str))
        .collect()
}

#[test]
fn both_configurations_load_with_their_rules() {
    for configuration in ["prometheus.yml", "local.yml"] {
        promtool(&["check", "config", configuration]);
    }
}

#[test]
fn the_rules_are_valid() {
    promtool(&with(&["check", "rules", "--lint-fatal"], &files("rules")));
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_it_should_be() {
    promtool(&with(&["test", "rules"], &files("tests")));
}

#[test]
fn every_expression_of_the_dashboards_is_valid() {
    let queries = queries().into_iter().enumerate();
    let rules: Vec<_> = queries
        .map(|(number, query)| {
            let expr = query.expr.replace("$__rate_interval", "1m");
            let expr = expr.replace("$__interval", "30s");
            json!({ "record": format!("panel:number_{number}"), "expr": expr })
        })
        .collect();
    assert!(rules.len() > 50, "{} expressions", rules.len());
    let file = tempfile::NamedTempFile::new().unwrap();
    // JSON is YAML.
    let groups = json!({ "groups": [{ "name": "panels", "rules": rules }] });
    std::fs::write(file.path(), groups.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}
