//! Records each settled message: histograms, `/debug/slow`, and spans if its trace is kept.

pub(crate) mod clock_skew;
pub(crate) mod keeping;
pub mod settled_message;
pub mod slow_list;
pub mod spans;
pub mod stage_times;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use strum::VariantArray as _;

use self::clock_skew::ClockSkew;
use self::keeping::{Facts, TailSampler, is_kept};
use self::settled_message::{SettledBatch, SettledMessage};
use self::slow_list::SlowList;
use self::spans::{MessageSpans, batch_span};
use self::stage_times::{Passed, seconds, skew_nanos};
use crate::config::Config;
use crate::event::Timestamp;
use crate::labels::{Decision, Outcome, Stage};
use crate::message::timings::{Moment, now_nanos};
use crate::message::{BatchTimings, BuriedLetter, CacheWrite, StoredBatch};
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
    skew: Mutex<ClockSkew>,
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
}

/// The stages that each message passes by itself, found by number.
const PASSED_ALONE: [Stage; 3] = [Stage::Stream, Stage::Decode, Stage::Queue];
/// Lines a second about messages that were slow or failed: some to begin with, not all.
const LINES_MAX_PER_SECOND: u32 = 3;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Decisions of one batch, counted together.
#[derive(Default)]
struct Decisions([u64; Decision::VARIANTS.len()]);

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
                skew: Mutex::default(),
                slow,
                spans: MessageSpans::new(&config.nats),
                queue,
                log: RateLimit::new(LINES_MAX_PER_SECOND, Duration::from_secs(1)),
            }),
        }
    }

    /// Exports how far clocks differ. To be called every second, messages or not.
    pub(crate) fn export_skew(&self) {
        let seconds = self.shared.note_skew(0, now_nanos());
        self.shared.metrics.clock_skew.set(seconds);
    }

    /// A batch was acknowledged, just now.
    pub fn batch(&mut self, batch: &StoredBatch, cache: &CacheWrite) {
        let in_batch = SettledBatch::now(batch, cache);
        let failed = in_batch.has_failed();
        let mut decisions = Decisions::default();
        let mut slowest: Option<(SettledMessage<'_>, Decision)> = None;
        for (decoded, outcome) in batch.messages.iter().zip(&batch.outcomes) {
            let message = in_batch.message(decoded, *outcome);
            self.tallies.observe(&message);
            let decision = self.shared.decide(&message, failed, &mut decisions);
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
        self.shared.metrics.count(&decisions);
        self.add_tallies(&in_batch.moment);
        self.observe_batch(&in_batch);
    }

    /// A dead letter was acknowledged, and just now the message that it is of.
    pub(crate) fn letter(&mut self, buried: &BuriedLetter) {
        let moment = Moment::now();
        let message = SettledMessage::of_letter(buried, moment);
        let mut decisions = Decisions::default();
        self.tallies.observe(&message);
        self.add_tallies(&moment);
        if let Some(batch) = message.batch {
            self.observe_stage(Stage::Store, batch.durable - batch.taken, 1);
        }
        if let Some(settle) = message.times.passed().last() {
            self.observe_stage(Stage::Settle, settle.nanos(), 1);
        }
        let decision = self
            .shared
            .decide(&message, message.has_failed(), &mut decisions);
        if !is_kept(decision) {
            self.shared.slow.offer(&message, decision);
        }
        let metrics = &self.shared.metrics;
        metrics.count(&decisions);
        metrics.settled[Outcome::DeadLettered].increment(1);
    }

    fn add_tallies(&mut self, moment: &Moment) {
        self.tallies.add_to(&self.shared.metrics);
        let skew = std::mem::take(&mut self.tallies.skew_nanos);
        if skew > 0 {
            self.shared.note_skew(skew, moment.monotonic());
        }
    }

    fn observe_batch(&self, in_batch: &SettledBatch<'_>) {
        let StoredBatch {
            timings, outcomes, ..
        } = in_batch.batch;
        let (durable, cached) = (timings.durable, in_batch.cache.ended);
        let settled = in_batch.moment.monotonic();
        let count = outcomes.len() as u64;
        self.observe_stage(Stage::Store, durable - timings.taken, count);
        self.observe_stage(Stage::Cache, cached - durable, count);
        self.observe_stage(Stage::Settle, settled - cached, count);
        let is_stored = |outcome: &&Outcome| **outcome == Outcome::Stored;
        let stored = outcomes.iter().filter(is_stored).count() as u64;
        let metrics = &self.shared.metrics;
        metrics.settled[Outcome::Stored].increment(stored);
        metrics.settled[Outcome::Duplicate].increment(count - stored);
    }

    fn observe_stage(&self, stage: Stage, nanos: u64, count: u64) {
        self.shared.metrics.stage_seconds[stage].record_many(seconds(nanos), count);
    }
}

impl ObserverParts {
    fn note_skew(&self, skew_nanos: u64, at: u64) -> f64 {
        // Whoever panicked has left whole numbers behind.
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        skew.note(skew_nanos, at);
        skew.seconds(at)
    }

    fn decide(
        &self,
        message: &SettledMessage<'_>,
        failed: bool,
        decisions: &mut Decisions,
    ) -> Decision {
        let delivery = message.delivery;
        let facts = Facts {
            failed,
            redelivered: delivery.is_redelivered(),
            total_nanos: message.times.total_nanos(),
            upstream: delivery.producer.is_some_and(|producer| producer.sampled),
            trace_id: delivery.trace_id,
        };
        let now = message.moment.monotonic();
        let decision = self.sampler.decide(&facts, now);
        decisions.0[decision as usize] += 1;
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
        let longest = message.times.passed().max_by_key(Passed::nanos);
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
            .map(|batch| span_of_batch(queue, batch, &message.moment));
        let context = batch.as_ref().map(|batch| batch.context());
        queue.offer(Trace {
            spans: self.spans.build(message, reason, context),
            batch,
            exemplars: exemplars(message),
        });
    }
}

/// The batch's span: built for the first of its messages that is kept, the same one for the others.
fn span_of_batch(queue: &SpanQueue, batch: &BatchTimings, moment: &Moment) -> Arc<BatchSpan> {
    let span = batch
        .observed
        .get_or_init(|| Arc::new(queue.batch_span(batch_span(batch, moment))));
    let span = span.clone().downcast();
    span.expect("nothing else is put there")
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

impl Metrics {
    fn count(&self, decisions: &Decisions) {
        for (&decision, count) in Decision::VARIANTS.iter().zip(decisions.0) {
            if count > 0 {
                self.traces[decision].increment(count);
            }
        }
    }
}

impl Tallies {
    fn of(metrics: &Metrics) -> Self {
        Self {
            stages: PASSED_ALONE.map(|stage| metrics.stage_seconds[stage].tally()),
            end_to_end: metrics.end_to_end_seconds.tally(),
            skew_nanos: 0,
        }
    }

    fn observe(&mut self, message: &SettledMessage<'_>) {
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

    fn add_to(&mut self, metrics: &Metrics) {
        for (stage, tally) in PASSED_ALONE.into_iter().zip(&mut self.stages) {
            metrics.stage_seconds[stage].take(tally);
        }
        metrics.end_to_end_seconds.take(&mut self.end_to_end);
    }
}
