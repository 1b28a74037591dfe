//! The recorder of the `metrics` facade: where counters and gauges count.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use metrics::atomics::AtomicU64;
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, SetRecorderError, SharedString, Unit,
};
use metrics_util::registry::{AtomicStorage, Registry};

/// A recorder. Cloning clones an `Arc`.
#[derive(Clone)]
pub struct Recorder(Arc<Registry<Key, AtomicStorage>>);

impl Default for Recorder {
    fn default() -> Self {
        Self(Arc::new(Registry::atomic()))
    }
}

/// Makes a recorder the process's, so that the facade's macros count in it, too.
///
/// # Errors
/// When one is installed already.
pub fn install() -> Result<Recorder, SetRecorderError<Recorder>> {
    let recorder = Recorder::default();
    metrics::set_global_recorder(recorder.clone())?;
    Ok(recorder)
}

impl Recorder {
    pub(super) fn counter(&self, key: &Key) -> u64 {
        value(self.0.get_counter(key))
    }

    pub(super) fn gauge(&self, key: &Key) -> f64 {
        f64::from_bits(value(self.0.get_gauge(key)))
    }
}

/// 0 for a series that nobody has registered.
fn value(cell: Option<Arc<AtomicU64>>) -> u64 {
    cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
}

/// The table has the descriptions, and histograms of its own.
impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.0
            .get_or_create_counter(key, |cell| Counter::from_arc(cell.clone()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0
            .get_or_create_gauge(key, |cell| Gauge::from_arc(cell.clone()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
