//! What makes a dashboard portable and its numbers right: the rules that
//! grafana/dashboard-linter checks, checked by us.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::monitoring::{dashboards, list, panels, queries, rules_that, word};
use crate::support::promql::{self, Selector};

/// Units of Grafana that mean something here.
const UNITS: [&str; 12] = [
    "bytes",
    "dateTimeAsIso",
    "mps",
    "none",
    "ops",
    "percentunit",
    "reqps",
    "rowsps",
    "s",
    "short",
    "µs",
    "locale",
];

fn variable<'a>(dashboard: &'a Value, name: &str) -> Option<&'a Value> {
    let mut all = list(&dashboard["templating"]["list"]).iter();
    all.find(|variable| variable["name"] == name)
}

#[test]
fn the_data_source_the_job_and_the_instance_are_variables() {
    for (file, dashboard) in dashboards() {
        let source = variable(&dashboard, "datasource").expect(&file);
        assert_eq!(source["type"], "datasource", "{file}");
        assert_eq!(source["query"], "prometheus", "{file}");
        assert_eq!(source["label"], "Data source", "{file}");
        for (name, label) in [("job", "Job"), ("instance", "Instance")] {
            let found = variable(&dashboard, name).expect(&file);
            assert_eq!(found["type"], "query", "{file}: {name}");
            assert_eq!(found["label"], label, "{file}: {name}");
            assert_eq!(
                found["datasource"]["uid"], "${datasource}",
                "{file}: {name}"
            );
            assert_eq!(found["multi"], true, "{file}: {name}");
            assert_eq!(found["includeAll"], true, "{file}: {name}");
            assert_eq!(found["allValue"], ".+", "{file}: {name}");
            // Looked up again when the time range changes.
            assert_eq!(found["refresh"], 2, "{file}: {name}");
        }
    }
}

#[test]
fn every_panel_asks_the_data_source_that_is_chosen() {
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let place = format!("{file}: {}", panel["title"]);
            let source = &panel["datasource"];
            for target in list(&panel["targets"]) {
                assert_eq!(target["datasource"], *source, "{place}");
            }
            let variable = source["uid"] == "${datasource}";
            assert_eq!(source["type"] == "prometheus", variable, "{place}");
        }
    }
}

#[test]
fn every_panel_has_a_title_a_description_a_unit_and_something_to_ask() {
    for (file, dashboard) in dashboards() {
        let mut titles = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = word(&panel["title"]);
            let place = format!("{file}: {title}");
            assert!(!title.is_empty() && titles.insert(title), "{place}");
            // Long enough to say what to do when it looks bad.
            let description = word(&panel["description"]);
            let sentences = description.matches(". ").count() + 1;
            assert!(description.ends_with('.') && sentences >= 2, "{place}");
            let unit = word(&panel["fieldConfig"]["defaults"]["unit"]);
            assert!(UNITS.contains(&unit), "{place}: unit {unit:?}");
            for own in list(&panel["fieldConfig"]["overrides"]) {
                let mut properties = list(&own["properties"]).iter();
                if let Some(unit) = properties.find(|property| property["id"] == "unit") {
                    assert!(UNITS.contains(&word(&unit["value"])), "{place}: {unit}");
                }
            }
            let targets = list(&panel["targets"]);
            let refs: BTreeSet<_> = targets.iter().map(|t| word(&t["refId"])).collect();
            assert!(
                !targets.is_empty() && refs.len() == targets.len(),
                "{place}"
            );
        }
    }
}

#[test]
fn a_drawn_threshold_is_one_and_every_gauge_of_state_has_one() {
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let place = format!("{file}: {}", panel["title"]);
            let defaults = &panel["fieldConfig"]["defaults"];
            let steps = list(&defaults["thresholds"]["steps"]).len();
            let drawn = defaults["custom"]["thresholdsStyle"]["mode"] == "dashed";
            let coloured = panel["type"] == "stat" || panel["type"] == "state-timeline";
            if drawn || coloured {
                assert!(steps >= 2, "{place}: {steps} threshold steps");
            }
        }
    }
}

