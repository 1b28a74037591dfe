//! `/metrics`, in Prometheus's text format 0.0.4 or in OpenMetrics 1.0: the same families,
//! and every series under the same name in both.
//!
//! Both formats are specified at <https://prometheus.io/docs/instrumenting/exposition_formats/>
//! and <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

mod accept;
mod scalars;

use std::fmt::Write as _;

use super::catalogue::Kind;
use super::histogram::{Exemplar, Snapshot};
use super::recorder::{Entry, Recorded};

/// What ends the names of counters.
const TOTAL: &str = "_total";

/// In which format `/metrics` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format 0.0.4, which has no exemplars.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What the answer's `Content-Type` says.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The series of one name.
struct Family {
    /// As it stands in the catalogue: a counter's ends with `_total`.
    name: String,
    kind: Kind,
    unit: &'static str,
    /// Not escaped.
    help: String,
    series: Vec<Series>,
}

struct Series {
    /// What stands between the braces, escaped; empty without labels.
    labels: String,
    value: Value,
}

enum Value {
    /// As it is written.
    Scalar(String),
    Histogram(Snapshot),
}

/// Everything that was recorded, as it stands now.
pub fn render(recorded: &Recorded, format: Format) -> String {
    let mut families = scalars::families(&recorded.scalars.render());
    families.extend(histogram_families(recorded.histograms.entries()));
    families.sort_by(|one, other| one.name.cmp(&other.name));
    let mut text = String::new();
    for family in &families {
        write_family(&mut text, family, format);
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn histogram_families(entries: Vec<Entry>) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for entry in entries {
        let labels = entry.labels.iter().map(|label| {
            let value = escape_label(label.value());
            format!("{}=\"{value}\"", label.key())
        });
        let series = Series {
            labels: labels.collect::<Vec<_>>().join(","),
            value: Value::Histogram(entry.histogram.snapshot()),
        };
        let name = entry.metric.name;
        if let Some(family) = families.iter_mut().find(|family| family.name == name) {
            family.series.push(series);
        } else {
            families.push(Family {
                name: name.to_owned(),
                kind: entry.metric.kind,
                unit: entry.metric.unit,
                help: entry.metric.help.to_owned(),
                series: vec![series],
            });
        }
    }
    families
}

fn write_family(text: &mut String, family: &Family, format: Format) {
    let Family { name, kind, .. } = family;
    // OpenMetrics: the family is named without the suffix that its samples have.
    let family_name = match (format, kind) {
        (Format::OpenMetrics, Kind::Counter) => name.strip_suffix(TOTAL).unwrap_or(name),
        _ => name,
    };
    let help = escape_help(&family.help, format);
    line(text, format_args!("# HELP {family_name} {help}"));
    line(text, format_args!("# TYPE {family_name} {}", kind.as_str()));
    if format == Format::OpenMetrics && !family.unit.is_empty() {
        line(text, format_args!("# UNIT {family_name} {}", family.unit));
    }
    for Series { labels, value } in &family.series {
        match value {
            Value::Scalar(value) => {
                line(text, format_args!("{name}{} {value}", braces(labels)));
            }
            Value::Histogram(snapshot) => write_histogram(text, name, labels, snapshot, format),
        }
    }
}

fn write_histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    snapshot: &Snapshot,
    format: Format,
) {
    let separator = if labels.is_empty() { "" } else { "," };
    let bounds = snapshot.bounds.iter().map(|bound| bound_text(*bound));
    let bounds = bounds.chain(["+Inf".to_owned()]);
    let mut cumulative = 0;
    for ((bound, count), exemplar) in bounds.zip(&snapshot.counts).zip(&snapshot.exemplars) {
        cumulative += count;
        let exemplar = match (format, exemplar) {
            (Format::OpenMetrics, Some(exemplar)) => exemplar_text(exemplar),
            _ => String::new(),
        };
        line(
            text,
            format_args!(
                "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {cumulative}{exemplar}"
            ),
        );
    }
    let (labels, sum) = (braces(labels), snapshot.sum);
    line(text, format_args!("{name}_sum{labels} {sum}"));
    line(text, format_args!("{name}_count{labels} {cumulative}"));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String does not fail");
}

fn braces(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

/// A bucket's bound as OpenMetrics wants it: with a decimal point, and with an exponent
/// from a million on. In both formats, because a label value is part of a series' name.
fn bound_text(bound: f64) -> String {
    const EXPONENT_FROM: f64 = 1e6;
    if bound < EXPONENT_FROM {
        return format!("{bound:?}");
    }
    let text = format!("{bound:e}");
    let (digits, exponent) = text.split_once('e').expect("{:e} writes an exponent");
    format!("{digits}e+{exponent:0>2}")
}

fn exemplar_text(exemplar: &Exemplar) -> String {
    const MICROS_PER_SECOND: i64 = 1_000_000;
    let Exemplar {
        trace_id,
        value,
        at,
    } = exemplar;
    let seconds = at.micros().div_euclid(MICROS_PER_SECOND);
    let micros = at.micros().rem_euclid(MICROS_PER_SECOND);
    format!(" # {{trace_id=\"{trace_id}\"}} {value} {seconds}.{micros:06}")
}

fn escape_label(value: &str) -> String {
    escape_lines(value).replace('"', "\\\"")
}

/// Quotes stand in a HELP text as they are in the text format, and escaped in OpenMetrics.
fn escape_help(help: &str, format: Format) -> String {
    match format {
        Format::Text => escape_lines(help),
        Format::OpenMetrics => escape_label(help),
    }
}

fn escape_lines(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}
