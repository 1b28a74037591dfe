//! `/metrics`, in Prometheus's text format 0.0.4 or in OpenMetrics 1.0: the same families,
//! and every series under the same name in both.
//!
//! Both formats are specified at <https://prometheus.io/docs/instrumenting/exposition_formats/>
//! and <https://prometheus.io/docs/specs/om/open_metrics_spec/>. The lines that they share are
//! written by metrics-exporter-prometheus.

mod accept;

use std::fmt::{Display, Write as _};

use metrics::Key;
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{
    write_help_line, write_metric_line, write_type_line,
};

use super::Metrics;
use super::histogram::{Exemplar, Histogram};
use super::metrics::{Metric, Reading, TABLE};

/// In which format `/metrics` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format 0.0.4, which has no exemplars.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Every metric of the table as it stands now.
pub fn render(metrics: &Metrics, format: Format) -> String {
    let mut text = String::new();
    for (metric, series) in TABLE.iter().zip(metrics.read()) {
        write_head(&mut text, metric, format);
        for (key, reading) in metric.keys().zip(series) {
            let mut line = |value: &dyn Display| {
                let labels = labels(&key);
                write_metric_line(&mut text, metric.name, None, &labels, NO_BOUND, value, None);
            };
            match reading {
                Reading::Count(count) => line(&count),
                Reading::Level(level) => line(&number(level)),
                Reading::Histogram(histogram) => {
                    write_histogram(&mut text, &key, histogram, format);
                }
            }
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// The lines above the series. In OpenMetrics the family of a counter is named without the suffix of
/// its samples.
fn write_head(text: &mut String, metric: &Metric, format: Format) {
    let name = match format {
        Format::Text => metric.name,
        Format::OpenMetrics => metric.name.trim_end_matches("_total"),
    };
    write_help_line(text, name, None, None, metric.help);
    write_type_line(text, name, None, None, metric.kind.as_str());
    let unit = metric.unit();
    if format == Format::OpenMetrics && !unit.is_empty() {
        writeln!(text, "# UNIT {name} {unit}").expect("writing to a String does not fail");
    }
}

fn write_histogram(text: &mut String, key: &Key, histogram: &Histogram, format: Format) {
    let (name, labels) = (key.name(), labels(key));
    let snapshot = histogram.snapshot();
    let bounds = histogram.bounds().iter().map(|bound| bound_text(*bound));
    let bounds = bounds.chain(["+Inf".to_owned()]);
    let mut cumulative = 0;
    for ((bound, count), exemplar) in bounds.zip(&snapshot.counts).zip(&snapshot.exemplars) {
        cumulative += count;
        let exemplar = exemplar.filter(|_| format == Format::OpenMetrics);
        let exemplar = exemplar.map_or_else(String::new, |exemplar| exemplar_text(&exemplar));
        let value = format_args!("{cumulative}{exemplar}");
        let bound = Some(("le", bound));
        write_metric_line(text, name, Some("bucket"), &labels, bound, value, None);
    }
    let sum = snapshot.sum;
    write_metric_line(text, name, Some("sum"), &labels, NO_BOUND, sum, None);
    write_metric_line(
        text,
        name,
        Some("count"),
        &labels,
        NO_BOUND,
        cumulative,
        None,
    );
}

const NO_BOUND: Option<(&str, &str)> = None;

#[allow(clippy::default_trait_access, reason = "its crate is not ours to name")]
fn labels(key: &Key) -> LabelSet {
    LabelSet::from_key_and_global(key, &Default::default())
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        return format!("{value:+}").replace("inf", "Inf");
    }
    value.to_string()
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
