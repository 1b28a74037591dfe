//! `GET /v1/events/stream`: the tail of stored events as server-sent events, whichever replica stored them.
//!
//! Each stream asks Postgres for its next page when its client has taken the last one, so a slow client costs a
//! page of memory and nothing else.

mod later;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::stream::Stream;
use super::answers::AnswerMemory;
use super::cursor::TailPlace;
use super::filter::{self, FilterParameters};
use super::guard::GivenToken;
use super::openapi::{Problems, StreamMessage};
use super::problem::Problem;
use super::{Api, cursor, parameters};
use crate::storage::search::EventFilter;
use crate::storage::tail::TailPosition;
use crate::storage::tail::lease::{MarkingError, TailEnd, TailLease};
use crate::telemetry::Metrics;
use crate::telemetry::logs::RateLimit;

/// Streams of a process at the same time.
const STREAMS_MAX: usize = 32;
const NEWEST_MAX: usize = 1_000;
/// How often the log names what streams wait for.
const SAY_EVERY: Duration = Duration::from_secs(10);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// For proxies that would collect an answer before they pass it on.
const UNBUFFERED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);
/// How the search for the newest events becomes one that takes less time.
const SHORTER: &str = "ask for fewer of the newest events, or narrow from and to";

/// The streams of a process. Cloning clones handles.
#[derive(Clone)]
pub(crate) struct Tails {
    places: Arc<Semaphore>,
    /// For pages whose events clients have not taken.
    memory: AnswerMemory,
    lease: TailLease,
    /// Names for operators, and not for clients, what streams wait for.
    said: Arc<RateLimit>,
    stop: CancellationToken,
}

/// The right to be a stream, until it is dropped.
struct StreamPlace {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Tails {
    /// They have rows marked by this lease, and end when `stop` is cancelled.
    pub(crate) fn new(lease: TailLease, stop: CancellationToken) -> Self {
        Self {
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
            memory: AnswerMemory::default(),
            lease,
            said: Arc::new(RateLimit::new(1, SAY_EVERY)),
            stop,
        }
    }

    /// Ends them.
    pub(crate) fn end(&self) {
        self.stop.cancel();
    }

    fn place(&self, metrics: &Metrics) -> Result<StreamPlace, Problem> {
        if self.stop.is_cancelled() {
            let detail = "this replica shuts down: connect to another one, with the last id";
            return Err(Problem::unavailable(detail));
        }
        let permit = self.places.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(format!(
                "{STREAMS_MAX} streams are open, the most that a replica serves: try another one, or later"
            ))
        })?;
        metrics.tails.increment(1.0);
        Ok(StreamPlace {
            metrics: metrics.clone(),
            _permit: permit,
        })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.metrics.tails.decrement(1.0);
    }
}

/// What is asked for.
#[derive(Default)]
struct TailQuestion {
    filter: EventFilter,
    newest: Option<usize>,
    /// The name of what says where to go on, and its value.
    after: Option<(&'static str, String)>,
}

/// Events that match, in the order in which Postgres stored them. Begins with the next one, unless `newest`,
/// `after` or `Last-Event-ID` says otherwise.
///
/// Server-sent events: `event` has an event in its `data`, and an `id`. A client that goes on after an `id`
/// (`Last-Event-ID` or `after`) within an hour misses nothing and gets nothing twice, on any replica. When nobody
/// read a stream for longer, the `id` is answered with 410. An event comes when no transaction that began before
/// its own still writes. Every 15 s a comment shows that the stream lives, with the `id` up to which all was looked
/// through, and says whether a transaction holds the stream back. A client that does not take what is sent within
/// 20 s gets `lagged`, if it takes that, and the stream ends. These times are half and two thirds of
/// GANESH_HTTP_CLIENT_TIMEOUT.
///
/// A stream that cannot begin at the moment is answered with 503 or 504. A client that accepts `text/event-stream`,
/// as each `EventSource` of a browser does, gets 200, the event `unavailable` with the same problem in its `data`,
/// and the end: so it connects again.
///
/// Conditions on members of JSON data are further parameters, as in the search of events.
#[utoipa::path(
    get,
    path = "/v1/events/stream",
    operation_id = "tail_events",
    params(
        FilterParameters,
        ("newest" = Option<usize>, Query, description = "Begin with the last events that match, so many of them, the oldest first", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "An `id` of this stream: what comes after it", min_length = 1, max_length = 3072, pattern = "^[A-Za-z0-9_-]+$"),
        ("Last-Event-ID" = Option<String>, Header, description = "The same; it takes precedence over `after` and `newest`"),
    ),
    responses(
        (status = 200, description = "Events without end", body = StreamMessage, content_type = "text/event-stream"),
        Problems,
    )
)]
pub(super) async fn tail(
    State(api): State<Api>,
    Extension(token): Extension<GivenToken>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match open(api, token, &uri, &headers).await {
        Err(problem) if later::comes_back(&headers, &problem) => {
            Ok(later::unavailable(&problem, &uri))
        }
        answer => answer,
    }
}

