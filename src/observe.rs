//! Records each settled message: histograms, `/debug/slow`, and spans if its trace is kept.

pub(crate) mod explain;
pub(crate) mod keeping;
pub mod settled_message;
pub mod slow_list;
pub mod spans;
pub mod stage_times;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strum::VariantArray as _;

use self::keeping::{Facts, TailSampler, is_kept};
use self::settled_message::{SettledBatch, SettledMessage};
use self::slow_list::SlowList;
use self::spans::MessageSpans;
use self::stage_times::{seconds, skew_nanos};
use crate::config::Config;
use crate::event::Timestamp;
use crate::labels::{Decision, Outcome, Stage};
use crate::message::timings::{Moment, now_nanos};
use crate::message::{BatchTimings, CacheWrite, PublishedLetter, StoredBatch};
use crate::telemetry::Metrics;
use crate::telemetry::histogram::{Exemplar, Tally};
use crate::telemetry::logs::RateLimit;
use crate::telemetry::span_queue::{BatchSpan, SpanQueue, Timed, Trace};

/// Observes settled messages. Each task that settles some has one of its own; they share what is
/// kept, and lock it for single messages and once for each batch.
pub struct Observer {
    shared: Arc<ObserverParts>,
    tallies: Tallies,
}

struct ObserverParts {
    metrics: Metrics,
    sampler: TailSampler,
    /// The largest skew since the last second that `skew_by_second` has.
    skew_nanos: AtomicU64,
    skew_by_second: Mutex<[u64; SKEW_SECONDS]>,
    slow: SlowList,
    spans: MessageSpans,
    /// None where traces are not exported: then no span is built.
    queue: Option<SpanQueue>,
    log: RateLimit,
}

/// Observations of a batch's messages, added to the histograms once a batch.
struct Tallies {
    /// By [`PASSED_ALONE`].
    stages: [Tally; PASSED_ALONE.len()],
    end_to_end: Tally,
    /// The largest clock skew.
    skew_nanos: u64,
    decisions: [u64; Decision::VARIANTS.len()],
}

/// The stages that each message passes by itself, found by number.
const PASSED_ALONE: [Stage; 3] = [Stage::Stream, Stage::Decode, Stage::Queue];
/// Lines a second about messages that were slow or failed: some to begin with, not all.
const LINES_MAX_PER_SECOND: u32 = 3;
const NANOS_PER_MILLI: u64 = 1_000_000;
/// The exported clock skew is the largest of so many seconds.
const SKEW_SECONDS: usize = 10;

impl Clone for Observer {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            tallies: Tallies::of(&self.shared.metrics),
        }
    }
}

impl Observer {
    /// An observer that hands kept traces to `queue`, if there is one.
    pub fn new(
        config: &Config,
        metrics: Metrics,
        queue: Option<SpanQueue>,
        slow: SlowList,
    ) -> Self {
        Self {
            tallies: Tallies::of(&metrics),
            shared: Arc::new(ObserverParts {
                metrics,
                sampler: TailSampler::new(&config.telemetry, now_nanos()),
                skew_nanos: AtomicU64::new(0),
                skew_by_second: Mutex::default(),
                slow,
                spans: MessageSpans::new(config),
                queue,
                log: RateLimit::new(LINES_MAX_PER_SECOND, Duration::from_secs(1)),
            }),
        }
    }

    /// Exports how far the clock of the stream's host is ahead of ours. Behind cannot be told from
    /// waiting; ahead shows in messages that seem to arrive before they were stored. To be called every
    /// second, messages or not.
    pub(crate) fn export_skew(&self) {
        let by_second = self.shared.skew_by_second.lock();
        let mut by_second = by_second.expect("nothing panics while it holds this lock");
        by_second.rotate_right(1);
        by_second[0] = self.shared.skew_nanos.swap(0, Ordering::Relaxed);
        let largest = by_second.iter().max().copied().unwrap_or(0);
        self.shared.metrics.clock_skew.set(seconds(largest));
    }

