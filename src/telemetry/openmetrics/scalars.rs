//! Counters and gauges, read from the text that metrics-exporter-prometheus renders: it
//! shows its registry in no other way.

use super::{Family, Series, TOTAL, Value};
use crate::telemetry::catalogue::{self, Kind};

/// The counters and gauges of an exposition in the text format 0.0.4.
pub(super) fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.push(family(name, kind, std::mem::take(&mut help)));
        } else if let (Some(series), Some(family)) = (series(line), families.last_mut()) {
            family.series.push(series);
        }
    }
    for family in &mut families {
        // The registry is a hash map: in another order at each scrape.
        family.series.sort_by(|a, b| a.labels.cmp(&b.labels));
    }
    families
}

fn family(name: &str, kind: &str, help: &str) -> Family {
    if let Some(metric) = catalogue::find(name) {
        return Family {
            name: name.to_owned(),
            kind: metric.kind,
            unit: metric.unit,
            help: metric.help.to_owned(),
            series: Vec::new(),
        };
    }
    let kind = match kind {
        "counter" => Kind::Counter,
        _ => Kind::Gauge,
    };
    // OpenMetrics puts the suffix on samples of counters; then they have it in both formats.
    let suffix = match kind {
        Kind::Counter if !name.ends_with(TOTAL) => TOTAL,
        _ => "",
    };
    Family {
        name: format!("{name}{suffix}"),
        kind,
        unit: "",
        help: unescape(help),
        series: Vec::new(),
    }
}

/// `name{labels} value`; the labels are escaped already.
fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ')?;
    let labels = match series.split_once('{') {
        Some((_, labels)) => labels.strip_suffix('}')?,
        None => "",
    };
    let value = match value {
        "inf" => "+Inf",
        "-inf" => "-Inf",
        value => value,
    };
    Some(Series {
        labels: labels.to_owned(),
        value: Value::Scalar(value.to_owned()),
    })
}

fn unescape(help: &str) -> String {
    let mut text = String::with_capacity(help.len());
    let mut chars = help.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                other => text.extend(other),
            },
            c => text.push(c),
        }
    }
    text
}
