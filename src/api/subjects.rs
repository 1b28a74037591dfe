//! `GET /v1/subjects/{subject}/latest`: the newest event of a subject.

use std::time::Duration;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::http::header::{AGE, HeaderName};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::{Api, parameters};
use crate::cache::Origin;

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub(super) async fn latest(
    State(api): State<Api>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let subject = parameters::segment(params, "subject")?;
    let [] = parameters::query(uri.query(), [])?;
    let answer = api.cache.latest(&subject).await;
    let answer = answer.map_err(|error| api.failed(&error))?;
    let mut response = match answer.event {
        Some(event) => api.event_response(event)?,
        None => Problem::not_found("no event has this subject").into_response(),
    };
    let (status, age) = describe(answer.origin);
    let headers = response.headers_mut();
    headers.insert(CACHE_STATUS, HeaderValue::from_static(status));
    if let Some(age) = age {
        headers.insert(AGE, HeaderValue::from(age.as_secs()));
    }
    Ok(response)
}

fn describe(origin: Origin) -> (&'static str, Option<Duration>) {
    match origin {
        Origin::Hit { age } => ("ganesh; hit", Some(age)),
        Origin::Collapsed { age } => ("ganesh; fwd=miss; collapsed", Some(age)),
        Origin::Miss { stored: true } => ("ganesh; fwd=miss; stored", None),
        Origin::Miss { stored: false } => ("ganesh; fwd=miss", None),
        Origin::Bypass => ("ganesh; fwd=bypass", None),
    }
}
