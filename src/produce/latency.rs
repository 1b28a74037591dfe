//! A histogram of durations in fixed memory, exact to better than 2 %.

use std::time::Duration;

/// Each power of two is cut into this many buckets, as a power of two itself.
const CUT_BITS: u32 = 6;
const CUTS: u64 = 1 << CUT_BITS;
/// Enough for every `u64` of microseconds.
const BUCKETS: usize = ((64 - CUT_BITS as usize) + 1) << CUT_BITS;

/// Counts durations, and answers which of them a share of all does not exceed.
#[derive(Debug)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
    max_micros: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max_micros: 0,
        }
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
        self.max_micros = self.max_micros.max(micros);
    }

    /// The duration that `per_mille` thousandths of all do not exceed (990 is
    /// the 99th percentile): the upper edge of its bucket, so never too low.
    /// Zero when nothing was counted.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.total * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper_edge(index).min(self.max_micros));
            }
        }
        self.max()
    }

    /// The longest of all.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_micros)
    }
}

/// Below `CUTS` each value has a bucket; above, the top `CUT_BITS + 1` bits name it.
fn bucket(micros: u64) -> usize {
    if micros < CUTS {
        return usize::try_from(micros).expect("less than CUTS");
    }
    let shift = micros.ilog2() - CUT_BITS;
    let index = (u64::from(shift) << CUT_BITS) + (micros >> shift);
    usize::try_from(index).expect("less than BUCKETS")
}

fn upper_edge(index: usize) -> u64 {
    let index = u64::try_from(index).expect("less than BUCKETS");
    if index < 2 * CUTS {
        return index;
    }
    let shift = (index >> CUT_BITS) - 1;
    let top = index - (shift << CUT_BITS);
    (top << shift) + ((1 << shift) - 1)
}
