//! What a user sees of the chart, and what ganesh reads of it.

use ganesh::config::SETTINGS;

use super::{Chart, the};
use crate::support::ganesh::run;
use crate::support::monitoring::{at, text, word, yaml};

#[test]
fn helm_lints_the_chart() {
    let Some(chart) = Chart::find() else { return };
    let folder = chart.folder.to_str().unwrap().to_owned();
    let linted = chart.helm(&["lint", "--strict", &folder]);
    assert!(
        linted.status.success(),
        "{}",
        String::from_utf8_lossy(&linted.stdout)
    );
}

#[test]
fn the_notes_say_what_to_do_next() {
    let Some(chart) = Chart::find() else { return };
    let folder = chart.folder.to_str().unwrap().to_owned();
    let installed = chart.helm(&[
        "install",
        "events",
        &folder,
        "--namespace",
        "shop",
        "--dry-run=client",
    ]);
    let said = String::from_utf8_lossy(&installed.stdout);
    assert!(
        installed.status.success(),
        "{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    let (_, notes) = said.split_once("NOTES:").expect("Helm prints notes");
    for line in [
        "kubectl -n shop rollout status deployment/events-ganesh",
        "kubectl -n shop exec deployment/events-ganesh -- ganesh doctor",
        "kubectl -n shop get secret ganesh-postgres",
        "kubectl -n shop port-forward service/events-ganesh 8080:80",
        "Who reaches the API reads all events",
        "monitoring.podMonitor.enabled",
        "config.OTEL_TRACES_EXPORTER=otlp",
    ] {
        assert!(notes.contains(line), "no {line} in {notes}");
    }
}

#[test]
fn the_version_of_the_chart_is_that_of_ganesh() {
    let chart = yaml("deploy/helm/ganesh/Chart.yaml");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_setting_that_values_name_is_one_of_ganesh() {
    let mut files = vec!["deploy/helm/ganesh/values.yaml".to_owned()];
    for folder in std::fs::read_dir(at("deploy/helm/examples")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        files.push(format!("deploy/helm/examples/{name}/values.yaml"));
    }
    for file in files {
        let values = yaml(&file);
        let maps = [&values["config"], &values["secrets"]].into_iter();
        for name in maps
            .filter_map(|map| map.as_object())
            .flat_map(|map| map.keys())
        {
            assert!(
                SETTINGS.iter().any(|known| known.env == name),
                "{file}: {name}"
            );
        }
    }
}

/// `healthcheck` reads the whole configuration, then finds nobody at the admin address: exit code 1. A mistake is 2.
#[test]
fn ganesh_reads_what_its_pods_are_given() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.with(&["config.GANESH_WRITERS=4"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "postgresql://ganesh:secret@127.0.0.1:1/ganesh\n").unwrap();
    let data = the(&documents, "ConfigMap")["data"].as_object().unwrap();
    let mut environment: Vec<_> = data
        .iter()
        .map(|(name, value)| (name.as_str(), word(value)))
        .collect();
    environment.push(("POSTGRES_URL_FILE", file.to_str().unwrap()));
    for (name, value) in &mut environment {
        if *name == "GANESH_ADMIN_ADDR" {
            *value = "127.0.0.1:1";
        }
    }
    let ended = run(None, &["healthcheck"], &environment);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let job = &the(&documents, "Job")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(job["args"][0], "migrate");
    assert!(text("deploy/Dockerfile").contains("ENTRYPOINT [\"/usr/local/bin/ganesh\"]"));
}
