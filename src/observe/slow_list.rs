//! The slowest and the failed messages lately, for `/debug/slow`: what becomes traces, to be
//! read where no trace store runs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use strum::VariantArray as _;

use serde::{Serialize, Serializer};

use super::settled_message::SettledMessage;
use super::stage_times::{StageTimes, seconds};
use crate::event::Timestamp;
use crate::labels::{Decision, Stage};
use crate::message::timings::DETAIL_MAX_BYTES;
use crate::text::cut;

/// Of each longest stage: what waits behind a slow stage is many messages, and would push out the few that name it.
const SLOWEST_OF_STAGE_MAX: usize = 20;
const FAILED_MAX: usize = 50;
/// The slowest ones are those of this window and of the one before.
pub(crate) const WINDOW_NANOS: u64 = 300_000_000_000;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct SlowMessage {
    trace_id: String,
    decision: &'static str,
    outcome: &'static str,
    settled_at: String,
    /// From the stream's timestamp to the settlement.
    total_ms: f64,
    #[serde(rename = "stages_ms", serialize_with = "serialize_stages")]
    times: StageTimes,
    subject: String,
    stream_sequence: u64,
    deliveries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    failed_attempts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<StageError>,
}

#[derive(Debug, Clone, Serialize)]
struct StageError {
    stage: &'static str,
    #[serde(rename = "type")]
    error_type: &'static str,
    detail: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Lately {
    slowest: Vec<SlowMessage>,
    failed: Vec<SlowMessage>,
}

/// The lists. Cloning clones an `Arc`.
#[derive(Debug, Clone, Default)]
pub struct SlowList(Arc<Mutex<Lists>>);

/// Each list is sorted, the slowest first.
type ByLongestStage = [Vec<SlowMessage>; Stage::VARIANTS.len()];

#[derive(Debug, Default)]
struct Lists {
    /// Number of the window that `slowest` is of.
    window: u64,
    slowest: ByLongestStage,
    slowest_before: ByLongestStage,
    /// The newest last.
    failed: VecDeque<SlowMessage>,
}

impl SlowList {
    pub(crate) fn offer(&self, message: &SettledMessage<'_>, decision: Decision) {
        let failed = message.has_failed();
        let window = message.moment.monotonic() / WINDOW_NANOS;
        let longest = message.times.longest();
        let stage = longest.map_or(Stage::Stream, |longest| longest.stage);
        let threshold = self.state_of(window).threshold_nanos(stage);
        if !failed && message.times.total_nanos() <= threshold {
            return;
        }
        // Not under the lock. When another task offers meanwhile, the slowest are sorted and cut all
        // the same.
        let entry = SlowMessage::of(message, decision);
        let mut lists = self.state_of(window);
        if failed {
            if lists.failed.len() == FAILED_MAX {
                lists.failed.pop_front();
            }
            lists.failed.push_back(entry.clone());
        }
        lists.insert(stage, entry);
    }

    /// The lists at `now_nanos` on the monotonic clock: the slowest first, and the newest failed
    /// first.
    pub(crate) fn lately(&self, now_nanos: u64) -> Lately {
        let state = self.state_of(now_nanos / WINDOW_NANOS);
        let mut slowest: Vec<SlowMessage> = state
            .slowest
            .iter()
            .zip(&state.slowest_before)
            .flat_map(|(now, before)| slowest_of(now.iter().chain(before)))
            .cloned()
            .collect();
        slowest.sort_by_key(|entry| std::cmp::Reverse(entry.total_nanos()));
        Lately {
            slowest,
            failed: state.failed.iter().rev().cloned().collect(),
        }
    }

    /// The lists, after the windows were moved on.
    fn state_of(&self, window: u64) -> MutexGuard<'_, Lists> {
        let state = self.0.lock();
        let mut state = state.expect("nothing panics while it holds this lock");
        if window > state.window {
            let slowest = std::mem::take(&mut state.slowest);
            state.slowest_before = if window == state.window + 1 {
                slowest
            } else {
                ByLongestStage::default()
            };
            state.window = window;
        }
        state
    }
}

impl Lists {
    /// The total that a message must exceed to be among the slowest of its longest stage.
    fn threshold_nanos(&self, longest: Stage) -> u64 {
        let last = self.slowest[longest as usize].get(SLOWEST_OF_STAGE_MAX - 1);
        last.map_or(0, SlowMessage::total_nanos)
    }

    fn insert(&mut self, longest: Stage, entry: SlowMessage) {
        let slowest = &mut self.slowest[longest as usize];
        let place = slowest.partition_point(|other| other.total_nanos() >= entry.total_nanos());
        slowest.insert(place, entry);
        slowest.truncate(SLOWEST_OF_STAGE_MAX);
    }
}

fn slowest_of<'a>(entries: impl Iterator<Item = &'a SlowMessage>) -> Vec<&'a SlowMessage> {
    let mut entries: Vec<&SlowMessage> = entries.collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.total_nanos()));
    entries.truncate(SLOWEST_OF_STAGE_MAX);
    entries
}

impl SlowMessage {
    fn of(message: &SettledMessage<'_>, decision: Decision) -> Self {
        let delivery = message.delivery;
        let settled_at = Timestamp::from_nanos(i128::from(message.times.ended()));
        let failed_attempts = Stage::VARIANTS
            .iter()
            .filter_map(|stage| message.failures(*stage))
            .map(|failures| failures.kept().len() + failures.left_out() as usize)
            .sum();
        Self {
            trace_id: delivery.trace_id.to_string(),
            decision: decision.into_str(),
            outcome: message.outcome.into_str(),
            settled_at: settled_at.to_string(),
            total_ms: millis(message.times.total_nanos()),
            times: message.times,
            subject: delivery.message.subject.to_string(),
            stream_sequence: delivery.stream_sequence,
            deliveries: delivery.delivered,
            event_id: message.event.map(|event| event.id.clone()),
            failed_attempts,
            error: message.failure.map(|failure| StageError {
                stage: failure.stage.into_str(),
                error_type: failure.error_type,
                detail: cut(failure.detail, DETAIL_MAX_BYTES).to_owned(),
            }),
        }
    }

    fn total_nanos(&self) -> u64 {
        self.times.total_nanos()
    }
}

/// Milliseconds in each stage that the message passed, in flow order. They add up to the total.
fn serialize_stages<S: Serializer>(times: &StageTimes, serializer: S) -> Result<S::Ok, S::Error> {
    let stages = times.passed();
    serializer.collect_map(stages.map(|passed| (passed.stage.into_str(), millis(passed.nanos()))))
}

fn millis(nanos: u64) -> f64 {
    seconds(nanos) * 1e3
}
