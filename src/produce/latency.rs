//! Durations, counted in fixed memory and exact to a thousandth.

use std::time::Duration;

use hdrhistogram::Histogram;

/// A longer one counts as this.
const MAX_MICROS: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Counts durations, and answers which of them a share of all does not exceed.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_MICROS, SIGNIFICANT_DIGITS);
        Self(histogram.expect("bounds and digits that it takes"))
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    /// The duration that this share of all does not exceed (0.99 is the 99th percentile). Zero
    /// when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// The longest of all.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}
