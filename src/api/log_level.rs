//! `/log-level`: which lines are logged. Everybody who reaches the admin address may ask; who
//! changes it, for a while, must be on the same host ([`same_host`](super::same_host)).

use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::admin::Admin;
use super::problem::Problem;
use crate::config::{log_filter, parse_duration, setting_of};
use crate::telemetry::logs::LogFilter;

const LASTING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// Of a request's body.
const BODY_MAX_BYTES: usize = 4 * 1_024;
/// For a request's body to arrive: connections are few.
const BODY_LIMIT: Duration = Duration::from_secs(2);

/// The body of a PUT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LevelChange {
    /// Directives as in `GANESH_LOG`.
    pub(crate) filter: String,
    /// How long it is in force, as `15m`; `GANESH_LOG_LEVEL_FOR`'s default when missing.
    #[serde(rename = "for", default = "default_lasting")]
    pub(crate) lasting: String,
}

fn default_lasting() -> String {
    // A debugging session, not for good.
    setting_of("GANESH_LOG_LEVEL_FOR").default.to_owned()
}

impl LevelChange {
    /// How long it is in force.
    ///
    /// # Errors
    /// What was expected of the filter or the time. Not what was given, which may be a secret.
    pub(crate) fn lasting(&self) -> Result<Duration, String> {
        if !log_filter::is_log_filter(&self.filter) {
            return Err(format!("filter: expected {}", log_filter::EXPECTED));
        }
        parse_duration(&self.lasting)
            .filter(|lasting| (LASTING.0..=LASTING.1).contains(lasting))
            .ok_or_else(|| {
                "for: expected a duration from 1s to 1d, such as 30s, 15m or 2h".to_owned()
            })
    }
}

/// GET: the filter in force, until when, and the configured one.
pub(super) async fn show(State(admin): State<Admin>) -> Response {
    state(&admin.log_filter)
}

/// PUT: another filter, for a while.
pub(super) async fn change(State(admin): State<Admin>, body: Body) -> Result<Response, Problem> {
    let change = read(body).await?;
    let lasting = change.lasting().map_err(Problem::bad_request)?;
    admin.log_filter.change_for(change.filter, lasting);
    Ok(state(&admin.log_filter))
}

async fn read(body: Body) -> Result<LevelChange, Problem> {
    let body = tokio::time::timeout(BODY_LIMIT, body::to_bytes(body, BODY_MAX_BYTES));
    let Ok(Ok(body)) = body.await else {
        let detail = format!("no body of at most {BODY_MAX_BYTES} bytes arrived");
        return Err(Problem::bad_request(detail));
    };
    // Without the parser's words, which can quote the body.
    serde_json::from_slice(&body).map_err(|error| {
        Problem::bad_request(format!(
            "line {}, column {}: expected {{\"filter\": \"ganesh=debug,info\", \"for\": \"{}\"}}",
            error.line(),
            error.column(),
            default_lasting()
        ))
    })
}

fn state(filter: &LogFilter) -> Response {
    let state = serde_json::to_string(&filter.state()).expect("text members always serialize");
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, format!("{state}\n")).into_response()
}
