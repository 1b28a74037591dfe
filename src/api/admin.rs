//! The admin endpoints: is it alive, is it ready, what does it measure. No token: bind the
//! address where only operators reach it.

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::problem::{self, Problem};
use super::{log_level, runbook, server, slow};
use crate::observe::slow_list::SlowList;
use crate::telemetry::logs::LogFilter;
use crate::telemetry::openmetrics::{self, Format};
use crate::telemetry::{Health, Metrics, runtime};

/// Probes and scrapers are few.
const CONNECTIONS_MAX: usize = 64;

#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Without it nothing is shown of metrics and slow messages.
    pub(crate) has_telemetry: bool,
    pub(crate) slow: SlowList,
    pub(crate) log_filter: LogFilter,
}

/// Serves the admin endpoints until `stop` is cancelled.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    server::serve(listener, router(admin), CONNECTIONS_MAX, stop).await;
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/debug/slow", get(slow::show))
        .route("/runbook", get(runbook::show))
        .route("/log-level", get(log_level::show).put(log_level::change))
        .layer(middleware::from_fn(problem::name_target))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let reasons = admin.health.not_ready_because();
    let (status, word) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let body = json!({ "status": word, "reasons": reasons });
    let headers = [(CONTENT_TYPE, "application/json")];
    (status, headers, format!("{body}\n")).into_response()
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if !admin.has_telemetry {
        return Problem::telemetry_is_off().into_response();
    }
    let accept = headers.get_all(ACCEPT).iter();
    let format = Format::asked_for(accept.filter_map(|value| value.to_str().ok()));
    runtime::export_process(&admin.metrics);
    let text = openmetrics::render(&admin.metrics, format);
    ([(CONTENT_TYPE, format.content_type())], text).into_response()
}
