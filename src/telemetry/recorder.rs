//! The process's metrics recorder. Counters and gauges are metrics-exporter-prometheus's;
//! its histograms would keep every observation until somebody asks, so those are ours.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, Gauge, Key, KeyName, Label, Metadata, Recorder, SetRecorderError, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::catalogue::{self, Kind, Metric};
use super::histogram::Histogram;

/// Every histogram, once for each combination of label values. Cloning clones an `Arc`.
#[derive(Clone, Default)]
pub struct Histograms(Arc<Mutex<Vec<Entry>>>);

/// One histogram and what it is called.
#[derive(Clone)]
pub struct Entry {
    /// Its family.
    pub metric: Metric,
    /// Its labels.
    pub labels: Vec<Label>,
    /// Its counts.
    pub histogram: Arc<Histogram>,
}

impl Histograms {
    /// The histogram of `metric` with these labels, made when it is missing; `None` when the
    /// metric is no histogram.
    pub fn get(&self, metric: Metric, labels: &[Label]) -> Option<Arc<Histogram>> {
        let Kind::Histogram(bounds) = metric.kind else {
            return None;
        };
        let mut entries = self.lock();
        let there = entries
            .iter()
            .find(|entry| entry.metric.name == metric.name && entry.labels == labels);
        if let Some(entry) = there {
            return Some(entry.histogram.clone());
        }
        let histogram = Arc::new(Histogram::new(bounds));
        entries.push(Entry {
            metric,
            labels: labels.to_vec(),
            histogram: histogram.clone(),
        });
        Some(histogram)
    }

    /// All of them, in the order in which they were made.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Whoever panicked has left whole entries behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `/metrics` is rendered from. Cloning clones handles.
#[derive(Clone)]
pub struct Recorded {
    pub(super) scalars: PrometheusHandle,
    /// The histograms.
    pub histograms: Histograms,
}

/// The recorder.
pub struct CatalogueRecorder {
    scalars: PrometheusRecorder,
    histograms: Histograms,
}

impl CatalogueRecorder {
    /// A recorder, not installed yet.
    #[allow(clippy::new_without_default, reason = "it is made once, on purpose")]
    pub fn new() -> Self {
        Self {
            scalars: PrometheusBuilder::new().build_recorder(),
            histograms: Histograms::default(),
        }
    }

    /// What it records.
    pub fn recorded(&self) -> Recorded {
        Recorded {
            scalars: self.scalars.handle(),
            histograms: self.histograms.clone(),
        }
    }
}

/// Makes a recorder the process's.
///
/// # Errors
/// When one is installed already.
pub fn install() -> Result<Recorded, SetRecorderError<CatalogueRecorder>> {
    let ours = CatalogueRecorder::new();
    let recorded = ours.recorded();
    metrics::set_global_recorder(ours)?;
    Ok(recorded)
}

impl Recorder for CatalogueRecorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.scalars.describe_counter(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.scalars.describe_gauge(name, unit, help);
    }

    /// The catalogue describes histograms.
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.scalars.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.scalars.register_gauge(key, metadata)
    }

    /// A histogram that the catalogue does not know has no buckets, and is not kept.
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        let labels: Vec<Label> = key.labels().cloned().collect();
        catalogue::find(key.name())
            .and_then(|metric| self.histograms.get(*metric, &labels))
            .map_or_else(metrics::Histogram::noop, metrics::Histogram::from_arc)
    }
}
