//! A histogram with fixed buckets: nothing is buffered until a scrape, and memory never grows.
//! Whoever observes by the thousand counts in a [`Tally`] of its own first.
//!
//! Each bucket has room for one exemplar. Those are behind a lock that observations never
//! take: only the export task and a scrape do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::event::{Timestamp, TraceId};

/// A message whose trace the collector has accepted, and that fell into a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: TraceId,
    /// The observed value, in the histogram's unit.
    pub value: f64,
    /// When the message was settled.
    pub at: Timestamp,
}

/// Counts of observations by bucket, and their sum.
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The bits of a float. Whole nanoseconds would overflow within days of a deep backlog.
    sum: AtomicU64,
    exemplars: Mutex<Box<[Option<Exemplar>]>>,
}

/// Observations of one task, not in the histogram yet.
pub(crate) struct Tally {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Tally {
    pub(crate) fn record(&mut self, value: f64) {
        if value.is_finite() {
            self.counts[bucket_of(self.bounds, value)] += 1;
            self.sum += value;
        }
    }
}

/// The counts of a histogram at a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Observations of each bucket alone, that beyond the last bound too.
    pub counts: Vec<u64>,
    /// Sum of the observations.
    pub sum: f64,
    /// The newest exemplar of each bucket.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl Histogram {
    /// An empty histogram with these upper bounds, which are inclusive and ascend. A bucket
    /// without upper bound is added.
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        let buckets = bounds.len() + 1;
        Self {
            bounds,
            counts: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            exemplars: Mutex::new(vec![None; buckets].into()),
        }
    }

    /// Observes a value.
    pub fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    /// Observes the same value `count` times. A value that is not finite is not counted: it would
    /// spoil the sum for ever.
    pub fn record_many(&self, value: f64, count: u64) {
        if !value.is_finite() || count == 0 {
            return;
        }
        self.counts[bucket_of(self.bounds, value)].fetch_add(count, Ordering::Relaxed);
        #[allow(
            clippy::cast_precision_loss,
            reason = "a batch has far fewer than 2^53"
        )]
        self.add_to_sum(value * count as f64);
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            bounds: self.bounds,
            counts: vec![0; self.counts.len()],
            sum: 0.0,
        }
    }

    /// Takes over what was counted in a tally of its own, which is empty afterwards.
    pub(crate) fn take(&self, tally: &mut Tally) {
        let counts = tally.counts.iter_mut().map(std::mem::take);
        for (bucket, count) in self.counts.iter().zip(counts).filter(|(_, n)| *n > 0) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.add_to_sum(std::mem::take(&mut tally.sum));
    }

    fn add_to_sum(&self, value: f64) {
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Remembers a message of the bucket that `exemplar.value` falls into, unless a newer
    /// one is there: Prometheus refuses exemplars that go back in time.
    pub fn attach_exemplar(&self, exemplar: Exemplar) {
        if !exemplar.value.is_finite() {
            return;
        }
        let bucket = bucket_of(self.bounds, exemplar.value);
        let slot = &mut self.exemplars()[bucket];
        if slot.is_none_or(|there| there.at < exemplar.at) {
            *slot = Some(exemplar);
        }
    }

    /// Upper bounds of all buckets but the last, which has none.
    pub(super) fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// The counts until now. A concurrent observation may be in a count and not yet in the sum.
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.counts.iter();
        Snapshot {
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: f64::from_bits(self.sum.load(Ordering::Relaxed)),
            exemplars: self.exemplars().to_vec(),
        }
    }

    fn exemplars(&self) -> MutexGuard<'_, Box<[Option<Exemplar>]>> {
        // Whoever panicked has left whole slots behind.
        self.exemplars
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first bucket whose bound is not below the value.
fn bucket_of(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}