/// A line needs two points beside each other: Grafana draws none through a value that is there at one
/// scrape and gone at the next.
#[test]
fn a_state_that_comes_and_goes_is_drawn_in_bars() {
    let mut checked = 0;
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard).filter(|panel| panel["type"] == "timeseries") {
            let mut exprs = list(&panel["targets"]).iter().map(|t| word(&t["expr"]));
            if exprs.any(|expr| expr.ends_with("> 0") && !expr.contains('[')) {
                let style = &panel["fieldConfig"]["defaults"]["custom"]["drawStyle"];
                assert_eq!(style, "bars", "{file}: {}", panel["title"]);
                checked += 1;
            }
        }
    }
    assert!(checked >= 2, "{checked}");
}

/// Series without `instance`: recorded ones, and alerts.
fn lacks_instance(selector: &Selector) -> bool {
    selector.metric.contains(':') || is_alerts(selector)
}

/// Alerts of every job are shown, whichever is chosen: an absent job cannot be.
fn is_alerts(selector: &Selector) -> bool {
    selector.metric == "ALERTS"
}

#[test]
fn every_selector_follows_the_job_and_the_instance_that_are_chosen() {
    for query in queries() {
        for selector in &promql::read(&query.expr).selectors {
            let job = is_alerts(selector) || selector.matches("job", "=~", "$job");
            let instance =
                lacks_instance(selector) || selector.matches("instance", "=~", "$instance");
            assert!(job && instance, "{}: {}", query.place, query.expr);
        }
    }
}

#[test]
fn every_rate_goes_over_the_interval_that_grafana_computes() {
    for query in queries() {
        for selector in &promql::read(&query.expr).selectors {
            if let Some(range) = &selector.range {
                assert_eq!(range, "$__rate_interval", "{}: {}", query.place, query.expr);
            }
        }
    }
}

/// What was counted from one point of a panel to the next: each event in one point. `increase` over
/// `$__rate_interval` has it in as many points as that is longer than a step.
fn counts_from_point_to_point(expr: &str, metric: &str) -> bool {
    let before = expr.split(" offset $__interval").count() - 1;
    before > 0 && expr.matches(metric).count() >= 2 * before
}

#[test]
fn counters_are_only_shown_as_rates_or_from_point_to_point() {
    for query in queries() {
        for selector in &promql::read(&query.expr).selectors {
            let counter = ["_total", "_bucket", "_count", "_sum"]
                .iter()
                .any(|ending| selector.metric.ends_with(ending));
            // A gauge of postgres-exporter: connections by state.
            let counter = counter && selector.metric != "pg_stat_activity_count";
            let rate = selector.inside.last();
            let rate = rate.is_some_and(|name| name == "rate" || name == "increase")
                || counts_from_point_to_point(&query.expr, &selector.metric);
            assert!(!counter || rate, "{}: {}", query.place, query.expr);
        }
    }
}

#[test]
fn what_a_legend_adds_up_is_counted_once() {
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let calcs = list(&panel["options"]["legend"]["calcs"]);
            if calcs.iter().any(|calc| calc == "sum") {
                for target in list(&panel["targets"]) {
                    let expr = word(&target["expr"]);
                    let once = expr.contains(" offset $__interval") && !expr.contains("increase(");
                    assert!(once, "{file}: {}: {expr}", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn legends_begin_with_what_is_largest() {
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let legend = &panel["options"]["legend"];
            let has = |name: &str| list(&legend["calcs"]).iter().any(|calc| calc == name);
            let by = if has("max") { "Max" } else { "Total" };
            let sorted = legend["sortBy"] == by && legend["sortDesc"] == true;
            let place = format!("{file}: {}", panel["title"]);
            assert!(sorted || panel["type"] != "timeseries", "{place}");
        }
    }
}

#[test]
fn recorded_series_are_recorded() {
    let records: Vec<_> = rules_that("record");
    for query in queries() {
        let read = promql::read(&query.expr);
        let recorded = read.selectors.iter().filter(|s| s.metric.contains(':'));
        for selector in recorded {
            let known = records
                .iter()
                .any(|rule| rule["record"] == selector.metric.as_str());
            assert!(
                known,
                "{}: {} is not recorded",
                query.place, selector.metric
            );
        }
    }
}

#[test]
fn what_replicas_report_alike_is_not_added_up() {
    for query in queries() {
        for selector in &promql::read(&query.expr).selectors {
            let alike = ["ganesh_consumer_", "ganesh_stream_"];
            if alike.iter().any(|start| selector.metric.starts_with(start)) {
                let outer = selector.inside.first().map(String::as_str);
                assert_eq!(outer, Some("max"), "{}: {}", query.place, query.expr);
            }
        }
    }
}
