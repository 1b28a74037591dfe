//! Which traces are kept: decided when a message is settled, when all is known about it.
//! Pure: it is told the time.

use std::sync::{Mutex, PoisonError};

use crate::config::TelemetryConfig;
use crate::event::TraceId;
use crate::labels::Decision;
use crate::telemetry::budget::Budget;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// It became a dead letter, or an attempt failed on its way.
    pub(crate) failed: bool,
    pub(crate) redelivered: bool,
    /// From the stream's timestamp to the settlement, in nanoseconds.
    pub(crate) total_nanos: u64,
    /// The producer records its trace.
    pub(crate) upstream: bool,
    pub(crate) trace_id: TraceId,
}

/// Decides which traces are kept, within a budget.
#[derive(Debug)]
pub(crate) struct TailSampler {
    slow_nanos: u64,
    /// One in so many; 0 is none.
    baseline: u32,
    /// Locked only for a message that is worth a trace.
    budget: Mutex<Budget>,
}

impl TailSampler {
    /// The configured rules, with a full budget at `now_nanos`.
    pub(crate) fn new(config: &TelemetryConfig, now_nanos: u64) -> Self {
        Self {
            slow_nanos: u64::try_from(config.trace_slow.as_nanos()).unwrap_or(u64::MAX),
            baseline: config.trace_baseline,
            budget: Mutex::new(Budget::new(config.trace_max_per_second, now_nanos)),
        }
    }

    /// The decision about one message, at `now_nanos`. A kept one is paid for.
    pub(crate) fn decide(&self, facts: &Facts, now_nanos: u64) -> Decision {
        let Some(reason) = self.reason(facts) else {
            return Decision::Unsampled;
        };
        let urgent = matches!(reason, Decision::Failed | Decision::Redelivered);
        // Whoever panicked has left a whole budget behind.
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.take(urgent, now_nanos) {
            reason
        } else {
            Decision::OverBudget
        }
    }

    /// The first reason that applies.
    fn reason(&self, facts: &Facts) -> Option<Decision> {
        if facts.failed {
            Some(Decision::Failed)
        } else if facts.redelivered {
            Some(Decision::Redelivered)
        } else if facts.total_nanos > self.slow_nanos {
            Some(Decision::Slow)
        } else if facts.upstream {
            Some(Decision::Upstream)
        } else if self.is_in_baseline(facts.trace_id) {
            Some(Decision::Baseline)
        } else {
            None
        }
    }

    /// By the id, which is a hash, and not by chance: every replica and every delivery of a
    /// message decides alike.
    fn is_in_baseline(&self, trace_id: TraceId) -> bool {
        let bytes = trace_id.bytes();
        let (_, low) = bytes
            .split_last_chunk()
            .expect("sixteen are eight and eight");
        let hash = u64::from_be_bytes(*low);
        self.baseline != 0 && hash.is_multiple_of(u64::from(self.baseline))
    }
}

pub(crate) fn is_kept(decision: Decision) -> bool {
    !matches!(decision, Decision::OverBudget | Decision::Unsampled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timestamp;

    const SECOND: u64 = 1_000_000_000;
    const SLOW: u64 = 250_000_000;

    fn sampler(baseline: u32, per_second: u32) -> TailSampler {
        TailSampler {
            slow_nanos: SLOW,
            baseline,
            budget: Mutex::new(Budget::new(per_second, 0)),
        }
    }

    fn facts(sequence: u64) -> Facts {
        Facts {
            failed: false,
            redelivered: false,
            total_nanos: 0,
            upstream: false,
            trace_id: TraceId::of_message(None, "S", sequence, Timestamp::from_micros(1)),
        }
    }

    #[test]
    fn the_first_reason_that_applies_is_the_decision() {
        let mut sampler = sampler(1, 100);
        let mut all = Facts {
            failed: true,
            redelivered: true,
            total_nanos: SLOW + 1,
            upstream: true,
            ..facts(1)
        };
        assert_eq!(sampler.decide(&all, 0), Decision::Failed);
        all.failed = false;
        assert_eq!(sampler.decide(&all, 0), Decision::Redelivered);
        all.redelivered = false;
        assert_eq!(sampler.decide(&all, 0), Decision::Slow);
        all.total_nanos = SLOW;
        assert_eq!(sampler.decide(&all, 0), Decision::Upstream);
        all.upstream = false;
        assert_eq!(sampler.decide(&all, 0), Decision::Baseline);
        sampler.baseline = 0;
        assert_eq!(sampler.decide(&all, 0), Decision::Unsampled);
    }

    #[test]
    fn slow_ones_leave_half_of_the_budget_to_failed_and_redelivered_ones() {
        let sampler = sampler(0, 10);
        let slow = Facts {
            total_nanos: SLOW + 1,
            ..facts(1)
        };
        let failed = Facts {
            failed: true,
            ..slow
        };
        let count = |facts: &Facts, now| {
            let kept = |_: &usize| is_kept(sampler.decide(facts, now));
            (0..1_000).filter(kept).count()
        };
        assert_eq!(count(&slow, 0), 5);
        assert_eq!(count(&failed, 0), 5);
        // A steady flood of slow ones has the whole rate while nothing else comes.
        assert_eq!(count(&slow, SECOND), 5);
        assert_eq!(count(&slow, SECOND + SECOND / 10), 1);
        assert_eq!(count(&failed, SECOND + SECOND / 10), 5);
    }

    #[test]
    fn a_budget_of_one_keeps_one_and_of_none_keeps_none() {
        let slow = Facts {
            total_nanos: SLOW + 1,
            ..facts(1)
        };
        let one = sampler(0, 1);
        assert_eq!(one.decide(&slow, 0), Decision::Slow);
        assert_eq!(one.decide(&slow, SECOND / 2), Decision::OverBudget);
        assert_eq!(one.decide(&slow, SECOND), Decision::Slow);
        assert_eq!(sampler(0, 0).decide(&slow, 0), Decision::OverBudget);
    }

    #[test]
    fn the_baseline_is_about_one_in_n_and_the_same_at_every_delivery() {
        let sampler = sampler(50, 1_000_000);
        let kept = |sequence| sampler.decide(&facts(sequence), 0) == Decision::Baseline;
        let count = (0..100_000).filter(|sequence| kept(*sequence)).count();
        assert!((1_700..2_300).contains(&count), "{count}");
        assert!((0..1_000).all(|sequence| kept(sequence) == kept(sequence)));
    }
}
