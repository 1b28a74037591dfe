//! What a run did: counted exactly, printed for people or for programs.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::messages::Variant;

/// A longer latency counts as this.
const LATENCY_MAX_MICROS: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Counts {
    /// Messages sent, each once however often it was retried.
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    /// Acknowledged events, each once: as many rows are to be expected.
    pub(super) distinct_events: u64,
    /// Messages that repeated an event.
    pub(super) duplicates_sent: u64,
    /// Messages that are no events: as many dead letters are to be expected.
    pub(super) invalid_sent: u64,
    /// Acknowledgements that said that the stream held the message already.
    pub(super) duplicate_acks: u64,
    pub(super) retries: u64,
    /// Messages given up: the stream may hold them or not.
    pub(crate) failed: u64,
    /// Messages that the schedule asked for and that were left out, because the run
    /// was too far behind.
    pub(super) missed: u64,
    /// When the last acknowledgement came, since the start of the run.
    #[serde(skip)]
    last_ack: Duration,
}

impl Counts {
    pub(super) fn published(&mut self, variant: Variant) {
        self.published += 1;
        match variant {
            Variant::New => {}
            Variant::Duplicate => self.duplicates_sent += 1,
            Variant::Invalid(_) => self.invalid_sent += 1,
        }
    }

    pub(super) fn acknowledged(&mut self, variant: Variant, duplicate: bool, now: Duration) {
        self.acknowledged += 1;
        self.duplicate_acks += u64::from(duplicate);
        self.distinct_events += u64::from(variant == Variant::New);
        self.last_ack = now;
    }
}

/// A histogram of microseconds, exact to a thousandth.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, SIGNIFICANT_DIGITS)
        .expect("bounds and digits that it takes")
}

#[derive(Debug, Serialize)]
struct QuantilesMs {
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p99_9: f64,
    max: f64,
}

impl QuantilesMs {
    fn of(micros: &Histogram<u64>) -> Self {
        let milliseconds = |micros| round(Duration::from_micros(micros).as_secs_f64() * 1e3, 1e3);
        let quantile = |share| milliseconds(micros.value_at_quantile(share));
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: milliseconds(micros.max()),
        }
    }
}

/// An event of the stream, to look up.
#[derive(Debug, Serialize)]
pub(crate) struct ListedEvent {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    /// The subject; a plain message has none.
    pub(crate) subject: Option<String>,
    pub(crate) trace_id: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The seed: given again, the same ids and contents.
    seed: u64,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Messages that a signal kept from being waited for: the stream may hold them or not.
    unacknowledged: u64,
    /// From the first message to the last acknowledgement.
    seconds: f64,
    rate_per_second: f64,
    /// From the time at which a message was due (at rate 0: was sent) to its
    /// acknowledgement.
    publish_latency_ms: QuantilesMs,
    /// From the time at which a message was due to its sending.
    send_delay_ms: QuantilesMs,
    /// The events, where they are only a few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) events: Vec<ListedEvent>,
}

impl Report {
    pub(super) fn new(
        seed: u64,
        counts: Counts,
        [latencies, delays]: [&Histogram<u64>; 2],
        events: Vec<ListedEvent>,
    ) -> Self {
        let seconds = counts.last_ack.as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 2^53 messages, and rounded to one digit"
        )]
        let rate = counts.acknowledged as f64 / seconds.max(1e-6);
        Self {
            seed,
            unacknowledged: counts.published - counts.acknowledged - counts.failed,
            seconds: round(seconds, 1e3),
            rate_per_second: round(rate, 10.0),
            publish_latency_ms: QuantilesMs::of(latencies),
            send_delay_ms: QuantilesMs::of(delays),
            counts,
            events,
        }
    }
}

/// To so many parts of one.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(
            f,
            "published        {} messages: {} duplicates, {} invalid (seed {})",
            counts.published, counts.duplicates_sent, counts.invalid_sent, self.seed
        )?;
        writeln!(
            f,
            "acknowledged     {} in {} s: {}/s",
            counts.acknowledged, self.seconds, self.rate_per_second
        )?;
        writeln!(f, "distinct events  {}", counts.distinct_events)?;
        let latency = &self.publish_latency_ms;
        writeln!(
            f,
            "publish latency  p50 {} ms, p90 {} ms, p99 {} ms, p99.9 {} ms, max {} ms",
            latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max
        )?;
        writeln!(
            f,
            "retries          {}, duplicate acknowledgements {}",
            counts.retries, counts.duplicate_acks
        )?;
        write!(
            f,
            "not acknowledged {} failed, {} unacknowledged, {} missed by the schedule",
            counts.failed, self.unacknowledged, counts.missed
        )
    }
}
