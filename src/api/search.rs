//! `GET /v1/events`: the events that match, newest first, a page at a time.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::filter::{self, FilterParameters};
use super::openapi::{CloudEvent, Problems};
use super::pages::{self, PageParameters};
use super::problem::Problem;
use super::{Api, cursor, parameters};
use crate::storage::search::EventSearch;

/// A cursor and the route have room beside it in the target of a request.
const QUERY_MAX_BYTES: usize = 5_000;
/// How a search becomes one that takes less time.
const SHORTER: &str = "narrow from and to, or name a subject";

/// Events that match, newest first.
///
/// In the JSON batch format of CloudEvents. All conditions have to be met. A page can have fewer events than
/// `limit`, even none, and not be the last one: `Link` names the next page, and is missing at the end.
///
/// Conditions on members of JSON data are further parameters, at most eight: `data.<path>=<operator>.<value>`.
/// The path has names of members and places in arrays, with dots between them. The operators are `eq`, `neq`,
/// `gt`, `gte`, `lt`, `lte`, `in.(a,b)`, `like.a*` and `is.null`, `is.not_null`, `is.true`, `is.false`.
/// Numbers are compared as numbers, texts by their bytes; objects and arrays match nothing.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "search_events",
    params(
        FilterParameters,
        PageParameters,
    ),
    responses(
        (status = 200, description = "A page", body = [CloudEvent], content_type = "application/cloudevents-batch+json",
            headers(("Link" = String, description = "The next page: `rel=\"next\"`"))),
        Problems,
    )
)]
pub(super) async fn search(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let search = read(uri.query())?;
    let query = pages::query_without_cursor(uri.query());
    if query.len() > QUERY_MAX_BYTES {
        let detail = format!("a search has at most {QUERY_MAX_BYTES} bytes of parameters");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, detail));
    }
    let page = api.reads.search(&search).await;
    let page = page.map_err(|error| api.read_failed(&error, SHORTER))?;
    let headers = [
        (CONTENT_TYPE, "application/cloudevents-batch+json"),
        (CACHE_CONTROL, "no-store"),
    ];
    let mut response = (headers, api.answers.body(batch(&page.events))?).into_response();
    if let Some(next) = &page.next {
        let link = pages::next_link("/v1/events", &query, &cursor::of_events(next));
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

fn read(query: Option<&str>) -> Result<EventSearch, Problem> {
    let mut search = EventSearch::default();
    let mut limit = None;
    for pair in parameters::pairs(query) {
        let (name, value) = pair?;
        if filter::read(&mut search.filter, &name, &value)?.is_some() {
            continue;
        }
        match name.as_str() {
            "limit" => parameters::set(&mut limit, &name, value)?,
            "cursor" => {
                let after = cursor::events(&value)?;
                parameters::set(&mut search.after, &name, after)?;
            }
            other => {
                let known = [&filter::NAMES[..], &["limit", "cursor"]].concat();
                return Err(parameters::unknown(other, &known));
            }
        }
    }
    filter::check(&search.filter)?;
    search.limit = pages::limit(limit.as_deref())?;
    Ok(search)
}

/// The JSON batch format of `CloudEvents`.
fn batch(events: &[Bytes]) -> Bytes {
    let bytes: usize = events.iter().map(|event| event.len() + 1).sum();
    let mut batch = Vec::with_capacity(bytes + 2);
    batch.push(b'[');
    for (place, event) in events.iter().enumerate() {
        if place > 0 {
            batch.push(b',');
        }
        batch.extend_from_slice(event);
    }
    batch.push(b']');
    batch.into()
}
