//! `Cache-Status` (RFC 9211) and `Age`: where an answer comes from.

use std::time::Duration;

use axum::http::header::{AGE, HeaderName};
use axum::http::{HeaderMap, HeaderValue};

use crate::cache::Origin;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub(super) fn say(headers: &mut HeaderMap, origin: Origin) {
    let (status, age) = describe(origin);
    headers.insert(CACHE_STATUS, HeaderValue::from_static(status));
    if let Some(age) = age {
        headers.insert(AGE, HeaderValue::from(age.as_secs()));
    }
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
