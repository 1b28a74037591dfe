//! The HTTP API (`/v1`) and, on a listener of its own, the admin endpoints.
//!
//! ```text
//!  connection (bounded) ─▶ span, token, limits ─▶ route ─▶ cache ─▶ Postgres
//!                                        └─ problem details ◀──┘ errors
//! ```

pub(crate) mod admin;
mod answers;
mod connections;
mod events;
mod guard;
pub(crate) mod log_level;
mod parameters;
mod problem;
mod runbook;
mod same_host;
mod server;
mod slow;
mod subjects;

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::Secret;
use crate::error::Error;
use crate::storage::queries::Reads;
use crate::telemetry::Metrics;
pub(crate) use answers::AnswerMemory;
pub(crate) use events::ENCODED;
use guard::Guard;
use problem::Problem;
use server::Limits;

/// Clients keep connections for their next requests.
const LIMITS: Limits = Limits {
    connections_max: 1_024,
    client_limit: Duration::from_secs(30),
};

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) cache: Cache,
    pub(crate) reads: Reads,
    pub(crate) metrics: Metrics,
    pub(crate) answers: AnswerMemory,
}

impl Api {
    /// Counts a failure of a dependency and says it in the caller's terms.
    fn failed(&self, error: &Error) -> Problem {
        self.metrics.dependency_error(error);
        tracing::debug!(%error, "request failed");
        Problem::from(error)
    }

    /// An event in the JSON format of `CloudEvents`.
    fn event_response(&self, event: Bytes) -> Result<Response, Problem> {
        let headers = [
            (CONTENT_TYPE, "application/cloudevents+json"),
            // A cache on the way knows nothing of what was written since.
            (CACHE_CONTROL, "no-store"),
        ];
        Ok((headers, self.answers.body(event)?).into_response())
    }
}

/// Serves the API until `stop` is cancelled, then lets the running requests end. Asks for
/// `token` where there is one.
pub(crate) async fn serve(
    listener: TcpListener,
    api: Api,
    token: Option<Secret>,
    stop: CancellationToken,
) {
    server::serve(listener, router(api, token), LIMITS, stop).await;
}

fn router(api: Api, token: Option<Secret>) -> Router {
    let guard = Guard::new(api.metrics.clone(), token);
    Router::new()
        .route("/v1/subjects/{subject}/latest", get(subjects::latest))
        .route("/v1/events/{id}", get(events::by_id))
        // The router adds `Allow`.
        .method_not_allowed_fallback(|| async {
            let detail = "only GET and HEAD are answered here";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .fallback(|| async { Problem::not_found("no such route") })
        .layer(middleware::from_fn_with_state(guard, guard::pass))
        .layer(middleware::from_fn(problem::name_target))
        .with_state(api)
}
