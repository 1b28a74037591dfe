//! What Grafana is given to start with: it refers to data sources and files that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::monitoring::{dashboards, list, panels, text, word, yaml};

const SOURCES: &str = "grafana/provisioning/datasources/datasources.yml";
/// What docker-compose.yml and scripts/infrastructure/grafana/run put into Grafana's environment.
const ENVIRONMENT: [&str; 2] = ["JAEGER_UI_URL", "GRAFANA_POSTGRES_PASSWORD"];

fn source(uid: &str) -> Value {
    let file = yaml(SOURCES);
    let sources = list(&file["datasources"]);
    let found = sources.iter().find(|source| source["uid"] == uid);
    found.expect("the data source is there").clone()
}

#[test]
fn data_sources_have_the_uids_that_everything_else_names() {
    let file = yaml(SOURCES);
    let of = |key: &str| -> Vec<String> {
        let sources = list(&file["datasources"]).iter();
        sources
            .map(|source| word(&source[key]).to_owned())
            .collect()
    };
    let uids = ["prometheus", "jaeger", "tempo", "postgres"];
    assert_eq!(of("uid"), uids);
    let types = [
        "prometheus",
        "jaeger",
        "tempo",
        "grafana-postgresql-datasource",
    ];
    assert_eq!(of("type"), types);
    assert_eq!(
        source("jaeger")["jsonData"]["tracesToMetrics"]["datasourceUid"],
        "prometheus"
    );
    assert_eq!(source("prometheus")["isDefault"], true);
    let interval = &yaml("prometheus/prometheus.yml")["global"]["scrape_interval"];
    assert_eq!(source("prometheus")["jsonData"]["timeInterval"], *interval);
}

#[test]
fn exemplars_lead_to_jaegers_page() {
    let prometheus = source("prometheus");
    let [to] = list(&prometheus["jsonData"]["exemplarTraceIdDestinations"]) else {
        panic!("one destination: {prometheus}")
    };
    assert_eq!(to["name"], "trace_id");
    // As Grafana reads it: $NAME from its environment, $$ as one dollar.
    assert_eq!(to["url"], "${JAEGER_UI_URL}/trace/$${__value.raw}");
}

/// Compose and the script write the same variable into the dashboards.
#[test]
fn tables_lead_to_the_page_that_exemplars_lead_to() {
    let compose = yaml("docker-compose.yml");
    let services = &compose["services"];
    let write = "s|http://localhost:16686|$$JAEGER_UI_URL|g";
    let command = word(&services["dashboards"]["command"][0]);
    assert!(command.contains(write), "{command}");
    let script = text("scripts/infrastructure/grafana/run");
    assert!(script.contains(&write.replace("$$", "$")), "{script}");
    let page = &services["grafana"]["environment"]["JAEGER_UI_URL"];
    for service in [&services["dashboards"], &compose["x-ganesh"]] {
        assert_eq!(service["environment"]["JAEGER_UI_URL"], *page);
    }
    let mounts = |service: &str, volume: &str| {
        let mounts = list(&services[service]["volumes"]);
        mounts.iter().any(|mount| word(mount) == volume)
    };
    assert!(mounts("dashboards", "dashboards:/dashboards"));
    assert!(mounts("grafana", "dashboards:/etc/grafana/dashboards:ro"));
    for (name, dashboard) in dashboards() {
        let other = dashboard.to_string().replace("http://localhost:16686", "");
        assert!(!other.contains(":16686"), "{name}");
    }
}

#[test]
fn postgres_is_asked_as_a_role_that_may_only_read() {
    let postgres = source("postgres");
    assert_eq!(postgres["user"], "grafana");
    assert_eq!(postgres["jsonData"]["database"], "ganesh");
    let password = &postgres["secureJsonData"]["password"];
    assert_eq!(password, "${GRAFANA_POSTGRES_PASSWORD}");
}

#[test]
fn every_dollar_of_the_provisioning_is_a_known_variable_or_doubled() {
    for path in [SOURCES, "grafana/provisioning/dashboards/dashboards.yml"] {
        let file = text(path);
        let values = file
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        for line in values {
            for after in line.replace("$$", "").split('$').skip(1) {
                let name = after.trim_start_matches('{');
                let known = ENVIRONMENT
                    .iter()
                    .any(|variable| name.starts_with(variable));
                assert!(known, "{path}: {line}");
            }
        }
    }
}

#[test]
fn dashboards_are_read_from_the_folder_that_is_mounted_and_not_edited() {
    let file = yaml("grafana/provisioning/dashboards/dashboards.yml");
    let [provider] = list(&file["providers"]) else {
        panic!("one provider: {file}")
    };
    assert_eq!(provider["options"]["path"], "/etc/grafana/dashboards");
    assert_eq!(provider["allowUiUpdates"], false);
}

#[test]
fn every_data_source_of_a_dashboard_is_provisioned() {
    let file = yaml(SOURCES);
    let known: BTreeSet<_> = list(&file["datasources"])
        .iter()
        .map(|s| word(&s["uid"]))
        .collect();
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let uid = word(&panel["datasource"]["uid"]);
            let place = format!("{name}: {}", panel["title"]);
            assert!(
                uid == "${datasource}" || known.contains(uid),
                "{place} asks {uid}"
            );
        }
        let variables = list(&dashboard["templating"]["list"]);
        let chosen = variables
            .iter()
            .find(|variable| variable["name"] == "datasource");
        let uid = word(&chosen.expect("it has one")["current"]["value"]);
        assert!(known.contains(uid), "{name} starts with {uid}");
    }
}
