//! Which traces of `tracing` are recorded: requests, start-up, maintenance. Callers choose
//! theirs, so they have a budget: they must not fill the queue that messages share.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

use super::budget::Budget;
use crate::message::timings::now_nanos;

/// Traces that begin here in a second, or that a caller's goes on in.
pub(crate) const ROOTS_MAX_PER_SECOND: u32 = 20;

/// The caller's flag decides, without a caller one in so many; within the budget.
#[derive(Debug, Clone)]
pub(crate) struct RootSampler {
    rule: Sampler,
    budget: Arc<Mutex<Budget>>,
}

impl RootSampler {
    pub(crate) fn new(baseline: u32) -> Self {
        let alone = match baseline {
            0 => Sampler::AlwaysOff,
            n => Sampler::TraceIdRatioBased(1.0 / f64::from(n)),
        };
        Self {
            rule: Sampler::ParentBased(Box::new(alone)),
            budget: Arc::new(Mutex::new(Budget::new(ROOTS_MAX_PER_SECOND, now_nanos()))),
        }
    }

    fn is_paid_for(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.take(true, now_nanos())
    }
}

impl ShouldSample for RootSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self
            .rule
            .should_sample(parent, trace_id, name, kind, attributes, links);
        let records = result.decision == SamplingDecision::RecordAndSample;
        if records && !self.is_paid_for() {
            result.decision = SamplingDecision::Drop;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceState};

    use super::*;

    #[test]
    fn callers_who_sample_everything_get_the_budget_and_no_more() {
        let sampler = RootSampler::new(0);
        let id = TraceId::from_bytes([1; 16]);
        let caller = SpanContext::new(
            id,
            SpanId::from_bytes([2; 8]),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        let caller = Context::new().with_remote_span_context(caller);
        let records = |_: &u32| {
            let kind = SpanKind::Server;
            let result = sampler.should_sample(Some(&caller), id, "GET", &kind, &[], &[]);
            result.decision == SamplingDecision::RecordAndSample
        };
        let recorded = (0..10_000).filter(records).count();
        let budget = ROOTS_MAX_PER_SECOND as usize;
        // A second or two may pass meanwhile, on a machine that is busy.
        assert!((budget..=3 * budget).contains(&recorded), "{recorded}");
    }
}
