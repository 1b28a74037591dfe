//! P9: every metric of the table is exported from the start, and no other; names are
//! those that the documents fix.

mod moved;

use std::collections::{BTreeMap, BTreeSet};

use ganesh::telemetry::metrics::{Kind, Metric, TABLE};

use crate::support::Stack;

/// One family as `/metrics` shows it.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    /// What stands between the braces of each series, sorted.
    labels: BTreeSet<String>,
}

/// The families of an exposition in the text format 0.0.4.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
            name.clone_into(&mut current);
        } else {
            let series = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert!(name.starts_with(&current), "{line} stands under {current}");
            let labels = labels.strip_suffix('}').unwrap();
            // No label value of ours holds a comma.
            let mut labels: Vec<&str> = labels.split(',').collect();
            labels.sort_unstable();
            let family = families.get_mut(&current).unwrap();
            family.labels.insert(labels.join(","));
        }
    }
    families
}

/// The series of a metric, as they stand between the braces.
fn expected_labels(metric: &Metric) -> BTreeSet<String> {
    let series = |values: Vec<&str>| {
        let mut labels: Vec<String> = metric
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        labels.sort();
        labels.join(",")
    };
    (metric.series)().into_iter().map(series).collect()
}

#[tokio::test]
async fn a_fresh_serve_exports_the_catalogue_with_all_label_values_and_nothing_else() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let (status, text) = ganesh.admin("/metrics").await;
    assert_eq!(status, 200);
    let mut exported = families(&text);
    for metric in TABLE {
        let family = exported.remove(metric.name);
        let family = family.unwrap_or_else(|| panic!("{} is not exported", metric.name));
        assert_eq!(family.help, metric.help, "{}", metric.name);
        assert_eq!(family.kind, metric.kind.as_str(), "{}", metric.name);
        if let Kind::Histogram(buckets) = metric.kind {
            assert_buckets(metric, buckets, &family.labels);
        } else {
            assert_eq!(family.labels, expected_labels(metric), "{}", metric.name);
        }
    }
    let unknown: Vec<_> = exported.keys().collect();
    assert!(unknown.is_empty(), "not in the catalogue: {unknown:?}");
}

/// Each series has all its buckets, its sum and its count.
fn assert_buckets(metric: &Metric, bounds: &[f64], found: &BTreeSet<String>) {
    let mut expected = Vec::new();
    for labels in expected_labels(metric) {
        let all = bounds.iter().copied().chain([f64::INFINITY]);
        expected.extend(all.map(|bound| (labels.clone(), bound.to_string())));
        expected.push((labels, "no bucket".to_owned()));
    }
    let split = |series: &String| {
        let (buckets, labels): (Vec<&str>, Vec<&str>) = series
            .split(',')
            .partition(|label| label.starts_with("le="));
        let bound = buckets.first().map_or("no bucket".to_owned(), |le| {
            let number = le.trim_start_matches("le=\"").trim_end_matches('"');
            number.parse::<f64>().unwrap().to_string()
        });
        (labels.join(","), bound)
    };
    let found: BTreeSet<_> = found.iter().map(split).collect();
    assert_eq!(found, expected.into_iter().collect(), "{}", metric.name);
}
