//! `GET /v1/stats`: how many events there are in each part of a range of time, by an attribute.

use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::openapi::Problems;
use super::problem::Problem;
use super::{Api, parameters};
use crate::config::parse_duration;
use crate::event::Timestamp;
use crate::storage::counts::{CountBy, CountSearch};

const RANGE_DEFAULT: Duration = Duration::from_hours(1);
const BUCKET_DEFAULT: Duration = Duration::from_mins(1);
const BUCKET_MIN: Duration = Duration::from_secs(1);
const BUCKET_MAX: Duration = Duration::from_hours(24 * 366);
const BUCKETS_MAX: i64 = 1_000;
/// Buckets times values of the attribute.
const COUNTS_MAX: usize = 10_000;
const BUCKET: &str = "1s to 366d, written as 30s, 5m, 2h or 7d";
/// How counts become some that take less time.
const SHORTER: &str = "narrow from and to";
const GROUP_BY: &str = "type, source or subject";

/// Counts of events; buckets without events are left out.
#[derive(Debug, Serialize, ToSchema)]
struct Stats {
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    bucket_seconds: f64,
    /// Each with `time` (when its bucket begins), `count`, and the attribute of `group_by`.
    #[schema(value_type = Vec<Object>)]
    counts: Vec<Map<String, Value>>,
}

/// How many events there are, by time and an attribute.
///
/// Buckets begin at multiples of their length since 1970. Those without events are left out.
#[utoipa::path(
    get,
    path = "/v1/stats",
    operation_id = "count_events",
    params(
        ("bucket" = Option<String>, Query, description = "The length of a bucket: 30s, 5m, 2h or 7d; 1m by default; at most 1,000 in the range", pattern = "^0*[1-9][0-9]*(s|m|h|d)$"),
        ("from" = Option<String>, Query, description = "The earliest `time`; an hour before `to` by default", format = DateTime),
        ("to" = Option<String>, Query, description = "The first `time` that is too late; now by default", format = DateTime),
        ("group_by" = Option<String>, Query, description = "`type`, `source` or `subject`; none by default", pattern = "^(type|source|subject)$"),
    ),
    responses((status = 200, description = "Counts, at most 10,000", body = Stats), Problems)
)]
pub(super) async fn stats(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let names = ["bucket", "from", "to", "group_by"];
    let [bucket, from, to, by] = parameters::query(uri.query(), names)?;
    let bucket = bucket.map_or(Ok(BUCKET_DEFAULT), |bucket| read_bucket(&bucket))?;
    let to = to.map_or_else(|| Ok(Timestamp::now()), |to| parameters::time("to", &to))?;
    let from = match from {
        Some(from) => parameters::time("from", &from)?,
        None => Timestamp::from_micros(to.micros().saturating_sub(micros(RANGE_DEFAULT))),
    };
    parameters::check_range(from, to)?;
    check_buckets(from, to, bucket)?;
    let search = CountSearch {
        from,
        to,
        bucket_micros: micros(bucket),
        by: by.as_deref().map(read_group).transpose()?,
        counts_max: COUNTS_MAX,
    };
    let counts = api.reads.counts(&search).await;
    let counts = counts.map_err(|error| api.read_failed(&error, SHORTER))?;
    if counts.len() > COUNTS_MAX {
        let detail = format!(
            "there are more than {COUNTS_MAX} counts: narrow the range, or choose a longer bucket"
        );
        let expected = format!("buckets and values for at most {COUNTS_MAX} counts");
        return Err(Problem::bad_request(detail).about("group_by", &expected));
    }
    let counts = counts.into_iter().map(|((time, value), count)| {
        let mut entry = Map::from_iter([("time".to_owned(), time.to_string().into())]);
        if let Some(by) = &by {
            entry.insert(by.clone(), value.into());
        }
        entry.insert("count".to_owned(), count.into());
        entry
    });
    api.json_response(&Stats {
        from: from.to_string(),
        to: to.to_string(),
        bucket_seconds: bucket.as_secs_f64(),
        counts: counts.collect(),
    })
}

fn read_bucket(text: &str) -> Result<Duration, Problem> {
    parse_duration(text)
        .filter(|bucket| (BUCKET_MIN..=BUCKET_MAX).contains(bucket))
        .ok_or_else(|| Problem::parameter("bucket", text, BUCKET))
}

fn read_group(text: &str) -> Result<CountBy, Problem> {
    match text {
        "type" => Ok(CountBy::Type),
        "source" => Ok(CountBy::Source),
        "subject" => Ok(CountBy::Subject),
        _ => Err(Problem::parameter("group_by", text, GROUP_BY)),
    }
}

fn check_buckets(from: Timestamp, to: Timestamp, bucket: Duration) -> Result<(), Problem> {
    let buckets = (to.micros() - from.micros()) / micros(bucket);
    if buckets <= BUCKETS_MAX {
        return Ok(());
    }
    let detail = format!(
        "from {from} to {to} are {buckets} buckets: expected at most {BUCKETS_MAX}; choose a longer bucket"
    );
    let expected = format!("at most {BUCKETS_MAX} buckets in the range");
    Err(Problem::bad_request(detail).about("bucket", &expected))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
