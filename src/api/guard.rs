//! What every request of the API passes through: a span, a time, and limits before the work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::Status;
use tokio::sync::Semaphore;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::problem::Problem;
use super::tokens::TokensInForce;
use crate::labels::{HttpRoute, StatusClass};
use crate::telemetry::metrics::Both;
use crate::telemetry::{Metrics, semconv};

/// A request's target may have this many bytes: id and source at their limits, every byte
/// percent-encoded, and the rest.
const TARGET_MAX_BYTES: usize = 8 * 1_024;
/// Requests at work at the same time; most wait for Postgres when there are many.
const REQUESTS_AT_ONCE: usize = 256;
/// An answer takes no longer than this. Longer than a read of Postgres may.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Ask for no token: a browser has none when it opens a page, and these have no data.
const OPEN: [HttpRoute; 3] = [HttpRoute::Docs, HttpRoute::DocsFile, HttpRoute::Document];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX_BYTES: usize = 128;

#[derive(Clone)]
pub(super) struct Guard {
    metrics: Metrics,
    tokens: TokensInForce,
    permits: Arc<Semaphore>,
}

impl Guard {
    pub(super) fn new(metrics: Metrics, tokens: TokensInForce) -> Self {
        let permits = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        Self {
            metrics,
            tokens,
            permits,
        }
    }

    fn admit(&self, route: HttpRoute, request: &mut Request) -> Result<(), Problem> {
        let token = GivenToken {
            tokens: self.tokens.clone(),
            given: request.headers().get(AUTHORIZATION).cloned(),
        };
        if !OPEN.contains(&route) {
            token.check()?;
        }
        request.extensions_mut().insert(token);
        let target = request.uri().path_and_query();
        if target.is_some_and(|target| target.as_str().len() > TARGET_MAX_BYTES) {
            let detail = format!("a request's target has at most {TARGET_MAX_BYTES} bytes");
            return Err(Problem::new(StatusCode::URI_TOO_LONG, detail));
        }
        Ok(())
    }
}

/// The token with which a request came. An answer without end asks again whether it is in force.
#[derive(Clone)]
pub(super) struct GivenToken {
    tokens: TokensInForce,
    given: Option<HeaderValue>,
}

impl GivenToken {
    fn check(&self) -> Result<(), Problem> {
        if self.tokens.are_asked_for() {
            check_token(self.given.as_ref(), &self.tokens)?;
        }
        Ok(())
    }

    pub(super) fn is_in_force(&self) -> bool {
        self.check().is_ok()
    }
}

/// Of a response: the status that it stands for, where the client takes no other one than 200.
#[derive(Clone, Copy)]
pub(super) struct CountedAs(pub(super) StatusCode);

/// The middleware: answers within limits, times the answer, and makes the request's span.
pub(super) async fn pass(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let id = request_id(request.headers());
    let span = span(&request, route, &id);
    let began = Instant::now();
    let route = HttpRoute::of(route);
    let answer = answer(&guard, route, request, next);
    let answer = answer.instrument(span.clone()).await;
    let mut response = answer.into_response();
    let counted = response.extensions().get::<CountedAs>();
    let status = counted.map_or(response.status(), |counted| counted.0);
    let is_error = status.is_server_error();
    let status = status.as_u16();
    // Not `record`: for its log lines, which are all written, the span's fields would be made anew.
    span.set_attribute(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status));
    if is_error {
        span.set_status(Status::error(""));
        span.set_attribute(semconv::ERROR_TYPE, status.to_string());
    }
    let labels = Both(route, StatusClass::of(status));
    let seconds = began.elapsed().as_secs_f64();
    guard.metrics.http_request_seconds[labels].record(seconds);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn answer(
    guard: &Guard,
    route: HttpRoute,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    guard.admit(route, &mut request)?;
    let Ok(_permit) = guard.permits.try_acquire() else {
        return Err(Problem::unavailable("too many requests at the same time"));
    };
    tokio::time::timeout(REQUEST_LIMIT, next.run(request))
        .await
        .map_err(|_| Problem::timeout("no answer in time"))
}

/// The caller's, if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID);
    let is_plain = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    given.filter(is_plain).cloned().unwrap_or_else(|| {
        let made = format!("{:032x}", rand::random::<u128>());
        HeaderValue::try_from(made).expect("hexadecimal digits are visible ASCII")
    })
}

fn check_token(given: Option<&HeaderValue>, tokens: &TokensInForce) -> Result<(), Problem> {
    let given = given.map(HeaderValue::as_bytes);
    let Some(given) = given.and_then(bearer) else {
        return Err(Problem::unauthorized("Bearer realm=\"ganesh\""));
    };
    if tokens.admit(given) {
        return Ok(());
    }
    let challenge = "Bearer realm=\"ganesh\", error=\"invalid_token\"";
    Err(Problem::unauthorized(challenge))
}

/// The token of RFC 6750; the scheme's name has no case.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
    is_bearer.then(|| token.trim_ascii_start())
}

/// OpenTelemetry's span of an HTTP server, under the caller's span if it sent one.
fn span(request: &Request, route: &str, id: &HeaderValue) -> Span {
    let method = match *request.method() {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::PATCH
        | Method::OPTIONS
        | Method::CONNECT
        | Method::TRACE => request.method().as_str(),
        // A caller must not be able to make up names of spans.
        _ => "_OTHER",
    };
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        { semconv::HTTP_REQUEST_METHOD } = method,
        { semconv::HTTP_ROUTE } = route,
        { semconv::URL_PATH } = request.uri().path(),
        { semconv::URL_SCHEME } = "http",
        { semconv::REQUEST_ID } = id.to_str().unwrap_or_default(),
    );
    let caller = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&TraceHeaders(request.headers()))
    });
    // Refused where no spans are exported, which is no matter.
    let _ = span.set_parent(caller);
    span
}

struct TraceHeaders<'a>(&'a HeaderMap);

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
