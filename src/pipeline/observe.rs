//! What is known of a message when it is settled goes into the histograms, into the decision
//! whether its trace is kept, into `/debug/slow`, and, if it is kept, into spans.

use std::time::Duration;

use strum::VariantArray as _;

use super::dead_letter::{Buried, DeadLetter};
use super::decode::Decoded;
use super::settle::Cached;
use crate::config::Config;
use crate::labels::{Decision, Outcome, Stage};
use crate::telemetry::Metrics;
use crate::telemetry::batch::BatchRecord;
use crate::telemetry::histogram::Tally;
use crate::telemetry::keep::{Facts, TailSampler, is_kept};
use crate::telemetry::logs::RateLimit;
use crate::telemetry::passage::{Passage, Verdict};
use crate::telemetry::record::{Moment, now_nanos};
use crate::telemetry::skew::Skew;
use crate::telemetry::slow::SlowLog;
use crate::telemetry::span_queue::{Observed, SpanQueue, Trace};
use crate::telemetry::spans::{MessageSpans, batch_span};
use crate::telemetry::stages::{Marks, Passed, StageTimes, seconds, skew_nanos};

/// Observes settled messages. One task has it. The one lock that others hold too is that of the
/// lists of `/debug/slow`, while they are copied for an answer.
pub struct Observer {
    metrics: Metrics,
    tallies: Tallies,
    sampler: TailSampler,
    skew: Skew,
    slow: SlowLog,
    spans: MessageSpans,
    /// None where traces are not exported: then no span is built.
    queue: Option<SpanQueue>,
    log: RateLimit,
}

/// What each message of a batch is observed in, counted here first and added up once a batch.
struct Tallies {
    /// By [`PASSED_ALONE`].
    stages: [Tally; PASSED_ALONE.len()],
    end_to_end: Tally,
}

/// The stages that each message passes by itself.
const PASSED_ALONE: [Stage; 3] = {
    let first = [Stage::Stream, Stage::Decode, Stage::Batch];
    // They are found by number.
    assert!(matches!(
        Stage::VARIANTS,
        [Stage::Stream, Stage::Decode, Stage::Batch, ..]
    ));
    first
};
/// Lines a second about messages that were slow or failed: some to begin with, not all.
const LINES_MAX_PER_SECOND: u32 = 3;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Decisions of one batch, counted together.
#[derive(Default)]
struct Decisions([u64; Decision::VARIANTS.len()]);

/// What the messages of one batch have in common.
struct InBatch<'a> {
    cached: &'a Cached,
    moment: Moment,
    verdict: Option<Verdict<'a>>,
}

impl Observer {
    /// An observer that hands kept traces to `queue`, if there is one.
    pub fn new(config: &Config, metrics: Metrics, queue: Option<SpanQueue>, slow: SlowLog) -> Self {
        Self {
            tallies: Tallies {
                stages: PASSED_ALONE.map(|stage| metrics.stage_seconds(stage).tally()),
                end_to_end: metrics.end_to_end_seconds.tally(),
            },
            metrics,
            sampler: TailSampler::new(&config.telemetry, now_nanos()),
            skew: Skew::default(),
            slow,
            spans: MessageSpans::new(&config.nats),
            queue,
            log: RateLimit::new(LINES_MAX_PER_SECOND, Duration::from_secs(1)),
        }
    }

    /// Time passes.
    pub fn tick(&mut self) {
        let skew = self.skew.seconds(now_nanos());
        self.metrics.clock_skew.set(skew);
    }

