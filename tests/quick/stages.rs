//! Wherever stages are listed, they stand in the order in which a message goes through them.

use ganesh::labels::Stage;
use strum::VariantArray as _;

use crate::support::monitoring::{dashboards, panels, text, word};

fn stages() -> Vec<&'static str> {
    Stage::VARIANTS.iter().map(Stage::into_str).collect()
}

/// The stages that a text names, each where it is named first.
fn named(text: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for word in text.split(|c: char| !c.is_ascii_lowercase() && c != '_') {
        if stages().contains(&word) && !named.contains(&word) {
            named.push(word);
        }
    }
    named
}

#[test]
fn the_trace_of_a_message_shows_its_stages_in_order() {
    let page = text("docs/TELEMETRY.md");
    let spans = page.lines().filter_map(|line| {
        let span = line.strip_prefix("  ├ ").or(line.strip_prefix("  └ "))?;
        span.split(' ').next()
    });
    assert_eq!(spans.collect::<Vec<_>>(), stages());
}

#[test]
fn the_table_of_metrics_lists_the_stages_in_order() {
    let page = text("docs/TELEMETRY.md");
    let mut rows = page.lines();
    let row = rows.find(|row| row.starts_with("| `ganesh_stage_seconds` "));
    let values = row.unwrap().split(" | ").nth(2).unwrap();
    assert_eq!(named(values), stages());
}

#[test]
fn panels_that_show_stages_describe_them_in_order() {
    let mut described = 0;
    for (file, dashboard) in dashboards() {
        let by_stage = panels(&dashboard).filter(|panel| {
            let title = word(&panel["title"]).to_lowercase();
            title.contains("by stage")
        });
        for panel in by_stage {
            let named = named(word(&panel["description"]));
            let mut in_order = stages();
            in_order.retain(|stage| named.contains(stage));
            assert_eq!(named, in_order, "{file}: {}", panel["title"]);
            assert!(named.len() > 2, "{file}: {}", panel["title"]);
            described += 1;
        }
    }
    assert!(described > 0, "no panel is by stage");
}
