//! docs/TELEMETRY.md has the table of `src/telemetry/metrics.rs`. `GANESH_WRITE_DOCS=1` writes it instead
//! of comparing.

use std::fmt::Write as _;

use ganesh::telemetry::metrics::{Kind, Metric, TABLE};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TELEMETRY.md");
const BEGIN: &str = "<!-- metrics: begin -->\n";
const END: &str = "<!-- metrics: end -->\n";

fn kind(metric: &Metric) -> String {
    match metric.kind {
        Kind::Histogram(bounds) => {
            let (first, last) = (bounds[0], bounds[bounds.len() - 1]);
            format!("histogram, {} bounds from {first} to {last}", bounds.len())
        }
        kind => kind.as_str().to_owned(),
    }
}

/// Each label with its values, in the order of their series.
fn labels(metric: &Metric) -> String {
    let values = |label: usize| {
        let mut values: Vec<String> = Vec::new();
        for series in (metric.series)() {
            let value = match metric.labels[label] {
                "version" => "the version".to_owned(),
                _ => format!("`{}`", series[label]),
            };
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values.join(" ")
    };
    let labels = metric.labels.iter().enumerate();
    let labels = labels.map(|(at, name)| format!("`{name}`: {}", values(at)));
    labels.collect::<Vec<_>>().join("; ")
}

fn table() -> String {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in TABLE {
        let Metric { name, help, .. } = metric;
        let (kind, labels) = (kind(metric), labels(metric));
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    table
}

#[test]
fn the_documented_metrics_are_those_of_the_catalogue() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page
        .split_once(BEGIN)
        .expect("the page has the first marker");
    let (written, after) = rest
        .split_once(END)
        .expect("the page has the second marker");
    let table = table();
    if std::env::var_os("GANESH_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            written, table,
            "the table changed: run the test with GANESH_WRITE_DOCS=1"
        );
    }
}
