//! One configuration for docker-compose.yml and one for `make up`: only targets differ.

use serde_json::Value;

use crate::support::monitoring::{list, rules_that, text, word, yaml};

/// The ways in which a job finds its targets.
const DISCOVERIES: [&str; 3] = ["dns_sd_configs", "file_sd_configs", "static_configs"];

fn without_targets(mut configuration: Value) -> Value {
    for job in configuration["scrape_configs"].as_array_mut().unwrap() {
        let job = job.as_object_mut().unwrap();
        let before = job.len();
        job.retain(|key, _| !DISCOVERIES.contains(&key.as_str()));
        assert_eq!(before - job.len(), 1, "one way to find targets: {job:?}");
    }
    configuration
}

fn jobs(configuration: &Value) -> Vec<String> {
    let jobs = list(&configuration["scrape_configs"]).iter();
    jobs.map(|job| word(&job["job_name"]).to_owned()).collect()
}

#[test]
fn compose_and_local_differ_only_in_targets() {
    let compose = without_targets(yaml("prometheus/prometheus.yml"));
    let local = without_targets(yaml("prometheus/local.yml"));
    assert_eq!(compose, local);
    let expected = [
        "ganesh",
        "nats",
        "postgres",
        "dragonfly",
        "jaeger",
        "prometheus",
    ];
    assert_eq!(jobs(&local), expected);
}

#[test]
fn every_job_is_told_its_targets_by_the_script_that_starts_it() {
    let script = text("scripts/infrastructure/prometheus/run");
    let local = yaml("prometheus/local.yml");
    for job in list(&local["scrape_configs"]) {
        let name = word(&job["job_name"]);
        assert_eq!(
            job["file_sd_configs"][0]["files"][0],
            format!("targets/{name}.json")
        );
        assert!(script.contains(&format!("\ntarget_file {name} ")), "{name}");
    }
}

#[test]
fn every_job_is_missed_when_it_is_not_there() {
    let missed: String = rules_that("alert")
        .iter()
        .filter(|rule| rule["alert"] == "GaneshTargetMissing")
        .map(|rule| word(&rule["expr"]).to_owned())
        .collect();
    let jobs = jobs(&yaml("prometheus/prometheus.yml"));
    for job in &jobs {
        let missing = format!("absent(up{{job=\"{job}\"}})");
        assert!(missed.contains(&missing), "{job}");
    }
    assert_eq!(missed.matches("absent(").count(), jobs.len());
}

#[test]
fn exemplars_are_kept_and_samples_for_longer_than_the_objective_looks_back() {
    let script = text("scripts/infrastructure/prometheus/run");
    let said = text("prometheus/prometheus.yml");
    for flag in [
        "--enable-feature=exemplar-storage",
        "--storage.tsdb.retention.time=35d",
        "--storage.tsdb.retention.size=4GB",
    ] {
        assert!(script.contains(flag) && said.contains(flag), "{flag}");
    }
}
