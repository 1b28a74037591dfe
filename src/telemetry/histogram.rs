//! A histogram with fixed buckets: an observation is a search in a short table and two
//! atomic additions, nothing is buffered, and memory never grows.
//!
//! Each bucket has room for one exemplar. Those are behind a lock that observations never
//! take: only the export task and a scrape do.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use metrics::HistogramFn;

use crate::event::{Timestamp, TraceId};

/// More shards than this cost memory and scrape time, and save little.
const SHARDS_MAX: usize = 16;
/// Cells of 128 bytes.
const CELLS_OF_LINES: usize = 16;
/// The first cell of a shard is its sum, the others its buckets.
const SUM_CELL: usize = 0;
const FIRST_BUCKET_CELL: usize = 1;

/// Two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Lines([AtomicU64; CELLS_OF_LINES]);

/// A message whose trace the collector has accepted, and that fell into a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: TraceId,
    /// What was observed, in the histogram's unit.
    pub value: f64,
    /// When the message was settled.
    pub at: Timestamp,
}

/// Counts of observations by bucket, and their sum.
pub struct Histogram {
    bounds: &'static [f64],
    /// Shards one after the other, each of `lines_per_shard`.
    lines: Box<[Lines]>,
    lines_per_shard: usize,
    /// A power of two.
    shards: usize,
    exemplars: Mutex<Box<[Option<Exemplar>]>>,
}

/// Observations of one task, not in the histogram yet: for those that it makes by the thousand, a
/// search in a table and two additions that no other processor sees.
pub struct Tally {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Tally {
    /// Observes a value, as [`Histogram::record`] does.
    pub fn record(&mut self, value: f64) {
        if value.is_finite() {
            self.counts[bucket_of(self.bounds, value)] += 1;
            self.sum += value;
        }
    }
}

/// What a histogram had counted at a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Upper bounds of all buckets but the last, which has none.
    pub bounds: &'static [f64],
    /// Observations of each bucket alone, that beyond the last bound too.
    pub counts: Vec<u64>,
    /// Sum of the observations.
    pub sum: f64,
    /// The newest exemplar of each bucket.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl Snapshot {
    /// Observations of all buckets.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Histogram {
    /// An empty histogram with these upper bounds, which are inclusive and ascend. A bucket
    /// without upper bound is added.
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        let buckets = bounds.len() + 1;
        let lines_per_shard = (FIRST_BUCKET_CELL + buckets).div_ceil(CELLS_OF_LINES);
        let threads = available_parallelism().map_or(1, usize::from);
        let shards = threads.next_power_of_two().min(SHARDS_MAX);
        Self {
            bounds,
            lines: (0..shards * lines_per_shard)
                .map(|_| Lines::default())
                .collect(),
            lines_per_shard,
            shards,
            exemplars: Mutex::new(vec![None; buckets].into()),
        }
    }

    /// Observes a value.
    pub fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    /// Observes the same value `count` times. What is no finite number is not counted: it
    /// would make the sum useless for ever.
    pub fn record_many(&self, value: f64, count: u64) {
        if !value.is_finite() || count == 0 {
            return;
        }
        let shard = self.shard(thread_number() & (self.shards - 1));
        let bucket = FIRST_BUCKET_CELL + bucket_of(self.bounds, value);
        cell(shard, bucket).fetch_add(count, Ordering::Relaxed);
        #[allow(
            clippy::cast_precision_loss,
            reason = "a batch has far fewer than 2^53"
        )]
        add(cell(shard, SUM_CELL), value * count as f64);
    }

    /// An empty tally with these buckets.
    pub fn tally(&self) -> Tally {
        Tally {
            bounds: self.bounds,
            counts: vec![0; self.bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Takes over what was counted in a tally of its own, which is empty afterwards.
    pub fn take(&self, tally: &mut Tally) {
        let shard = self.shard(thread_number() & (self.shards - 1));
        for (bucket, count) in tally.counts.iter_mut().enumerate() {
            let count = std::mem::take(count);
            if count > 0 {
                cell(shard, FIRST_BUCKET_CELL + bucket).fetch_add(count, Ordering::Relaxed);
            }
        }
        add(cell(shard, SUM_CELL), std::mem::take(&mut tally.sum));
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

    /// What was counted until now. An observation that runs at the same time may be in a
    /// count and not yet in the sum.
    pub fn snapshot(&self) -> Snapshot {
        let mut counts = vec![0; self.bounds.len() + 1];
        let mut sum = 0.0;
        for shard in 0..self.shards {
            let shard = self.shard(shard);
            for (bucket, count) in counts.iter_mut().enumerate() {
                *count += cell(shard, FIRST_BUCKET_CELL + bucket).load(Ordering::Relaxed);
            }
            sum += f64::from_bits(cell(shard, SUM_CELL).load(Ordering::Relaxed));
        }
        Snapshot {
            bounds: self.bounds,
            counts,
            sum,
            exemplars: self.exemplars().to_vec(),
        }
    }

    fn shard(&self, number: usize) -> &[Lines] {
        &self.lines[number * self.lines_per_shard..][..self.lines_per_shard]
    }

    fn exemplars(&self) -> MutexGuard<'_, Box<[Option<Exemplar>]>> {
        // Whoever panicked has left whole slots behind.
        self.exemplars
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        Self::record(self, value);
    }

    fn record_many(&self, value: f64, count: usize) {
        Self::record_many(self, value, count as u64);
    }
}

/// The first bucket whose bound is not below the value.
fn bucket_of(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

fn cell(shard: &[Lines], index: usize) -> &AtomicU64 {
    &shard[index / CELLS_OF_LINES].0[index % CELLS_OF_LINES]
}

/// Adds to the bits of a float. Whole nanoseconds instead were measured to cost the same, and
/// their sum overflows within days of a deep backlog.
fn add(sum: &AtomicU64, value: f64) {
    let mut bits = sum.load(Ordering::Relaxed);
    loop {
        let new = (f64::from_bits(bits) + value).to_bits();
        match sum.compare_exchange_weak(bits, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(changed) => bits = changed,
        }
    }
}

/// Threads take shards in turn, so that the runtime's workers do not meet in one.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}
