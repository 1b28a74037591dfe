//! `/debug/slow`: the slowest and the failed messages lately, as JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};

use crate::telemetry::record::now_nanos;
use crate::telemetry::slow::SlowLog;

/// The answer.
pub(super) fn answer(slow: &SlowLog) -> Response {
    Json(slow.lately(now_nanos())).into_response()
}
