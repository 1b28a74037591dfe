//! What a replica remembers of a message, as its `/debug/slow` tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strum::VariantArray as _;
use utoipa::ToSchema;

use crate::labels::Stage;
use crate::observe::slow_list::Lately;

/// The lists of `/debug/slow`.
#[derive(Debug, Deserialize)]
struct RememberedLists {
    slowest: Vec<RememberedMessage>,
    failed: Vec<RememberedMessage>,
}

/// One message, as it was settled.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RememberedMessage {
    pub(super) trace_id: String,
    pub(super) stream_sequence: u64,
    pub(super) decision: String,
    pub(super) outcome: String,
    pub(super) settled_at: String,
    pub(super) total_ms: f64,
    stages_ms: BTreeMap<String, f64>,
    deliveries: u64,
    failed_attempts: u64,
    error: Option<RememberedError>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(super) struct RememberedError {
    pub(super) stage: String,
    #[serde(rename = "type")]
    pub(super) error_type: String,
    pub(super) detail: String,
}

/// What the replica that was asked remembers of the message.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RememberedSays {
    outcome: String,
    /// Whether its trace was kept, and why.
    decision: String,
    settled_at: String,
    /// From the stream's timestamp to the settlement.
    total_ms: f64,
    stages: Vec<RememberedStage>,
    deliveries: u64,
    failed_attempts: u64,
    error: Option<RememberedError>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct RememberedStage {
    stage: &'static str,
    milliseconds: f64,
}

/// The messages that an answer of `/debug/slow` names.
///
/// # Errors
/// When it is something else.
pub(crate) fn read(answer: &str) -> Result<Vec<RememberedMessage>, serde_json::Error> {
    serde_json::from_str(answer).map(RememberedLists::into_messages)
}

/// Those that this process remembers.
pub(crate) fn own(lately: &Lately) -> Vec<RememberedMessage> {
    let lists = serde_json::to_value(lately).and_then(serde_json::from_value::<RememberedLists>);
    lists
        .expect("what is written is what is read")
        .into_messages()
}

impl RememberedLists {
    fn into_messages(self) -> Vec<RememberedMessage> {
        let Self { slowest, failed } = self;
        slowest.into_iter().chain(failed).collect()
    }
}

/// The last time that the message was settled. By its sequence, and by its trace, where these are known: a stream
/// that was made anew has other messages of the same sequences.
pub(super) fn last<'a>(
    messages: &'a [RememberedMessage],
    sequence: Option<u64>,
    trace_id: Option<&str>,
) -> Option<&'a RememberedMessage> {
    if sequence.is_none() && trace_id.is_none() {
        return None;
    }
    let is_asked = |message: &&RememberedMessage| {
        sequence.is_none_or(|sequence| message.stream_sequence == sequence)
            && trace_id.is_none_or(|id| message.trace_id == id)
    };
    let of_message = messages.iter().filter(is_asked);
    // RFC 3339 in one form: the order of the texts is that of the times.
    of_message.max_by(|one, other| one.settled_at.cmp(&other.settled_at))
}

impl RememberedMessage {
    /// In flow order.
    fn stages(&self) -> impl Iterator<Item = RememberedStage> {
        Stage::VARIANTS.iter().filter_map(|stage| {
            let stage = stage.into_str();
            let milliseconds = *self.stages_ms.get(stage)?;
            Some(RememberedStage {
                stage,
                milliseconds,
            })
        })
    }

    /// As the answer has it.
    pub(super) fn says(&self) -> RememberedSays {
        RememberedSays {
            outcome: self.outcome.clone(),
            decision: self.decision.clone(),
            settled_at: self.settled_at.clone(),
            total_ms: self.total_ms,
            stages: self.stages().collect(),
            deliveries: self.deliveries,
            failed_attempts: self.failed_attempts,
            error: self.error.clone(),
        }
    }

    /// In one sentence.
    pub(super) fn in_words(&self) -> String {
        let stages = self.stages();
        let stages = stages.map(|of| format!("{} {:.3} ms", of.stage, of.milliseconds));
        let stages: Vec<String> = stages.collect();
        let failed = self.error.as_ref().map_or(String::new(), |error| {
            format!("; {} failed: {}", error.stage, error.error_type)
        });
        format!(
            "settled it as {} after {:.3} ms: {}{failed}",
            self.outcome,
            self.total_ms,
            stages.join(", ")
        )
    }
}