async fn open(
    api: Api,
    token: GivenToken,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let question = read(uri.query(), headers)?;
    let place = api.tails.place(&api.metrics)?;
    let end = api.tails.lease.begin().await.map_err(|error| match error {
        MarkingError::Failed(error) => api.failed(&error),
        MarkingError::Unfit(why) => Problem::unavailable(why),
        MarkingError::Held(who) => {
            if let Some(suppressed) = api.tails.said.allow() {
                tracing::warn!(
                    who,
                    suppressed,
                    "no stream begins: a transaction has not ended"
                );
            }
            Problem::unavailable(
                "a stream begins when every transaction has ended that may store events unseen",
            )
        }
    })?;
    let position = match (&question.after, question.newest) {
        (Some((name, text)), _) => position(name, text, end)?,
        (None, None) => TailPosition::Before(end.running),
        (None, Some(count)) => {
            let start = api.reads.tail_start(&question.filter, count, end);
            start
                .await
                .map_err(|error| api.read_failed(&error, SHORTER))?
        }
    };
    let begin = TailPlace {
        database: end.database,
        marking: end.marking,
        position,
    };
    let stream = Stream::new(api, (place, token), question.filter, begin);
    Ok(([UNBUFFERED], stream.into_sse()).into_response())
}

fn read(query: Option<&str>, headers: &HeaderMap) -> Result<TailQuestion, Problem> {
    let mut question = TailQuestion::default();
    for pair in parameters::pairs(query) {
        let (name, value) = pair?;
        if filter::read(&mut question.filter, &name, &value)?.is_some() {
            continue;
        }
        match name.as_str() {
            "newest" => {
                let count = parameters::count(&name, &value, NEWEST_MAX)?;
                parameters::set(&mut question.newest, &name, count)?;
            }
            "after" => parameters::set(&mut question.after, &name, ("after", value))?,
            other => {
                let known = [&filter::NAMES[..], &["newest", "after"]].concat();
                return Err(parameters::unknown(other, &known));
            }
        }
    }
    filter::check(&question.filter)?;
    if question.newest.is_some() && question.after.is_some() {
        let detail = "newest and after are given: a stream begins at one of them";
        return Err(Problem::bad_request(detail).about("newest", "newest or after"));
    }
    // A browser that connects anew sends the same target, and this.
    if let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        let id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        question.after = Some(("Last-Event-ID", id));
    }
    // Before anything is written for it.
    if let Some((name, id)) = &question.after {
        place_of(name, id)?;
    }
    Ok(question)
}

fn place_of(name: &str, text: &str) -> Result<TailPlace, Problem> {
    let changed = || Problem::parameter(name, text, "an id of this stream, unchanged");
    cursor::tail(text).ok_or_else(changed)
}

fn position(name: &str, text: &str, end: TailEnd) -> Result<TailPosition, Problem> {
    let foreign = |expected| Problem::parameter(name, text, expected);
    let place = place_of(name, text)?;
    if place.database != end.database {
        return Err(foreign(
            "an id of this database: this one is of another, such as the original of a restored copy",
        ));
    }
    if place.marking != end.marking {
        let detail = format!(
            "{name}: the events that were stored after this id are not known: nobody read a stream for an hour, \
             another server took over, or somebody changed a trigger. Begin without an id, and read what is missing with GET /v1/events?from="
        );
        let problem = Problem::new(StatusCode::GONE, detail);
        return Err(problem.about(name, "an id of the last hour"));
    }
    if place.position.transaction() > end.running {
        return Err(foreign(
            "an id that this server has reached: a failover may have lost transactions, so begin without an id",
        ));
    }
    Ok(place.position)
}
