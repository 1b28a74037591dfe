//! What a run did: counted exactly, printed for people or for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::latency::Latencies;
use super::messages::Variant;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Messages sent, each once however often it was retried.
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    pub(crate) duplicates_sent: u64,
    /// Published messages that are no events.
    pub(crate) invalid_sent: u64,
    /// Acknowledged events, each once.
    pub(crate) distinct_events: u64,
    /// Acknowledgements that said that the stream held the message already.
    pub(crate) duplicate_acks: u64,
    pub(crate) retries: u64,
    pub(crate) failed: u64,
    /// Messages that the schedule asked for and that were left out.
    pub(crate) missed: u64,
    /// When the last acknowledgement came, since the start of the run.
    pub(crate) last_ack: Duration,
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

#[derive(Debug, Default)]
pub(crate) struct ReadCounts {
    pub(crate) answered: u64,
    /// Answers older than an event that was acknowledged a second before.
    pub(crate) stale: u64,
    /// Reads that were not answered, or not with an event.
    pub(crate) errors: u64,
    /// For how long what an answer did not show had been in the stream.
    pub(crate) staleness: Latencies,
    /// From the time at which a read was due to its answer.
    pub(crate) latencies: Latencies,
}

/// Quantiles of durations, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct QuantilesMs {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

impl QuantilesMs {
    fn of(latencies: &Latencies) -> Self {
        let quantile = |share| milliseconds(latencies.quantile(share));
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: milliseconds(latencies.max()),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// An event of the stream, to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ListedEvent {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    /// The subject; a plain message has none.
    pub(crate) subject: Option<String>,
    pub(crate) trace_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// The seed: given again, the same ids and contents.
    pub(crate) seed: u64,
    /// Messages sent, each once however often it was retried.
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    /// Events that the stream holds, each once: as many rows are to be expected.
    pub(crate) distinct_events: u64,
    /// Messages that repeated an event.
    pub(crate) duplicates_sent: u64,
    /// Messages that are no events: as many dead letters are to be expected.
    pub(crate) invalid_sent: u64,
    /// Acknowledgements that said that the stream held the message already.
    pub(crate) duplicate_acks: u64,
    pub(crate) retries: u64,
    /// Messages given up: the stream may hold them or not.
    pub(crate) failed: u64,
    /// Messages that a signal kept from being waited for: the same doubt.
    pub(crate) unacknowledged: u64,
    /// Messages that the schedule asked for and that were left out, because the run
    /// was too far behind.
    pub(crate) missed: u64,
    /// From the first message to the last acknowledgement.
    pub(crate) seconds: f64,
    pub(crate) rate_per_second: f64,
    /// From the time at which a message was due (at rate 0: was sent) to its
    /// acknowledgement.
    pub(crate) publish_latency_ms: QuantilesMs,
    pub(crate) reads: u64,
    /// Answers older than an event that the service had acknowledged a second before.
    pub(crate) stale_reads: u64,
    pub(crate) read_errors: u64,
    /// From the time at which a read was due to its answer.
    pub(crate) read_latency_ms: QuantilesMs,
    /// For how long what an answer did not show had been in the stream.
    pub(crate) staleness_ms: QuantilesMs,
    pub(crate) max_staleness_ms: f64,
    /// The events, where they are only a few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) events: Vec<ListedEvent>,
}

impl Report {
    pub(crate) fn new(
        seed: u64,
        counts: &Counts,
        publish_latencies: &Latencies,
        reads: &ReadCounts,
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
            published: counts.published,
            acknowledged: counts.acknowledged,
            distinct_events: counts.distinct_events,
            duplicates_sent: counts.duplicates_sent,
            invalid_sent: counts.invalid_sent,
            duplicate_acks: counts.duplicate_acks,
            retries: counts.retries,
            failed: counts.failed,
            unacknowledged: counts.published - counts.acknowledged - counts.failed,
            missed: counts.missed,
            seconds: (seconds * 1e3).round() / 1e3,
            rate_per_second: (rate * 10.0).round() / 10.0,
            publish_latency_ms: QuantilesMs::of(publish_latencies),
            reads: reads.answered,
            stale_reads: reads.stale,
            read_errors: reads.errors,
            read_latency_ms: QuantilesMs::of(&reads.latencies),
            staleness_ms: QuantilesMs::of(&reads.staleness),
            max_staleness_ms: milliseconds(reads.staleness.max()),
            events,
        }
    }
}

impl fmt::Display for QuantilesMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {} ms, p90 {} ms, p99 {} ms, p99.9 {} ms, max {} ms",
            self.p50, self.p90, self.p99, self.p99_9, self.max
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "published        {} messages: {} duplicates, {} invalid (seed {})",
            self.published, self.duplicates_sent, self.invalid_sent, self.seed
        )?;
        writeln!(
            f,
            "acknowledged     {} in {} s: {}/s",
            self.acknowledged, self.seconds, self.rate_per_second
        )?;
        writeln!(f, "distinct events  {}", self.distinct_events)?;
        writeln!(f, "publish latency  {}", self.publish_latency_ms)?;
        writeln!(
            f,
            "retries          {}, duplicate acknowledgements {}",
            self.retries, self.duplicate_acks
        )?;
        write!(
            f,
            "not acknowledged {} failed, {} unacknowledged, {} missed by the schedule",
            self.failed, self.unacknowledged, self.missed
        )?;
        if self.reads + self.read_errors > 0 {
            write!(
                f,
                "\nreads            {}: {} stale, {} errors\nread latency     {}\nstaleness        {}",
                self.reads,
                self.stale_reads,
                self.read_errors,
                self.read_latency_ms,
                self.staleness_ms
            )?;
        }
        Ok(())
    }
}
