//! The HTTP API (`/v1`) and, on a listener of its own, the admin endpoints.
//!
//! ```text
//!  connection (bounded) ─▶ span, token, limits ─▶ route ─▶ cache ─▶ Postgres
//!                                        └─ problem details ◀──┘ errors
//! ```

pub(crate) mod admin;
mod answers;
mod cache_status;
mod connections;
mod cursor;
mod documentation;
mod etag;
mod events;
mod explain;
mod filter;
mod guard;
pub(crate) mod log_level;
mod markdown_page;
mod openapi;
mod pages;
mod parameters;
mod problem;
mod runbook;
mod same_host;
mod search;
mod server;
mod slow;
mod stats;
mod subjects;
mod tail;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::CorsLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::cache::Cache;
use crate::config::{Config, HttpConfig};
use crate::error::Error;
use crate::observe::slow_list::SlowList;
use crate::storage::queries::Reads;
use crate::storage::turn::ReadError;
use crate::telemetry::Metrics;
pub(crate) use answers::AnswerMemory;
pub(crate) use events::ENCODED;
use guard::Guard;
use problem::Problem;
use server::Limits;
pub(crate) use tail::Tails;
use tokens::TokensInForce;

/// At the same time. Clients keep them for their next requests.
const CONNECTIONS_MAX: usize = 1_024;

/// A smaller answer fits in one packet as it is. To compress one takes longer than to read it from the cache.
const COMPRESSED_MIN_BYTES: u16 = 1_024;

/// How long a browser may keep the answer to its question whether it may ask.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(1);

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) cache: Cache,
    pub(crate) reads: Reads,
    pub(crate) metrics: Metrics,
    pub(crate) answers: AnswerMemory,
    pub(crate) config: Arc<Config>,
    /// `None` where telemetry is off.
    pub(crate) slow: Option<SlowList>,
    pub(crate) tails: Tails,
}

impl Api {
    /// Counts a failure of a dependency and says it in the caller's terms.
    fn failed(&self, error: &Error) -> Problem {
        self.metrics.dependency_error(error);
        tracing::debug!(%error, "request failed");
        Problem::from(error)
    }

    /// The same of a read whose length the caller chooses; `shorter` says how it takes less time. No turn, or too
    /// little time, is no failure of Postgres.
    fn read_failed(&self, error: &ReadError, shorter: &str) -> Problem {
        match error {
            ReadError::Failed(error) => self.failed(error),
            ReadError::NoTurn => Problem::unavailable(
                "no turn was free for 2 s, as others read, or writes go first while ganesh is behind: try again later",
            ),
            ReadError::TooMuch => {
                let detail = format!("there is too much to look through: {shorter}");
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
        }
    }

    /// JSON that no cache keeps.
    fn json_response(&self, answer: &impl Serialize) -> Result<Response, Problem> {
        let json =
            serde_json::to_vec(answer).expect("names are texts, and nothing fails to serialize");
        let headers = [
            (CONTENT_TYPE, "application/json"),
            (CACHE_CONTROL, "no-store"),
        ];
        Ok((headers, self.answers.body(json.into())?).into_response())
    }

    /// An event in the JSON format of `CloudEvents`; 304 for a client that has it.
    fn event_response(&self, asked: &HeaderMap, event: Bytes) -> Result<Response, Problem> {
        let tag = etag::of(&event);
        // Whoever keeps it asks again each time: a cache on the way knows nothing of what was written since.
        let caching = [
            (ETAG, tag.clone()),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if etag::is_known(asked, &tag) {
            return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
        }
        let content = [(CONTENT_TYPE, "application/cloudevents+json")];
        Ok((caching, content, self.answers.body(event)?).into_response())
    }
}

/// Serves the API until `stop` is cancelled, then lets the running requests end.
pub(crate) fn serve(
    listener: TcpListener,
    api: Api,
    config: &HttpConfig,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let tokens = TokensInForce::new(config.api_tokens.tokens.clone());
    let watch = tokens::watch(config.api_tokens.clone(), tokens.clone(), stop.clone());
    let router = router(api, tokens, &config.cors_origins);
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        client_limit: config.client_timeout,
    };
    async move {
        tokio::join!(server::serve(listener, router, limits, stop), watch);
    }
}

fn router(api: Api, tokens: TokensInForce, cors_origins: &[String]) -> Router {
    let guard = Guard::new(api.metrics.clone(), tokens);
    let (router, document) = OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(search::search))
        .routes(routes!(events::by_id))
        .routes(routes!(tail::tail))
        .routes(routes!(stats::stats))
        .routes(routes!(subjects::list))
        .routes(routes!(subjects::latest))
        .routes(routes!(explain::explain))
        .split_for_parts();
    let document = serde_json::to_value(document).expect("a document is JSON");
    let router = router
        .merge(documentation::routes(&document))
        // The router adds `Allow`.
        .method_not_allowed_fallback(|| async {
            let detail = "only GET and HEAD are answered here";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .fallback(|| async { Problem::not_found("no such route") })
        .layer(middleware::from_fn_with_state(guard, guard::pass))
        .layer(middleware::from_fn(problem::name_target))
        .with_state(api);
    let router = match cors(cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(compression())
}

/// Pages of these origins may read; `None` where there are none.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins = origins.iter().filter_map(|origin| origin.parse().ok());
    let origins: Vec<HeaderValue> = origins.collect();
    let header = HeaderName::from_static;
    let sent = [AUTHORIZATION, IF_NONE_MATCH];
    let named = ["traceparent", "tracestate", "x-request-id", "last-event-id"].map(header);
    let shown = [LINK, ETAG, AGE, RETRY_AFTER];
    let ours = ["cache-status", "x-request-id"].map(header);
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::HEAD])
            .allow_headers([&sent[..], &named[..]].concat())
            .expose_headers([&shown[..], &ours[..]].concat())
            .max_age(PREFLIGHT_MAX_AGE)
    })
}

/// Fast: a page has some MiB, and others share the processor. Streams of events are not: their client would wait.
fn compression() -> CompressionLayer<impl Predicate> {
    let worth_it = SizeAbove::new(COMPRESSED_MIN_BYTES).and(NotForContentType::SSE);
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(worth_it)
}
