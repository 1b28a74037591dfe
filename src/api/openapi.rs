//! The OpenAPI document. Its paths come from the handlers themselves, its schemas from here.

use std::collections::BTreeMap;
use std::iter;

use axum::http::StatusCode;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, OpenApi as Document, Ref, RefOr, Type};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

/// What the handlers do not say.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "ganesh",
        description = "Reads of the events that ganesh has stored. Events are in the JSON format of CloudEvents 1.0.",
        license(name = "MIT", identifier = "MIT")
    ),
    components(schemas(CloudEvent, ProblemDetails, StreamMessage)),
    modifiers(&Bearer),
    security((), ("bearer" = []))
)]
struct Frame;

/// The document without paths.
pub(super) fn frame() -> Document {
    Frame::openapi()
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.description = Some("Where GANESH_API_TOKEN is set.".to_owned());
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(http));
    }
}

/// An event of CloudEvents 1.0. Extension attributes are further members, as text.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: answers are written elsewhere")]
pub(super) struct CloudEvent {
    /// The version of CloudEvents.
    #[schema(example = "1.0")]
    specversion: String,
    /// Identifies the event within its source.
    id: String,
    /// The context in which it happened.
    source: String,
    /// The kind of event.
    r#type: String,
    /// When it happened.
    #[schema(format = DateTime)]
    time: String,
    /// What it is about.
    #[schema(nullable = false)]
    subject: Option<String>,
    /// The media type of the data.
    #[schema(nullable = false)]
    datacontenttype: Option<String>,
    /// The schema of the data.
    #[schema(nullable = false)]
    dataschema: Option<String>,
    /// JSON data.
    #[schema(value_type = Option<Object>, nullable = true)]
    data: Option<String>,
    /// Other data, in base64.
    #[schema(nullable = false)]
    data_base64: Option<String>,
    /// In a search: why the event comes without its data.
    #[schema(nullable = false)]
    ganeshomitted: Option<String>,
}

/// An error, as RFC 9457 has it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: answers are written elsewhere")]
struct ProblemDetails {
    #[schema(example = "about:blank")]
    r#type: String,
    title: String,
    status: u16,
    /// What is wrong, in one sentence.
    detail: String,
    /// The path of the request.
    instance: String,
    /// The parameter that is wrong.
    #[schema(nullable = false)]
    parameter: Option<String>,
    /// What was expected there.
    #[schema(nullable = false)]
    expected: Option<String>,
}

/// A message of a stream. Those without `data` keep the stream alive, and move its `id` on.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: answers are written elsewhere")]
pub(super) struct StreamMessage {
    /// `event`, `lagged` or `unavailable`.
    #[schema(nullable = false)]
    event: Option<String>,
    /// Where a client goes on that has this message.
    #[schema(nullable = false)]
    id: Option<String>,
    /// Of `event` a `CloudEvent`, of `unavailable` `ProblemDetails`, of `lagged` an object with a `detail`.
    #[schema(nullable = false, content_media_type = "application/json")]
    data: Option<String>,
    /// Milliseconds after which a client connects again.
    #[schema(nullable = false)]
    retry: Option<u32>,
}

/// One event, as `GET /v1/events/{id}` answers it.
pub(super) struct EventById;

/// The same, as `GET /v1/subjects/{subject}/latest` does.
pub(super) struct LatestEvent;

const CACHE_HEADERS: [(&str, Type, &str); 2] = [
    (
        "Cache-Status",
        Type::String,
        "Where the answer comes from (RFC 9211)",
    ),
    ("Age", Type::Integer, "Seconds since the cache was given it"),
];

impl IntoResponses for EventById {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let link = (
            "Link",
            Type::String,
            "Others that match: `rel=\"alternate\"`",
        );
        let [status, age] = CACHE_HEADERS;
        event_responses([link, status, age])
    }
}

impl IntoResponses for LatestEvent {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        event_responses(CACHE_HEADERS)
    }
}

/// An event with its tag and these headers, and the answer for a client that has it.
fn event_responses<const N: usize>(
    headers: [(&str, Type, &str); N],
) -> BTreeMap<String, RefOr<Response>> {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("CloudEvent")))
        .build();
    let mut event = ResponseBuilder::new()
        .description("The event")
        .content("application/cloudevents+json", content);
    let tag = ("ETag", Type::String, "Names this answer");
    for (name, kind, description) in iter::once(tag).chain(headers) {
        let schema = ObjectBuilder::new().schema_type(kind);
        let header = HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(description));
        event = event.header(name, header.build());
    }
    let unchanged = ResponseBuilder::new().description("The client has this answer");
    [("200", event), ("304", unchanged)]
        .map(|(status, response)| (status.to_owned(), RefOr::T(response.build())))
        .into()
}

/// The errors that every route can answer.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let problems = [
            (
                StatusCode::BAD_REQUEST,
                "A parameter is wrong: `parameter` says which, `expected` how.",
            ),
            (StatusCode::UNAUTHORIZED, "No token, or a wrong one."),
            (StatusCode::NOT_FOUND, "There is nothing of that name."),
            (
                StatusCode::GONE,
                "An `id` of a stream, after which not all events are known.",
            ),
            (StatusCode::URI_TOO_LONG, "The target is too long."),
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                "There is too much to look through.",
            ),
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "The row cannot be answered.",
            ),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "Postgres is away, or too many ask: try again.",
            ),
            (
                StatusCode::GATEWAY_TIMEOUT,
                "Postgres did not answer in time: try again.",
            ),
        ];
        let problems = problems.into_iter().map(|(status, description)| {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ProblemDetails")))
                .build();
            let response = ResponseBuilder::new()
                .description(description)
                .content("application/problem+json", content)
                .build();
            (status.as_str().to_owned(), RefOr::T(response))
        });
        problems.collect()
    }
}
