//! A stream that cannot begin at the moment, for clients that give up for good at any other status than 200.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;

use crate::api::guard::CountedAs;
use crate::api::problem::Problem;

/// Such a client comes back in this time.
const RECONNECT_AFTER: Duration = Duration::from_secs(5);

/// Whether a client connects again after the end of a stream, and what keeps it can pass.
pub(super) fn comes_back(headers: &HeaderMap, problem: &Problem) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|accepted| accepted.to_str().ok());
    problem.status().is_server_error()
        && accepted.any(|accepted| accepted.to_ascii_lowercase().contains("text/event-stream"))
}

/// A stream that says so, and ends. It has no `id`, so that the client keeps its own.
pub(super) fn unavailable(problem: &Problem, uri: &Uri) -> Response {
    let event = Event::default().event("unavailable");
    let event = event.retry(RECONNECT_AFTER).data(problem.body(uri));
    let stream = stream::iter([Ok::<_, Infallible>(event)]);
    let mut response = Sse::new(stream).into_response();
    response
        .extensions_mut()
        .insert(CountedAs(problem.status()));
    response
}
