//! `GET /v1/explain`: what happened to one message, as `ganesh explain` says it.

use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use tokio::time::Instant;

use super::openapi::Problems;
use super::problem::Problem;
use super::{Api, parameters};
use crate::event::Timestamp;
use crate::message::timings::now_nanos;
use crate::observe::explain::{
    self, Explanation, Places, Question, QuestionLimits, question, remembered,
};

/// For one answer of a place, so that all of them have their turn within the time of a read.
const EACH_LIMIT: Duration = Duration::from_millis(1_200);
const WHAT: &str = "a sequence, an event's id, a trace id or a subject";
const SEQUENCE: &str = "a number from 1 on";
const TRACE_ID: &str = "32 hexadecimal digits";
const KINDS: &str = "sequence, id, trace_id or subject";

/// What happened to one message.
///
/// The answer of `ganesh explain --json`. The form of `what` decides: digits are a sequence of the stream, 32
/// hexadecimal digits a trace id. Anything else is an event's id, or else a subject, of which the newest event is
/// explained. With `source` or `time` it is an id in any case. `as` says which it is.
///
/// A place that does not answer is in `not_asked`, and the others tell what they know. 404: every place that could
/// name the message was asked, and none has it.
#[utoipa::path(
    get,
    path = "/v1/explain",
    operation_id = "explain_message",
    params(
        ("what" = String, Query, description = "The message: a sequence, an event's id, a trace id or a subject", min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$"),
        ("as" = Option<String>, Query, description = "How to take `what`: `sequence`, `id`, `trace_id` or `subject`; by its form by default", pattern = "^(sequence|id|trace_id|subject)$"),
        ("source" = Option<String>, Query, description = "The attribute `source` of the event with that id", min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$"),
        ("time" = Option<String>, Query, description = "The attribute `time` of the event with that id", format = DateTime),
    ),
    responses((status = 200, description = "What is known", body = Explanation), Problems)
)]
pub(super) async fn explain(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let [what, kind, source, time] =
        parameters::query(uri.query(), ["what", "as", "source", "time"])?;
    let what = what.ok_or_else(|| {
        Problem::bad_request(format!("what is missing: expected {WHAT}")).about("what", WHAT)
    })?;
    let time = time.map(|time| parameters::time("time", &time));
    let question = read(&what, kind.as_deref(), source, time.transpose()?)?;
    let turn = api.reads.turn("explanation").await;
    let mut turn = turn.map_err(|error| api.read_failed(&error, ""))?;
    let limits = QuestionLimits {
        until: Instant::now() + turn.deadline.left(),
        each: EACH_LIMIT,
    };
    let places = Places {
        config: &api.config,
        // A connection of its own: a search for a letter must not stand in the pipeline's way.
        jetstream: explain::jetstream(&api.config, limits.left()).await,
        postgres: api.reads.fit_pool(),
        time_in_postgres: turn.count_only(),
        remembered: match &api.slow {
            Some(slow) => Ok(remembered::own(&slow.lately(now_nanos()))),
            None => Err("telemetry is off: OTEL_SDK_DISABLED is true".to_owned()),
        },
        limits,
    };
    let explanation = Box::pin(explain::explain(&places, question)).await;
    match refusal(&explanation, limits) {
        Some(problem) => Err(problem),
        None => api.json_response(&explanation),
    }
}

fn read(
    what: &str,
    kind: Option<&str>,
    source: Option<String>,
    time: Option<Timestamp>,
) -> Result<Question, Problem> {
    let of_id = if source.is_some() {
        Some("source")
    } else {
        time.is_some().then_some("time")
    };
    let unfit = |expected| Problem::parameter("what", what, expected);
    let question = match (kind, of_id) {
        (Some("id"), _) | (None, Some(_)) => {
            let id = what.to_owned();
            return Ok(Question::Id { id, source, time });
        }
        (Some("sequence"), _) => Question::Sequence {
            sequence: question::sequence(what).ok_or_else(|| unfit(SEQUENCE))?,
        },
        (Some("trace_id"), _) => Question::TraceId {
            trace_id: question::trace_id(what).ok_or_else(|| unfit(TRACE_ID))?,
        },
        (Some("subject"), _) => Question::Subject {
            subject: what.to_owned(),
        },
        (Some(kind), _) => return Err(Problem::parameter("as", kind, KINDS)),
        (None, None) => Question::of(what),
    };
    if let Some(name) = of_id {
        let detail = format!("{name} belongs to an event's id: expected as=id, or no as");
        return Err(Problem::bad_request(detail).about(name, "as=id, or no as"));
    }
    match question {
        Question::Sequence { sequence: 0 } => Err(unfit(SEQUENCE)),
        question => Ok(question),
    }
}

/// Where nothing is found, or nobody answered.
fn refusal(explanation: &Explanation, limits: QuestionLimits) -> Option<Problem> {
    if explanation.is_not_found() {
        let open = explanation.not_known.join("; ");
        let detail = format!("{}; not known: {open}", explanation.summary);
        return Some(Problem::not_found(detail));
    }
    if explanation.has_answer {
        return None;
    }
    let gaps = explanation.not_asked.iter();
    let gaps: Vec<String> = gaps
        .map(|gap| format!("{}: {}", gap.place.name(), gap.why))
        .collect();
    let detail = format!("no place answered: {}", gaps.join("; "));
    Some(if limits.left().is_zero() {
        Problem::timeout(detail)
    } else {
        Problem::unavailable(detail)
    })
}
