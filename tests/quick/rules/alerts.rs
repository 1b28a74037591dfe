//! Every alert says how bad it is, in plain words, and leads to what to do; and it has been
//! seen to fire and not to.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::monitoring::{list, names, rules_that, text, word, yaml};

/// The page on the admin address that docker-compose.yml publishes.
const PAGE: &str = "http://localhost:9464/runbook#";

/// The runbook's sections about alerts, by anchor: their headings are anchors already.
fn sections() -> BTreeMap<String, String> {
    let runbook = text("docs/RUNBOOK.md");
    let sections = runbook.split("\n## ").skip(1);
    let sections = sections.map(|section| section.split_once('\n').expect("a heading and text"));
    sections
        .map(|(heading, body)| (heading.to_owned(), body.to_owned()))
        .collect()
}

#[test]
fn every_alert_has_a_severity_plain_words_and_a_section_of_the_runbook() {
    let sections = sections();
    let alerts = rules_that("alert");
    let mut led_to = BTreeSet::new();
    for alert in &alerts {
        let name = word(&alert["alert"]);
        let severity = word(&alert["labels"]["severity"]);
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        let summary = word(&alert["annotations"]["summary"]);
        assert!(
            summary.ends_with('.') && summary.contains(": "),
            "{name}: {summary}"
        );
        let anchor = word(&alert["labels"]["runbook"]);
        let annotations = &alert["annotations"];
        let page = format!("{PAGE}{anchor}");
        assert_eq!(word(&annotations["runbook_url"]), page, "{name}");
        let file = format!("docs/RUNBOOK.md#{anchor}");
        assert_eq!(word(&annotations["runbook_file"]), file, "{name}");
        assert!(
            sections.contains_key(anchor),
            "{name}: the runbook has no section {anchor}"
        );
        led_to.insert(anchor);
    }
    let sections: BTreeSet<_> = sections.keys().map(String::as_str).collect();
    assert_eq!(sections, led_to, "sections that no alert leads to");
    let runbook = text("docs/RUNBOOK.md");
    let index = runbook.lines().filter(|line| line.starts_with('['));
    let links = index.flat_map(|line| line.split("](#").skip(1));
    let listed: BTreeSet<_> = links.map(|link| link.split_once(')').unwrap().0).collect();
    assert_eq!(sections, listed, "the list at its top");
}

#[test]
fn every_section_of_the_runbook_says_what_it_means_what_to_look_at_and_what_to_do() {
    for (anchor, body) in sections() {
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(
            anchor.chars().all(plain),
            "{anchor}: another anchor than its heading"
        );
        for part in ["**Means.**", "**Look at.**", "**Do.**"] {
            assert!(body.contains(part), "{anchor} has no {part}");
        }
    }
}

#[test]
fn the_panels_that_the_runbook_names_are_there() {
    use crate::support::monitoring::{dashboards, panels};
    let boards = dashboards();
    let mut known: BTreeSet<_> = boards
        .iter()
        .flat_map(|(_, board)| panels(board))
        .map(|p| word(&p["title"]))
        .collect();
    let rows = boards.iter().flat_map(|(_, board)| list(&board["panels"]));
    known.extend(rows.map(|panel| word(&panel["title"])));
    // Emphasised words that are no panels: dashboards, and pages of Prometheus.
    known.extend(["Dashboard", "dependencies", "telemetry", "Target health"]);
    let runbook = text("docs/RUNBOOK.md").replace('\n', " ").replace("**", "");
    // An asterisk in code is one of SQL.
    let prose: String = runbook.split('`').step_by(2).collect();
    let named: Vec<&str> = prose.split('*').skip(1).step_by(2).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(known.contains(name), "the runbook names {name:?}");
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_to_be_silent() {
    let mut tested: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    let mut severities = BTreeSet::new();
    for name in names("prometheus/tests", ".yml") {
        let file = yaml(&format!("prometheus/tests/{name}"));
        for check in list(&file["tests"])
            .iter()
            .flat_map(|test| list(&test["alert_rule_test"]))
        {
            let alert = word(&check["alertname"]).to_owned();
            let expected = list(&check["exp_alerts"]);
            let seen = tested.entry(alert.clone()).or_default();
            seen.0 |= !expected.is_empty();
            seen.1 |= expected.is_empty();
            for labels in expected.iter().map(|expected| &expected["exp_labels"]) {
                let labels = ["severity", "window"].map(|label| word(&labels[label]).to_owned());
                severities.insert((alert.clone(), labels));
            }
        }
    }
    for alert in rules_that("alert") {
        let name = word(&alert["alert"]);
        assert_eq!(
            tested.get(name),
            Some(&(true, true)),
            "{name}: fires, is silent"
        );
        // Rules of one name differ in these.
        let labels = ["severity", "window"].map(|label| word(&alert["labels"][label]).to_owned());
        let fired = severities.contains(&(name.to_owned(), labels.clone()));
        assert!(fired, "{name} {labels:?} is not tested to fire");
    }
}
