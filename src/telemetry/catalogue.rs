//! Every metric: name, kind, unit, help, labels and their closed values.
//! Dashboards, alerts and documents may name what stands here and nothing else.

mod families;
mod series;

use std::sync::Arc;

use metrics::{Counter, Gauge, Label};

use super::histogram::Histogram;
use super::recorder::Histograms;
pub use families::*;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in fixed buckets, with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Its name in TYPE lines, the same in both formats.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name on `/metrics`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit with which the name ends, but for `_total`; empty where there is none.
    pub unit: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// Label names, in the order in which handles take their values.
    pub labels: &'static [&'static str],
}

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    CATALOGUE.iter().find(|metric| metric.name == name)
}

impl Metric {
    const fn new(
        kind: Kind,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit: "",
            help,
            labels,
        }
    }

    const fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    fn labels_with(&self, values: &[&'static str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::from_static_parts(name, value))
            .collect()
    }

    /// The counter with these label values, visible as zero from now on.
    pub(super) fn counter(&self, values: &[&'static str]) -> Counter {
        let counter = metrics::counter!(self.name, self.labels_with(values));
        counter.increment(0);
        counter
    }

    /// The gauge with these label values, visible as zero from now on. A counter of
    /// fractions is kept as one too, because the facade's counters are whole numbers; the
    /// exposition calls it what the catalogue calls it.
    pub(super) fn gauge(&self, values: &[&'static str]) -> Gauge {
        let gauge = metrics::gauge!(self.name, self.labels_with(values));
        gauge.set(0.0);
        gauge
    }

    /// The histogram with these label values, visible from now on.
    pub(super) fn histogram(
        &self,
        histograms: &Histograms,
        values: &[&'static str],
    ) -> Arc<Histogram> {
        let histogram = histograms.get(*self, &self.labels_with(values));
        histogram.expect("it is only asked of metrics that are histograms")
    }

    /// Tells the recorder what the metric means.
    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram(_) => metrics::describe_histogram!(self.name, self.help),
        }
    }
}

/// All of them.
pub const CATALOGUE: &[Metric] = &[
    MESSAGES_RECEIVED,
    MESSAGES_REDELIVERED,
    MESSAGES_SETTLED,
    DEAD_LETTERS,
    END_TO_END_SECONDS,
    STAGE_SECONDS,
    BATCH_EVENTS,
    BATCH_BYTES,
    BATCH_WRITES,
    REJECTION_PAUSE,
    DEAD_LETTERS_REFUSED,
    PARTITION_UPKEEP_FAILURES,
    STREAM_GONE,
    IN_FLIGHT_MESSAGES,
    IN_FLIGHT_LIMIT,
    IN_FLIGHT_BYTES,
    IN_FLIGHT_BYTES_LIMIT,
    QUEUE_DEPTH,
    QUEUE_CAPACITY,
    PROGRESS_ACKS,
    CONSUMER_PENDING,
    CONSUMER_ACK_PENDING,
    CONSUMER_OLDEST_PENDING,
    CONSUMER_REMOVED,
    CLOCK_SKEW,
    DEPENDENCY_UP,
    DEPENDENCY_ERRORS,
    CACHE_REQUESTS,
    POSTGRES_CONNECTIONS,
    HTTP_REQUESTS,
    TRACES,
    SPANS_BUILT,
    SPANS,
    RUNTIME_WORKERS,
    RUNTIME_BUSY_RATIO,
    RUNTIME_TASKS,
    RUNTIME_GLOBAL_QUEUE_DEPTH,
    BUILD_INFO,
    PROCESS_CPU_SECONDS,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    PROCESS_RESIDENT_MEMORY,
    PROCESS_VIRTUAL_MEMORY,
    PROCESS_VIRTUAL_MEMORY_MAX,
    PROCESS_START_TIME,
    PROCESS_THREADS,
];
