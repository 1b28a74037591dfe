//! One settled message, borrowed from what carried it: what its spans and its entry in
//! `/debug/slow` are made of.

use super::stage_times::Marks;
use super::stage_times::StageTimes;
use crate::event::Event;
use crate::labels::{Outcome, Stage};
use crate::message::timings::{Failures, Moment};
use crate::message::{
    BatchTimings, CacheWrite, DeadLetter, Decoded, Delivery, PublishedLetter, StoredBatch,
};
use strum::VariantArray as _;

/// A stage that failed.
#[derive(Debug, Clone, Copy)]
pub struct StageFailure<'a> {
    pub(crate) stage: Stage,
    /// The metrics' `code` of the error, or `reason` of the dead letter.
    pub(crate) error_type: &'static str,
    /// No payload.
    pub(crate) detail: &'a str,
}

/// One settled message.
#[derive(Clone, Copy)]
pub struct SettledMessage<'a> {
    /// The message.
    pub delivery: &'a Delivery,
    /// Its event, if it could be decoded.
    pub event: Option<&'a Event>,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was where.
    pub times: StageTimes,
    /// Converts the marks of [`Self::times`].
    pub moment: Moment,
    /// The batch that it was written with, if it came so far.
    pub batch: Option<&'a BatchTimings>,
    /// Failed attempts of the cache stage.
    pub cache_failures: Option<&'a Failures>,
    /// Failed attempts to publish its dead letter.
    pub settle_failures: Option<&'a Failures>,
    /// The stage that failed, if one did.
    pub failure: Option<StageFailure<'a>>,
}

impl SettledMessage<'_> {
    /// Returns whether it became a dead letter, or an attempt failed on its way.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
            || Stage::VARIANTS
                .iter()
                .filter_map(|stage| self.failures(*stage))
                .any(|failures| !failures.is_empty())
    }

    pub(crate) fn failures(&self, stage: Stage) -> Option<&Failures> {
        match stage {
            Stage::Store => self.batch.map(|batch| &batch.failures),
            Stage::Cache => self.cache_failures,
            Stage::Settle => self.settle_failures,
            Stage::Stream | Stage::Decode | Stage::Queue => None,
        }
    }
}

/// The parts that all messages of a batch share.
pub(crate) struct SettledBatch<'a> {
    pub(crate) batch: &'a StoredBatch,
    pub(crate) cache: &'a CacheWrite,
    pub(crate) moment: Moment,
    pub(crate) failure: Option<StageFailure<'a>>,
}

impl<'a> SettledBatch<'a> {
    /// A batch that was acknowledged just now.
    pub(crate) fn now(batch: &'a StoredBatch, cache: &'a CacheWrite) -> Self {
        Self {
            batch,
            cache,
            moment: Moment::now(),
            failure: cache.cache_error.as_ref().map(|error| StageFailure {
                stage: Stage::Cache,
                error_type: error.code.into_str(),
                detail: &error.detail,
            }),
        }
    }

    /// Returns whether an attempt failed on the way that its messages share.
    pub(crate) fn has_failed(&self) -> bool {
        let (store, cache) = (&self.batch.timings.failures, &self.cache.failures);
        self.failure.is_some() || !(store.is_empty() && cache.is_empty())
    }

    pub(crate) fn message(&'a self, decoded: &'a Decoded, outcome: Outcome) -> SettledMessage<'a> {
        let batch: &BatchTimings = &self.batch.timings;
        let delivery = &decoded.delivery;
        let marks: Marks = [
            delivery.timings.decode_began_at(),
            delivery.timings.decoded_at(),
            batch.taken_at,
            batch.durable_at,
            self.cache.ended,
            self.moment.monotonic(),
        ];
        SettledMessage {
            delivery,
            event: Some(&decoded.event),
            outcome,
            times: StageTimes::new(delivery.published_at, &marks, &self.moment),
            moment: self.moment,
            batch: Some(batch),
            cache_failures: Some(&self.cache.failures),
            settle_failures: None,
            failure: self.failure,
        }
    }
}

impl<'a> SettledMessage<'a> {
    /// The message of a letter that was acknowledged at this moment. It came from decode, or from store.
    pub(crate) fn of_letter(published: &'a PublishedLetter, moment: Moment) -> Self {
        let DeadLetter {
            delivery,
            reason,
            detail,
            event,
            batch,
        } = &published.letter;
        let batch = batch.as_deref();
        let marks: Marks = [
            delivery.timings.decode_began_at(),
            delivery.timings.decoded_at(),
            batch.map_or(0, |batch| batch.taken_at),
            batch.map_or(0, |batch| batch.durable_at),
            0,
            moment.monotonic(),
        ];
        let stage = if batch.is_some() {
            Stage::Store
        } else {
            Stage::Decode
        };
        SettledMessage {
            delivery,
            event: event.as_ref(),
            outcome: Outcome::DeadLettered,
            times: StageTimes::new(delivery.published_at, &marks, &moment),
            moment,
            batch,
            cache_failures: None,
            settle_failures: Some(&published.failures),
            failure: Some(StageFailure {
                stage,
                error_type: reason.into_str(),
                detail,
            }),
        }
    }
}
