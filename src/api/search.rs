//! `GET /v1/events`: the events that match, newest first, a page at a time.

mod condition;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::openapi::{CloudEvent, Problems};
use super::problem::Problem;
use super::{Api, cursor, parameters};
use crate::storage::search::{EventSearch, PageKey};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Of `data.<path>`.
const CONDITIONS_MAX: usize = 8;
/// A cursor and the route have room beside it in the target of a request.
const QUERY_MAX_BYTES: usize = 5_000;
/// Percent-encoded where the client did not.
const IN_LINK: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\');

const KNOWN: [&str; 9] = [
    "type",
    "source",
    "subject",
    "subject_prefix",
    "from",
    "to",
    "data.<path>",
    "limit",
    "cursor",
];

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
        ("type" = Option<String>, Query, description = "The attribute `type`", min_length = 1, max_length = 1024),
        ("source" = Option<String>, Query, description = "The attribute `source`", min_length = 1, max_length = 1024),
        ("subject" = Option<String>, Query, description = "The attribute `subject`", min_length = 1, max_length = 1024),
        ("subject_prefix" = Option<String>, Query, description = "What `subject` begins with", min_length = 1, max_length = 1024),
        ("from" = Option<String>, Query, description = "The earliest `time`", format = DateTime),
        ("to" = Option<String>, Query, description = "The first `time` that is too late", format = DateTime),
        ("limit" = Option<u32>, Query, description = "Events of a page, at most; 100 by default", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Where a page begins, out of `Link`", min_length = 1),
    ),
    responses(
        (status = 200, description = "A page", body = [CloudEvent], content_type = "application/cloudevents-batch+json",
            headers(("Link" = String, description = "The next page: `rel=\"next\"`"))),
        Problems,
    )
)]
pub(super) async fn search(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let search = read(uri.query())?;
    let query = query_without_cursor(uri.query());
    if query.len() > QUERY_MAX_BYTES {
        let detail = format!("a search has at most {QUERY_MAX_BYTES} bytes of parameters");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, detail));
    }
    let page = api.reads.search(&search).await;
    let page = page.map_err(|error| api.search_failed(&error))?;
    let headers = [
        (CONTENT_TYPE, "application/cloudevents-batch+json"),
        (CACHE_CONTROL, "no-store"),
    ];
    let mut response = (headers, api.answers.body(batch(&page.events))?).into_response();
    if let Some(next) = &page.next {
        response.headers_mut().insert(LINK, link(&query, next));
    }
    Ok(response)
}

fn read(query: Option<&str>) -> Result<EventSearch, Problem> {
    let mut search = EventSearch::default();
    let mut limit = None;
    for pair in parameters::pairs(query) {
        let (name, value) = pair?;
        let place = match name.as_str() {
            "type" => &mut search.event_type,
            "source" => &mut search.source,
            "subject" => &mut search.subject,
            "subject_prefix" => &mut search.subject_prefix,
            "from" => {
                let from = parameters::time(&name, &value)?;
                parameters::set(&mut search.from, &name, from)?;
                continue;
            }
            "to" => {
                let to = parameters::time(&name, &value)?;
                parameters::set(&mut search.to, &name, to)?;
                continue;
            }
            "limit" => {
                let count = parameters::count(&name, &value, PAGE_MAX)?;
                parameters::set(&mut limit, &name, count)?;
                continue;
            }
            "cursor" => {
                let after = cursor::event(&value)?;
                parameters::set(&mut search.after, &name, after)?;
                continue;
            }
            data if data.starts_with("data.") => {
                search.data.push(condition::read(data, &value)?);
                continue;
            }
            other => return Err(parameters::unknown(other, &KNOWN)),
        };
        parameters::set(place, &name, value)?;
    }
    if search.data.len() > CONDITIONS_MAX {
        let detail = format!(
            "{} conditions on data: expected at most {CONDITIONS_MAX}",
            search.data.len()
        );
        let expected = format!("at most {CONDITIONS_MAX} conditions");
        return Err(Problem::bad_request(detail).about("data", &expected));
    }
    if let (Some(from), Some(to)) = (search.from, search.to) {
        parameters::check_range(from, to)?;
    }
    search.limit = limit.unwrap_or(PAGE_DEFAULT);
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

/// The parameters as the client wrote them, but for the cursor.
fn query_without_cursor(query: Option<&str>) -> String {
    let pairs = query.unwrap_or_default().split('&');
    // A cursor under another spelling, such as %63ursor, is one, too.
    let is_cursor = |pair: &str| {
        let mut read = parameters::pairs(Some(pair));
        matches!(read.next(), Some(Ok((name, _))) if name == "cursor")
    };
    let others = pairs.filter(|pair| !pair.is_empty() && !is_cursor(pair));
    let others = others.map(|pair| utf8_percent_encode(pair, IN_LINK).to_string() + "&");
    others.collect()
}

/// RFC 8288.
fn link(query: &str, next: &PageKey) -> HeaderValue {
    let cursor = cursor::of_event(next);
    let link = format!("</v1/events?{query}cursor={cursor}>; rel=\"next\"");
    HeaderValue::try_from(link).expect("percent-encoding leaves visible ASCII")
}