    /// A batch was acknowledged, just now.
    pub fn rows(&mut self, cached: &Cached) {
        let in_batch = InBatch {
            cached,
            moment: Moment::now(),
            verdict: cached.done_without.as_ref().map(|error| Verdict {
                stage: Stage::Cache,
                error_type: error.code.into_str(),
                detail: &error.detail,
            }),
        };
        let committed = &cached.committed;
        let failed = in_batch.has_failed();
        let mut decisions = Decisions::default();
        let mut slowest: Option<(Passage<'_>, Decision)> = None;
        for (decoded, outcome) in committed.messages.iter().zip(&committed.outcomes) {
            let passage = in_batch.passage(decoded, *outcome);
            self.observe(&passage);
            let decision = self.decide(&passage, failed, &mut decisions);
            let total = passage.times.total_nanos();
            if slowest.is_none_or(|(slowest, _)| slowest.times.total_nanos() < total) {
                slowest = Some((passage, decision));
            }
        }
        // Also what no trace is kept of: the slowest one is worth an entry.
        if let Some((passage, decision)) = slowest
            && !is_kept(decision)
        {
            self.slow.offer(&passage, decision);
        }
        self.metrics.count(&decisions);
        self.tallies.add_to(&self.metrics);
        self.observe_batch(&in_batch);
    }

    /// A dead letter was acknowledged, and just now the message that it is of.
    pub fn letter(&mut self, buried: &Buried) {
        let moment = Moment::now();
        let passage = passage_of_letter(buried, moment);
        let mut decisions = Decisions::default();
        self.observe(&passage);
        self.tallies.add_to(&self.metrics);
        if let Some(batch) = passage.batch {
            self.observe_stage(Stage::Store, batch.durable - batch.closed, 1);
        }
        let settle = passage.times.passed().last();
        if let Some(settle) = settle {
            self.metrics
                .stage_seconds(Stage::Settle)
                .record(settle.seconds());
        }
        let decision = self.decide(&passage, passage.has_failed(), &mut decisions);
        if !is_kept(decision) {
            self.slow.offer(&passage, decision);
        }
        self.metrics.count(&decisions);
        self.metrics.settled(Outcome::DeadLettered).increment(1);
    }

    fn observe(&mut self, passage: &Passage<'_>) {
        for passed in passage.times.passed() {
            // The stages come in the order of the tallies.
            if let Some(tally) = self.tallies.stages.get_mut(passed.stage as usize) {
                tally.record(passed.seconds());
            }
        }
        if passage.outcome == Outcome::Stored
            && let Some(seconds) = passage.times.seconds_until_end_of(Stage::Store)
        {
            self.tallies.end_to_end.record(seconds);
        }
        let delivery = passage.delivery;
        let received = delivery.record.received_at();
        let skew = skew_nanos(delivery.published_at, received, &passage.moment);
        if skew > 0 {
            self.skew.note(skew, passage.moment.monotonic());
        }
    }

    /// The stages that the messages of a batch pass together.
    fn observe_batch(&self, in_batch: &InBatch<'_>) {
        let committed = &in_batch.cached.committed;
        let record = &committed.record;
        let (durable, cached_at) = (record.durable, in_batch.cached.cached_at);
        let settled_at = in_batch.moment.monotonic();
        let count = committed.messages.len() as u64;
        self.observe_stage(Stage::Store, durable - record.closed, count);
        self.observe_stage(Stage::Cache, cached_at - durable, count);
        self.observe_stage(Stage::Settle, settled_at - cached_at, count);
        let stored = committed
            .outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Stored)
            .count() as u64;
        self.metrics.settled(Outcome::Stored).increment(stored);
        self.metrics
            .settled(Outcome::Duplicate)
            .increment(count - stored);
    }

    fn observe_stage(&self, stage: Stage, nanos: u64, count: u64) {
        self.metrics
            .stage_seconds(stage)
            .record_many(seconds(nanos), count);
    }

    /// Decides whether the trace is kept, and keeps it.
    fn decide(
        &mut self,
        passage: &Passage<'_>,
        failed: bool,
        decisions: &mut Decisions,
    ) -> Decision {
        let delivery = passage.delivery;
        let facts = Facts {
            failed,
            redelivered: delivery.is_redelivered(),
            total_nanos: passage.times.total_nanos(),
            upstream: delivery.producer.is_some_and(|producer| producer.sampled),
            trace_id: delivery.trace_id,
        };
        let now = passage.moment.monotonic();
        let decision = self.sampler.decide(&facts, now);
        decisions.0[decision as usize] += 1;
        if is_kept(decision) {
            self.slow.offer(passage, decision);
            self.keep(passage, decision);
            self.mention(passage, decision);
        }
        decision
    }