    /// A batch was acknowledged, just now.
    pub fn record_batch(&mut self, batch: &StoredBatch, cache: &CacheWrite) {
        let in_batch = SettledBatch::now(batch, cache);
        let failed = in_batch.has_failed();
        let mut slowest: Option<(SettledMessage<'_>, Decision)> = None;
        for (decoded, outcome) in batch.messages.iter().zip(&batch.outcomes) {
            let message = in_batch.message(decoded, *outcome);
            let decision = self.observe(&message, failed);
            let total = message.times.total_nanos();
            if slowest.is_none_or(|(slowest, _)| slowest.times.total_nanos() < total) {
                slowest = Some((message, decision));
            }
        }
        // Also what no trace is kept of: the slowest one is worth an entry.
        if let Some((message, decision)) = slowest
            && !is_kept(decision)
        {
            self.shared.slow.offer(&message, decision);
        }
        self.tallies.add_to(&self.shared);
        self.observe_batch(&in_batch);
    }

    /// A dead letter was acknowledged, and just now the message that it is of.
    pub(crate) fn record_letter(&mut self, published: &PublishedLetter) {
        let message = SettledMessage::of_letter(published, Moment::now());
        let decision = self.observe(&message, message.has_failed());
        self.tallies.add_to(&self.shared);
        if let Some(batch) = message.batch {
            self.observe_stage(Stage::Store, batch.durable_at - batch.taken_at, 1);
        }
        if let Some(settle) = message.times.passed().last() {
            self.observe_stage(Stage::Settle, settle.nanos(), 1);
        }
        if !is_kept(decision) {
            self.shared.slow.offer(&message, decision);
        }
        self.shared.metrics.settled[Outcome::DeadLettered].increment(1);
    }

    /// Counts a message in the tallies, and keeps its trace or not.
    fn observe(&mut self, message: &SettledMessage<'_>, failed: bool) -> Decision {
        let decision = self.shared.decide(message, failed);
        self.tallies.observe(message, decision);
        decision
    }

    fn observe_batch(&self, in_batch: &SettledBatch<'_>) {
        let StoredBatch {
            timings, outcomes, ..
        } = in_batch.batch;
        let (durable, cached) = (timings.durable_at, in_batch.cache.ended);
        let settled = in_batch.moment.monotonic();
        let count = outcomes.len() as u64;
        self.observe_stage(Stage::Store, durable - timings.taken_at, count);
        self.observe_stage(Stage::Cache, cached - durable, count);
        self.observe_stage(Stage::Settle, settled - cached, count);
        for outcome in [Outcome::Stored, Outcome::Duplicate, Outcome::Skipped] {
            let messages = outcomes.iter().filter(|ended| **ended == outcome);
            self.shared.metrics.settled[outcome].increment(messages.count() as u64);
        }
    }

    fn observe_stage(&self, stage: Stage, nanos: u64, count: u64) {
        self.shared.metrics.stage_seconds[stage].record_many(seconds(nanos), count);
    }
}

impl ObserverParts {
    fn decide(&self, message: &SettledMessage<'_>, failed: bool) -> Decision {
        let delivery = message.delivery;
        let facts = Facts {
            failed,
            redelivered: delivery.is_redelivered(),
            total_nanos: message.times.total_nanos(),
            upstream: delivery.producer.is_some_and(|producer| producer.sampled),
            trace_id: delivery.trace_id,
        };
        let decision = self.sampler.decide(&facts, message.moment.monotonic());
        if is_kept(decision) {
            self.slow.offer(message, decision);
            self.keep(message, decision);
            self.mention(message, decision);
        }
        decision
    }

