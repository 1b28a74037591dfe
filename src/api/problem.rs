//! Errors of the API: RFC 9457 problem details.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{Code, Error};
use crate::text::cut;

/// How much of a request's target is repeated in an answer.
const INSTANCE_MAX_BYTES: usize = 1_024;
/// How much of a parameter's value is repeated.
const VALUE_SHOWN_MAX_BYTES: usize = 100;
/// Seconds after which a client may repeat a request that failed on the server's side.
const RETRY_AFTER_SECS: &str = "1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// What is wrong in the request, and what was expected there.
    parameter: Option<Box<(String, String)>>,
    /// One more header, where the status asks for it.
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            parameter: None,
            header: None,
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 400: what a parameter was given, and what was expected.
    pub(super) fn parameter(name: &str, given: &str, expected: &str) -> Self {
        let shown = cut(given, VALUE_SHOWN_MAX_BYTES);
        let more = if shown.len() < given.len() { "…" } else { "" };
        Self::bad_request(format!("{name}={shown}{more}: expected {expected}"))
            .about(name, expected)
    }

    /// Names the parameter for programs.
    pub(super) fn about(mut self, parameter: &str, expected: &str) -> Self {
        let name = cut(parameter, INSTANCE_MAX_BYTES).to_owned();
        self.parameter = Some(Box::new((name, expected.to_owned())));
        self
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 404: telemetry is off, so there is nothing to show.
    pub(super) fn telemetry_is_off() -> Self {
        Self::not_found("telemetry is off: OTEL_SDK_DISABLED is true")
    }

    pub(super) fn unauthorized(challenge: &'static str) -> Self {
        let mut problem = Self::new(
            StatusCode::UNAUTHORIZED,
            "this API asks for a bearer token (GANESH_API_TOKEN)",
        );
        problem.header = Some((WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
        problem
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::later(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 504: a dependency takes too long.
    pub(super) fn timeout(detail: impl Into<String>) -> Self {
        Self::later(StatusCode::GATEWAY_TIMEOUT, detail)
    }

    fn later(status: StatusCode, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(status, detail);
        problem.header = Some((RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS)));
        problem
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// In JSON.
    pub(super) fn body(&self, uri: &Uri) -> String {
        let path = uri.path();
        // A path may come with characters that should have been percent-encoded.
        let instance = cut(path, INSTANCE_MAX_BYTES);
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": instance,
        });
        if let Some((name, expected)) = self.parameter.as_deref() {
            body["parameter"] = name.as_str().into();
            body["expected"] = expected.as_str().into();
        }
        body.to_string()
    }
}

/// The body comes from [`name_target`], which knows the request.
impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let headers = [
            (CONTENT_TYPE, "application/problem+json"),
            (CACHE_CONTROL, "no-store"),
        ];
        let mut response = (self.status, headers).into_response();
        response.headers_mut().extend(self.header.take());
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost middleware: gives a [`Problem`] its body.
pub(super) async fn name_target(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        *response.body_mut() = Body::from(problem.body(&uri));
    }
    response
}

/// The error's words stay in the log, but for those of a server that lets nobody read: they are not the caller's
/// business.
impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        match error.code {
            Code::Timeout => Self::timeout("the database did not answer in time"),
            Code::Response => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the row cannot be answered: its data is larger than 16 MiB as JSON, its extension attributes than \
                 1 MiB, another attribute than 64 KiB, or it is no event",
            ),
            Code::Setup => {
                Self::unavailable(format!("the database refuses reads: {}", error.detail))
            }
            _ => Self::unavailable("the database cannot be asked"),
        }
    }
}
