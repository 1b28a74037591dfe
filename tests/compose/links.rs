//! Links between the pages, whatever ports they are published on: what an entrypoint does to the
//! files of the repository before it starts its server.

use std::path::Path;
use std::process::Command;

use super::{flag, service, strings, yaml};

/// Runs a service's entrypoint on a copy of its own, with this address in its environment. Gives what
/// it would have started the server with, and the text of the files that the server would read.
fn started(name: &str, server: &str, variable: &str, address: &str) -> (String, Vec<String>) {
    let service = service(name);
    let entrypoint = strings(&service["entrypoint"]);
    let [shell, options, script, own_name] = entrypoint[..] else {
        panic!("{name}: {entrypoint:?}")
    };
    assert_eq!((shell, options), ("/bin/sh", "-ec"), "{name}");
    let exec = format!("exec {server} ");
    assert!(
        script.contains(&exec),
        "{name}: signals reach the server: {script}"
    );

    let folder = tempfile::tempdir().unwrap();
    let mut script = script.replace("$$", "$").replace(&exec, "echo ");
    script = script.replace("/tmp", folder.path().to_str().unwrap());
    for mount in strings(&service["volumes"]) {
        let parts: Vec<_> = mount.split(':').collect();
        if parts[1].starts_with("/etc/ganesh/") {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(parts[0]);
            script = script.replace(parts[1], source.to_str().unwrap());
        }
    }
    let ran = Command::new("sh")
        .args([options, &script, own_name, "--a=b", "c d"])
        .env(variable, address)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{name}: {script}\n{ran:?}");

    let mut texts = Vec::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.is_file() {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let with = String::from_utf8(ran.stdout).unwrap();
    (with.trim_end().to_owned(), texts)
}

fn count(texts: &[String], part: &str) -> usize {
    texts.iter().map(|text| text.matches(part).count()).sum()
}

#[test]
fn alerts_lead_to_the_runbook_on_grafanas_port() {
    let ours = "http://localhost:3000/public/docs/RUNBOOK.html#";
    let theirs = "http://localhost:3300/public/docs/RUNBOOK.html#";
    let start = |address| started("prometheus", "/bin/prometheus", "GRAFANA_URL", address);
    let (with, before) = start("http://localhost:3000");
    assert_eq!(with, "--a=b c d");
    let (_, after) = start("http://localhost:3300");
    assert!(count(&before, ours) > 10);
    assert_eq!(count(&after, theirs), count(&before, ours));
    assert_eq!(count(&after, "localhost:3000"), 0);

    let said = &service("prometheus")["environment"]["GRAFANA_URL"];
    assert_eq!(said, "http://localhost:${GRAFANA_PORT:-3000}");
}

#[test]
fn tables_lead_to_traces_on_jaegers_port() {
    let start = |address| started("grafana", "/run.sh", "JAEGER_URL", address);
    let (_, before) = start("http://localhost:16686");
    let (_, after) = start("http://localhost:16700");
    assert_eq!(before.len(), 3, "dashboards");
    assert!(count(&before, "http://localhost:16686") > 0);
    let moved = count(&after, "http://localhost:16700");
    assert_eq!(moved, count(&before, "http://localhost:16686"));
    assert_eq!(count(&after, "localhost:16686"), 0);

    let said = &service("grafana")["environment"]["JAEGER_URL"];
    assert_eq!(said, "http://localhost:${JAEGER_PORT:-16686}");
}

#[test]
fn servers_read_the_copies() {
    let prometheus = service("prometheus");
    let config = flag(&prometheus, "--config.file");
    assert_eq!(config, Some("/tmp/prometheus/prometheus.yml"));
    let grafana = service("grafana");
    let home = &grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(home, "/tmp/dashboards/ganesh.json");
    let provisioning = yaml("grafana/provisioning/dashboards/dashboards.yml");
    assert_eq!(
        provisioning["providers"][0]["options"]["path"],
        "/tmp/dashboards"
    );
    for service in [prometheus, grafana] {
        // Empty at every start, and writable for a server that is not root.
        assert_eq!(strings(&service["tmpfs"]), ["/tmp:mode=1777"]);
    }
}
