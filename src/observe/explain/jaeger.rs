//! A trace as Jaeger's HTTP API has it (`GET /api/traces/{id}`), and the message in it.

use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::VariantArray as _;
use utoipa::ToSchema;

use crate::config::SecretUrl;
use crate::event::Timestamp;
use crate::labels::Stage;
use crate::telemetry::semconv as name;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// A producer's trace may hold thousands of messages: a larger answer is not read.
const ANSWER_MAX_BYTES: usize = 8 << 20;
const MICROS_PER_MILLI: f64 = 1_000.0;

#[derive(Debug, Deserialize)]
struct TracesAnswer {
    data: Option<Vec<JaegerTrace>>,
}

#[derive(Debug, Deserialize)]
struct JaegerTrace {
    spans: Vec<JaegerSpan>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JaegerSpan {
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<SpanReference>,
    /// Microseconds since the Unix epoch.
    start_time: i64,
    /// Microseconds.
    duration: i64,
    #[serde(default)]
    tags: Vec<SpanTag>,
}

#[derive(Debug, Clone, Deserialize)]
struct SpanReference {
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Debug, Clone, Deserialize)]
struct SpanTag {
    key: String,
    value: Value,
}

/// What a trace says of one message.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct KeptTrace {
    pub(super) keep_reason: String,
    pub(super) outcome: Option<String>,
    pub(super) settled_at: String,
    pub(super) stages: Vec<StageTime>,
    #[serde(skip)]
    pub(super) sequence: Option<u64>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StageTime {
    pub(super) stage: &'static str,
    pub(super) began: String,
    pub(super) milliseconds: f64,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// The spans of a trace; `None` where Jaeger has no such trace.
///
/// # Errors
/// When Jaeger does not answer, or not as it should.
pub(super) async fn spans(
    url: &SecretUrl,
    id: &str,
    limit: Duration,
) -> Result<Option<Vec<JaegerSpan>>, String> {
    let client = reqwest::Client::builder()
        .timeout(limit.min(ANSWER_TIMEOUT))
        .no_proxy()
        .build()
        .map_err(|error| error.to_string())?;
    let address = format!("{}/api/traces/{id}", url.expose().trim_end_matches('/'));
    let silent = |_| format!("{url} does not answer");
    let mut answer = client.get(address).send().await.map_err(silent)?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => return Err(format!("{url} answers with {status}")),
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(silent)? {
        if body.len() + chunk.len() > ANSWER_MAX_BYTES {
            return Err(format!(
                "the trace is larger than {} MiB",
                ANSWER_MAX_BYTES >> 20
            ));
        }
        body.extend_from_slice(&chunk);
    }
    let answer: TracesAnswer = serde_json::from_slice(&body)
        .map_err(|_| format!("{url} answers with something else than a trace of Jaeger"))?;
    let traces = answer.data.unwrap_or_default().into_iter();
    let spans: Vec<JaegerSpan> = traces.flat_map(|trace| trace.spans).collect();
    Ok((!spans.is_empty()).then_some(spans))
}

/// The message of this sequence, or the only one: the last time that it was settled.
pub(super) fn kept(spans: &[JaegerSpan], stream: &str, sequence: Option<u64>) -> Option<KeptTrace> {
    let of_message = spans.iter().filter(|span| {
        let is_asked = sequence.is_none_or(|sequence| span.sequence() == Some(sequence));
        let is_of_stream = span.text(name::STREAM).is_none_or(|of| of == stream);
        span.tag(name::KEEP_REASON).is_some() && is_asked && is_of_stream
    });
    let process = of_message.max_by_key(|span| span.start_time + span.duration)?;
    let stage = |stage: &Stage| {
        let stage = stage.into_str();
        let span = spans.iter().find(|span| {
            let mut parents = span.references.iter();
            span.operation_name == stage && parents.any(|of| of.span_id == process.span_id)
        })?;
        #[allow(clippy::cast_precision_loss, reason = "centuries of microseconds fit")]
        let milliseconds = span.duration as f64 / MICROS_PER_MILLI;
        Some(StageTime {
            stage,
            began: Timestamp::from_micros(span.start_time).to_string(),
            milliseconds,
            error: span.text(name::ERROR_TYPE),
        })
    };
    Some(KeptTrace {
        keep_reason: process.text(name::KEEP_REASON)?,
        outcome: process.text(name::OUTCOME),
        settled_at: Timestamp::from_micros(process.start_time + process.duration).to_string(),
        stages: Stage::VARIANTS.iter().filter_map(stage).collect(),
        sequence: process.sequence(),
    })
}

impl JaegerSpan {
    fn tag(&self, key: &str) -> Option<&Value> {
        let tag = self.tags.iter().find(|tag| tag.key == key);
        tag.map(|tag| &tag.value)
    }

    fn text(&self, key: &str) -> Option<String> {
        let value = self.tag(key)?;
        Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        })
    }

    fn sequence(&self) -> Option<u64> {
        self.text(name::STREAM_SEQUENCE)?.parse().ok()
    }
}