    /// The way from the log to the trace, for those that somebody will look for.
    fn mention(&self, passage: &Passage<'_>, reason: Decision) {
        if !matches!(reason, Decision::Failed | Decision::Slow) {
            return;
        }
        let Some(suppressed) = self.log.allow() else {
            return;
        };
        let longest = passage.times.passed().max_by_key(Passed::nanos);
        let longest = longest.map_or("", |passed| passed.stage.into_str());
        tracing::info!(
            trace_id = %passage.delivery.trace_id,
            stream_seq = passage.delivery.stream_sequence,
            keep_reason = reason.into_str(),
            total_ms = passage.times.total_nanos() / NANOS_PER_MILLI,
            longest_stage = longest,
            suppressed,
            "a message was slow, or something failed on its way"
        );
    }

    /// Builds the trace of a message and hands it in, with the span of its batch.
    fn keep(&self, passage: &Passage<'_>, reason: Decision) {
        let Some(queue) = &self.queue else {
            return;
        };
        let batch = passage
            .batch
            .map(|record| record.span(|| queue.batch_span(batch_span(record, &passage.moment))));
        let context = batch.as_ref().map(|batch| batch.context());
        queue.offer(Trace {
            spans: self.spans.build(passage, reason, context),
            batch,
            observed: Some(Observed {
                trace_id: passage.delivery.trace_id,
                times: passage.times,
                outcome: passage.outcome,
            }),
        });
    }
}

impl Metrics {
    fn count(&self, decisions: &Decisions) {
        for (&decision, count) in Decision::VARIANTS.iter().zip(decisions.0) {
            if count > 0 {
                self.traces(decision).increment(count);
            }
        }
    }
}

impl Tallies {
    fn add_to(&mut self, metrics: &Metrics) {
        for (stage, tally) in PASSED_ALONE.into_iter().zip(&mut self.stages) {
            metrics.stage_seconds(stage).take(tally);
        }
        metrics.end_to_end_seconds.take(&mut self.end_to_end);
    }
}

impl InBatch<'_> {
    /// Whether an attempt failed on the way that its messages share.
    fn has_failed(&self) -> bool {
        let batch = &self.cached.committed.record;
        self.verdict.is_some() || !(batch.failures.is_empty() && self.cached.failures.is_empty())
    }

    fn passage<'a>(&'a self, decoded: &'a Decoded, outcome: Outcome) -> Passage<'a> {
        let batch: &BatchRecord = &self.cached.committed.record;
        let delivery = &decoded.delivery;
        let marks: Marks = [
            delivery.record.taken_at(),
            delivery.record.decoded_at(),
            batch.closed,
            batch.durable,
            self.cached.cached_at,
            self.moment.monotonic(),
        ];
        Passage {
            delivery,
            event: Some(&decoded.event),
            outcome,
            times: StageTimes::new(delivery.published_at, &marks, &self.moment),
            moment: self.moment,
            batch: Some(batch),
            cache_failures: Some(&self.cached.failures),
            settle_failures: None,
            verdict: self.verdict,
        }
    }
}

/// A dead letter came from decode, or from store.
fn passage_of_letter(buried: &Buried, moment: Moment) -> Passage<'_> {
    let DeadLetter {
        delivery,
        reason,
        detail,
        event,
        batch,
    } = &buried.letter;
    let batch = batch.as_deref();
    let marks: Marks = [
        delivery.record.taken_at(),
        delivery.record.decoded_at(),
        batch.map_or(0, |batch| batch.closed),
        batch.map_or(0, |batch| batch.durable),
        0,
        moment.monotonic(),
    ];
    let stage = if batch.is_some() {
        Stage::Store
    } else {
        Stage::Decode
    };
    Passage {
        delivery,
        event: event.as_ref(),
        outcome: Outcome::DeadLettered,
        times: StageTimes::new(delivery.published_at, &marks, &moment),
        moment,
        batch,
        cache_failures: None,
        settle_failures: Some(&buried.failures),
        verdict: Some(Verdict {
            stage,
            error_type: reason.into_str(),
            detail,
        }),
    }
}
