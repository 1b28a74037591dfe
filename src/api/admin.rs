//! The admin endpoints: is it alive, is it ready, what does it measure. No token: bind the
//! address where only operators reach it.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{log_level, problem, server};
use crate::telemetry::Health;
use crate::telemetry::logs::LogFilter;

/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Probes and scrapers are few.
const CONNECTIONS_MAX: usize = 64;

/// What the admin endpoints answer from.
#[derive(Clone)]
pub struct Admin {
    /// Which dependencies answer.
    pub health: Health,
    /// The recorder of the process.
    pub metrics: PrometheusHandle,
    /// Which lines are logged.
    pub log_filter: LogFilter,
}

/// Serves the admin endpoints until `stop` is cancelled.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    server::serve(listener, router(admin), CONNECTIONS_MAX, stop).await;
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
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

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(CONTENT_TYPE, METRICS_TYPE)], admin.metrics.render()).into_response()
}
