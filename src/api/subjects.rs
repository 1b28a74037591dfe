//! `GET /v1/subjects`: which subjects there are. `GET /v1/subjects/{subject}/latest`: the newest event of one.

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::http::header::LINK;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::{LatestEvent, Problems};
use super::pages::{self, PageParameters};
use super::problem::Problem;
use super::{Api, cache_status, cursor, parameters};
use crate::storage::subjects::SubjectSearch;

/// How a list becomes one that takes less time.
const SHORTER: &str = "ask for a smaller limit";

/// A subject that events have.
#[derive(Debug, Serialize, ToSchema)]
struct ListedSubject {
    subject: String,
    /// Of its newest event.
    #[schema(format = DateTime)]
    time: String,
}

/// A page of subjects, by name.
#[derive(Debug, Serialize, ToSchema)]
struct SubjectList {
    subjects: Vec<ListedSubject>,
}

/// Subjects and the time of their newest event.
///
/// In the order of their bytes. `Link` names the next page, and is missing at the end.
#[utoipa::path(
    get,
    path = "/v1/subjects",
    operation_id = "list_subjects",
    params(
        ("prefix" = Option<String>, Query, description = "What they begin with", min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$"),
        PageParameters,
    ),
    responses(
        (status = 200, description = "A page", body = SubjectList,
            headers(("Link" = String, description = "The next page: `rel=\"next\"`"))),
        Problems,
    )
)]
pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let [prefix, limit, after] = parameters::query(uri.query(), ["prefix", "limit", "cursor"])?;
    let search = SubjectSearch {
        prefix,
        limit: pages::limit(limit.as_deref())?,
        after: after.map(|after| cursor::subject(&after)).transpose()?,
    };
    let page = api.reads.subjects(&search).await;
    let page = page.map_err(|error| api.read_failed(&error, SHORTER))?;
    let last = page.subjects.last().filter(|_| page.has_more);
    let next = last.map(|(last, _)| cursor::of_subject(last));
    let subjects = page.subjects.into_iter();
    let subjects = subjects.map(|(subject, time)| ListedSubject {
        subject,
        time: time.to_string(),
    });
    let mut response = api.json_response(&SubjectList {
        subjects: subjects.collect(),
    })?;
    if let Some(next) = next {
        let query = pages::query_without_cursor(uri.query());
        let link = pages::next_link("/v1/subjects", &query, &next);
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// The newest event of a subject.
#[utoipa::path(
    get,
    path = "/v1/subjects/{subject}/latest",
    operation_id = "latest_of_subject",
    params(
        ("subject" = String, Path, description = "The attribute `subject`", min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has"),
    ),
    responses(LatestEvent, Problems)
)]
pub(super) async fn latest(
    State(api): State<Api>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let subject = parameters::segment(params, "subject")?;
    let [] = parameters::query(uri.query(), [])?;
    let answer = api.cache.latest(&subject).await;
    let answer = answer.map_err(|error| api.failed(&error))?;
    let mut response = match answer.event {
        Some(event) => api.event_response(&headers, event)?,
        None => Problem::not_found("no event has this subject").into_response(),
    };
    cache_status::say(response.headers_mut(), answer.origin);
    Ok(response)
}
