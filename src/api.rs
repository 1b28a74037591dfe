//! interim
use crate::cache::Cache;
use crate::telemetry::{Health, Metrics};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
#[derive(Clone)]
pub struct ApiState;
pub fn state(
    _c: &crate::config::HttpConfig,
    _p: sqlx::PgPool,
    _cache: Cache,
    _m: Metrics,
) -> ApiState {
    ApiState
}
pub async fn serve(_l: TcpListener, _s: ApiState, stop: CancellationToken) -> std::io::Result<()> {
    stop.cancelled().await;
    Ok(())
}
pub mod admin {
    //! interim
    use super::*;
    #[derive(Clone)]
    pub struct AdminState(metrics_exporter_prometheus::PrometheusHandle, Health);
    pub fn state(r: metrics_exporter_prometheus::PrometheusHandle, h: Health) -> AdminState {
        AdminState(r, h)
    }
    pub async fn serve(
        l: TcpListener,
        s: AdminState,
        _stop: CancellationToken,
    ) -> std::io::Result<()> {
        let r = s.0.clone();
        let h = s.1.clone();
        let app = axum::Router::new()
            .route(
                "/metrics",
                axum::routing::get(move || {
                    let r = r.clone();
                    async move { r.render() }
                }),
            )
            .route(
                "/readyz",
                axum::routing::get(move || {
                    let h = h.clone();
                    async move {
                        if h.not_ready_because().is_empty() {
                            (axum::http::StatusCode::OK, "ok")
                        } else {
                            (axum::http::StatusCode::SERVICE_UNAVAILABLE, "no")
                        }
                    }
                }),
            );
        axum::serve(l, app).await
    }
}
