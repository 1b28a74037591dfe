//! `/debug/slow`: the slowest and the failed messages lately, as JSON.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::admin::Admin;
use super::problem::Problem;
use crate::message::timings::now_nanos;

pub(super) async fn show(State(admin): State<Admin>) -> Response {
    if !admin.has_telemetry {
        return Problem::telemetry_is_off().into_response();
    }
    Json(admin.slow.lately(now_nanos())).into_response()
}
