//! `GET /v1/events/{id}?source=&time=`: one event. An id is unique within its source only, so
//! several can match: the newest is the answer, and `Link` names the others.

use std::fmt::Write;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::http::header::LINK;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::openapi::{EventById, Problems};
use super::problem::Problem;
use super::{Api, cache_status, parameters};
use crate::storage::queries::{Alternate, EventKey};

/// Clients refuse heads that are longer than 8 to 16 KiB.
const LINK_MAX_BYTES: usize = 4 * 1_024;
/// All but the unreserved characters of RFC 3986.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One event.
///
/// An id is unique within its source only, so several events can match. The newest one is the answer.
#[utoipa::path(
    get,
    path = "/v1/events/{id}",
    operation_id = "event_by_id",
    params(
        ("id" = String, Path, description = "The attribute `id`", min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$"),
        ("source" = Option<String>, Query, description = "The attribute `source`", min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$"),
        ("time" = Option<String>, Query, description = "The attribute `time`", format = DateTime),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has"),
    ),
    responses(EventById, Problems)
)]
pub(super) async fn by_id(
    State(api): State<Api>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = parameters::segment(params, "id")?;
    let [source, time] = parameters::query(uri.query(), ["source", "time"])?;
    let key = EventKey {
        id: &id,
        source: source.as_deref(),
        time: time
            .map(|time| parameters::time("time", &time))
            .transpose()?,
    };
    let answer = api.cache.event(&key).await;
    let answer = answer.map_err(|error| api.failed(&error))?;
    let mut response = match answer.event {
        Some(event) => api.event_response(&headers, event)?,
        None => Problem::not_found("no such event").into_response(),
    };
    if let Some(links) = links(&id, &answer.others) {
        response.headers_mut().insert(LINK, links);
    }
    cache_status::say(response.headers_mut(), answer.origin);
    Ok(response)
}

/// RFC 8288; as many as fit.
fn links(id: &str, others: &[Alternate]) -> Option<HeaderValue> {
    let mut links = String::new();
    for other in others {
        let before = links.len();
        let separator = if links.is_empty() { "" } else { ", " };
        write!(
            links,
            "{separator}</v1/events/{}?source={}&time={}>; rel=\"alternate\"",
            utf8_percent_encode(id, ENCODED),
            utf8_percent_encode(&other.source, ENCODED),
            utf8_percent_encode(&other.time.to_string(), ENCODED),
        )
        .expect("a String takes every write");
        if links.len() > LINK_MAX_BYTES {
            links.truncate(before);
            break;
        }
    }
    if links.is_empty() {
        return None;
    }
    Some(HeaderValue::try_from(links).expect("percent-encoding leaves visible ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timestamp;

    fn other(source: &str) -> Alternate {
        let time = Timestamp::from_micros(1_700_000_000_000_000);
        let source = source.to_owned();
        Alternate { source, time }
    }

    #[test]
    fn links_fit_into_a_head() {
        let others = vec![other(&"/".repeat(1_000)); 50];
        assert!(links("a", &others).expect("links").len() <= LINK_MAX_BYTES);
        assert_eq!(links("a", &[other(&"/".repeat(2_000))]), None);
    }
}
