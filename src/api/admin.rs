//! The admin endpoints: is it alive, is it ready, what does it measure. No token: bind the
//! address where only operators reach it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::{self, Problem};
use super::server::Limits;
use super::{log_level, runbook, same_host, server, slow};
use crate::observe::slow_list::SlowList;
use crate::telemetry::logs::LogFilter;
use crate::telemetry::openmetrics::{self, Format};
use crate::telemetry::{Health, Metrics, runtime};

/// Probes and scrapers are few, and come back seldom.
const LIMITS: Limits = Limits {
    connections_max: 64,
    client_limit: Duration::from_secs(10),
};
/// Requests at work at the same time, probes apart. Fewer than the connections: the others are
/// free for probes.
const REQUESTS_AT_ONCE: usize = 32;

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
    server::serve(listener, router(admin), LIMITS, stop).await;
}

fn router(admin: Admin) -> Router {
    let permits = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/debug/slow", get(slow::show))
        .route("/runbook", get(runbook::show))
        .route("/log-level", get(log_level::show).put(log_level::change))
        .layer(middleware::from_fn(same_host::pass))
        .layer(middleware::from_fn_with_state(permits, few_at_once))
        // Probes have no limit.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn(problem::name_target))
        .with_state(admin)
}

async fn few_at_once(
    State(permits): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Ok(_permit) = permits.try_acquire() else {
        return Err(Problem::unavailable("too many requests at the same time"));
    };
    Ok(next.run(request).await)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let reasons = admin.health.not_ready_because().into_iter();
    let mut reasons: Vec<String> = reasons.map(str::to_owned).collect();
    reasons.extend(admin.health.database_refusal());
    let (status, word) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let warnings = admin.health.warnings();
    let body = json!({ "status": word, "reasons": reasons, "warnings": warnings });
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
