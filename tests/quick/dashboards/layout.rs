//! Dashboards as files: provisioned as they are, wherever they are loaded.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::monitoring::{dashboards, list, panels, word};

#[test]
fn there_are_three_with_fixed_uids_that_nobody_edits_by_hand() {
    let mut uids = Vec::new();
    for (file, dashboard) in dashboards() {
        assert!(dashboard["id"].is_null(), "{file}: id is the server's own");
        assert_eq!(dashboard["editable"], false, "{file}");
        let classic = 39..=41;
        let version = dashboard["schemaVersion"].as_i64().unwrap();
        assert!(classic.contains(&version), "{file}: schema {version}");
        for key in ["__inputs", "__requires", "__elements"] {
            assert!(dashboard.get(key).is_none(), "{file}: {key} asks a person");
        }
        uids.push(word(&dashboard["uid"]).to_owned());
    }
    assert_eq!(uids, ["ganesh-dependencies", "ganesh", "ganesh-telemetry"]);
}

#[test]
fn no_panel_lies_on_another() {
    for (file, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            let place = format!("{file}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place}: its id");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|k| panel["gridPos"][k].as_u64().unwrap());
            assert!(x + w <= 24, "{place}: wider than the page");
            let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
            for cell in cells {
                assert!(taken.insert(cell), "{place} lies on another panel");
            }
        }
    }
}

fn panel<'a>(dashboard: &'a Value, title: &str) -> &'a Value {
    let mut all = panels(dashboard);
    all.find(|panel| panel["title"] == title).expect(title)
}

#[test]
fn the_heatmap_draws_raw_buckets_with_their_exemplars() {
    let (_, dashboard) = dashboards().swap_remove(1);
    let heatmap = panel(&dashboard, "End to end");
    assert_eq!(heatmap["type"], "heatmap");
    assert_eq!(heatmap["options"]["calculate"], false);
    let [target] = list(&heatmap["targets"]) else {
        panic!("one target: {heatmap}")
    };
    assert_eq!(target["format"], "heatmap");
    assert_eq!(target["exemplar"], true);
    assert!(word(&target["expr"]).contains("ganesh_end_to_end_seconds_bucket{"));
}

#[test]
fn firing_alerts_say_how_bad_which_and_about_what_and_fit_into_their_table() {
    let (_, dashboard) = dashboards().swap_remove(1);
    let table = panel(&dashboard, "Firing alerts");
    let transformations = list(&table["transformations"]);
    let kept = word(&transformations[0]["options"]["include"]["pattern"]);
    assert_eq!(kept, "^(severity|runbook|about)$");
    let renamed = &transformations[1]["options"]["renameByName"];
    assert_eq!(renamed["runbook"], "alert", "the anchor is the name");
    let expr = word(&table["targets"][0]["expr"]);
    // Every label by which alerts of one section differ, but the severity.
    for label in ["job", "instance", "dependency", "result", "window"] {
        assert!(expr.contains(&format!("\"{label}\", \"(.+)\"")), "{label}");
    }
}

/// In pixels, with a browser of a usual laptop, less what Grafana has above the page.
const FOLD: u64 = 1_000 - 50;

#[test]
fn the_first_screen_answers_whether_all_is_well_and_nothing_else() {
    let (_, dashboard) = dashboards().swap_remove(1);
    let pixels = |rows: &Value| rows.as_u64().unwrap() * 38;
    let above = list(&dashboard["panels"]).iter();
    let above: Vec<&str> = above
        .filter(|panel| pixels(&panel["gridPos"]["y"]) < FOLD)
        .map(|panel| word(&panel["title"]))
        .collect();
    let expected = [
        "In time",
        "Oldest message",
        "Up or down",
        "Firing alerts",
        "In and settled",
        "Lag in seconds",
        "End-to-end latency",
        "Mean time by stage",
    ];
    assert_eq!(above, expected);
    for title in expected {
        let place = &panel(&dashboard, title)["gridPos"];
        let bottom = pixels(&place["y"]) + pixels(&place["h"]);
        assert!(bottom <= FOLD, "{title} is cut at {bottom}");
    }
}

#[test]
fn slow_and_failed_messages_come_from_jaeger_by_the_reason_to_keep_them() {
    let (_, dashboard) = dashboards().swap_remove(1);
    for (title, reason) in [("Slow messages", "slow"), ("Failed messages", "failed")] {
        let table = panel(&dashboard, title);
        assert_eq!(table["type"], "table", "{title}");
        assert_eq!(table["datasource"]["uid"], "jaeger", "{title}");
        let target = &table["targets"][0];
        assert_eq!(target["queryType"], "search", "{title}");
        assert_eq!(target["service"], "ganesh", "{title}");
        assert_eq!(
            target["tags"],
            format!("ganesh.keep_reason={reason}"),
            "{title}"
        );
    }
}

#[test]
fn links_lead_viewers_to_pages_that_they_may_open() {
    let (_, dashboard) = dashboards().swap_remove(1);
    let mut links = Vec::new();
    for panel in panels(&dashboard) {
        for own in list(&panel["fieldConfig"]["overrides"]) {
            for property in list(&own["properties"])
                .iter()
                .filter(|p| p["id"] == "links")
            {
                links.extend(
                    list(&property["value"])
                        .iter()
                        .map(|link| word(&link["url"]).to_owned()),
                );
            }
        }
    }
    let trace = "${jaeger_url}/trace/${__value.raw}";
    let runbook = "${admin_url}/runbook#${__value.raw}";
    assert_eq!(links, [runbook, trace, trace]);
    let variables = list(&dashboard["templating"]["list"]);
    for (name, address) in [
        ("jaeger_url", "http://localhost:16686"),
        ("admin_url", "http://localhost:9464"),
    ] {
        let variable = variables.iter().find(|v| v["name"] == name).unwrap();
        assert_eq!(variable["query"], address, "{name}");
    }
}