    /// Logs the trace id of a message that somebody will look for.
    fn mention(&self, message: &SettledMessage<'_>, reason: Decision) {
        if !matches!(reason, Decision::Failed | Decision::Slow) {
            return;
        }
        let Some(suppressed) = self.log.allow() else {
            return;
        };
        let longest = message.times.longest();
        let longest = longest.map_or("", |passed| passed.stage.into_str());
        tracing::info!(
            trace_id = %message.delivery.trace_id,
            stream_seq = message.delivery.stream_sequence,
            keep_reason = reason.into_str(),
            total_ms = message.times.total_nanos() / NANOS_PER_MILLI,
            longest_stage = longest,
            suppressed,
            "a message was slow, or something failed on its way"
        );
    }

    fn keep(&self, message: &SettledMessage<'_>, reason: Decision) {
        let Some(queue) = &self.queue else {
            return;
        };
        let batch = message
            .batch
            .map(|batch| self.span_of_batch(queue, batch, &message.moment));
        let context = batch.as_ref().map(|batch| batch.context());
        queue.offer(Trace {
            spans: self.spans.build(message, reason, context),
            batch,
            exemplars: exemplars(message),
        });
    }

    /// The batch's span: built for the first of its messages that is kept, the same one for the others.
    fn span_of_batch(
        &self,
        queue: &SpanQueue,
        batch: &BatchTimings,
        moment: &Moment,
    ) -> Arc<BatchSpan> {
        let span = batch
            .observed
            .get_or_init(|| Arc::new(queue.batch_span(self.spans.of_batch(batch, moment))));
        let span = span.clone().downcast();
        span.expect("nothing else is put there")
    }
}

/// The exemplars of a message.
fn exemplars(message: &SettledMessage<'_>) -> Vec<(Timed, Exemplar)> {
    let at = Timestamp::from_nanos(i128::from(message.times.ended()));
    let trace_id = message.delivery.trace_id;
    let exemplar = |value| Exemplar {
        trace_id,
        value,
        at,
    };
    let stages = message.times.passed();
    let stages = stages.map(|passed| (Timed::Stage(passed.stage), exemplar(passed.seconds())));
    let end_to_end = end_to_end_seconds(message);
    stages
        .chain(end_to_end.map(|seconds| (Timed::EndToEnd, exemplar(seconds))))
        .collect()
}

/// From the stream's timestamp to the commit, of a message whose row is new.
fn end_to_end_seconds(message: &SettledMessage<'_>) -> Option<f64> {
    (message.outcome == Outcome::Stored)
        .then(|| message.times.seconds_until_end_of(Stage::Store))
        .flatten()
}

impl Tallies {
    fn of(metrics: &Metrics) -> Self {
        Self {
            stages: PASSED_ALONE.map(|stage| metrics.stage_seconds[stage].tally()),
            end_to_end: metrics.end_to_end_seconds.tally(),
            skew_nanos: 0,
            decisions: Default::default(),
        }
    }

    fn observe(&mut self, message: &SettledMessage<'_>, decision: Decision) {
        self.decisions[decision as usize] += 1;
        for passed in message.times.passed() {
            if let Some(tally) = self.stages.get_mut(passed.stage as usize) {
                tally.record(passed.seconds());
            }
        }
        if let Some(seconds) = end_to_end_seconds(message) {
            self.end_to_end.record(seconds);
        }
        let delivery = message.delivery;
        let received = delivery.timings.received_at();
        let skew = skew_nanos(delivery.published_at, received, &message.moment);
        self.skew_nanos = self.skew_nanos.max(skew);
    }

    /// Adds to the histograms and counters, and starts anew.
    fn add_to(&mut self, shared: &ObserverParts) {
        let metrics = &shared.metrics;
        for (stage, tally) in PASSED_ALONE.into_iter().zip(&mut self.stages) {
            metrics.stage_seconds[stage].take(tally);
        }
        metrics.end_to_end_seconds.take(&mut self.end_to_end);
        let skew = std::mem::take(&mut self.skew_nanos);
        shared.skew_nanos.fetch_max(skew, Ordering::Relaxed);
        for (&decision, count) in Decision::VARIANTS.iter().zip(&mut self.decisions) {
            metrics.traces[decision].increment(std::mem::take(count));
        }
    }
}
