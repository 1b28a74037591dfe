//! One settled message, borrowed from what carried it: what its spans and its entry in
//! `/debug/slow` are made of.

use super::batch::BatchRecord;
use super::catalogue::{Outcome, Stage};
use super::record::{Failures, Moment};
use super::stages::StageTimes;
use crate::event::Event;
use crate::messaging::Delivery;

/// Of the words for people that come with an error, in telemetry: what is longer is cut.
pub const DETAIL_MAX_BYTES: usize = 512;

/// A stage that failed.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    /// Which one.
    pub stage: Stage,
    /// The metrics' `code` of the error, or `reason` of the dead letter.
    pub error_type: &'static str,
    /// The words for people, without payloads.
    pub detail: &'a str,
}

/// One settled message.
#[derive(Clone, Copy)]
pub struct Passage<'a> {
    /// The message.
    pub delivery: &'a Delivery,
    /// Its event, if it could be decoded.
    pub event: Option<&'a Event>,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was where.
    pub times: StageTimes,
    /// What converts marks to the times of [`Self::times`].
    pub moment: Moment,
    /// The batch that it was written with, if it came so far.
    pub batch: Option<&'a BatchRecord>,
    /// Failed attempts of the cache stage.
    pub cache_failures: Option<&'a Failures>,
    /// Failed attempts to publish its dead letter.
    pub settle_failures: Option<&'a Failures>,
    /// The stage that failed, if one did.
    pub verdict: Option<Verdict<'a>>,
}

impl Passage<'_> {
    /// Whether it became a dead letter, or an attempt failed on its way.
    pub fn has_failed(&self) -> bool {
        self.verdict.is_some()
            || Stage::ALL
                .into_iter()
                .filter_map(|stage| self.failures(stage))
                .any(|failures| !failures.is_empty())
    }

    /// The failed attempts of a stage in which there can be some.
    pub fn failures(&self, stage: Stage) -> Option<&Failures> {
        match stage {
            Stage::Store => self.batch.map(|batch| &batch.failures),
            Stage::Cache => self.cache_failures,
            Stage::Settle => self.settle_failures,
            Stage::Stream | Stage::Decode | Stage::Batch => None,
        }
    }
}
