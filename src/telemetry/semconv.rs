//! Names of OpenTelemetry's semantic conventions, and our own beside them: every attribute
//! of our spans stands here.
//!
//! Sources: "Semantic conventions for messaging spans", "for database client spans", "for
//! CloudEvents spans", "for HTTP server spans", and the attribute registry (`error.type`, `exception.message`).

/// The messaging system.
pub(crate) const MESSAGING_SYSTEM: &str = "messaging.system";
/// Its value here.
pub(crate) const NATS: &str = "nats";
/// The subject on which the message was published.
pub(crate) const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// The configured subject pattern that takes it.
pub(crate) const MESSAGING_DESTINATION_TEMPLATE: &str = "messaging.destination.template";
/// What is done to the message, in the system's words.
pub(crate) const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// What is done to the message, in the conventions' words.
pub(crate) const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// The durable consumer.
pub(crate) const MESSAGING_CONSUMER_GROUP_NAME: &str = "messaging.consumer.group.name";
/// `Nats-Msg-Id`, as its producer set it.
pub(crate) const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// Bytes of the body.
pub(crate) const MESSAGING_MESSAGE_BODY_SIZE: &str = "messaging.message.body.size";

/// The event's id.
pub(crate) const CLOUDEVENTS_EVENT_ID: &str = "cloudevents.event_id";
/// The event's source.
pub(crate) const CLOUDEVENTS_EVENT_SOURCE: &str = "cloudevents.event_source";
/// The version of the specification.
pub(crate) const CLOUDEVENTS_EVENT_SPEC_VERSION: &str = "cloudevents.event_spec_version";
/// The event's type.
pub(crate) const CLOUDEVENTS_EVENT_TYPE: &str = "cloudevents.event_type";
/// What the event is about.
pub(crate) const CLOUDEVENTS_EVENT_SUBJECT: &str = "cloudevents.event_subject";

/// The database.
pub(crate) const DB_SYSTEM_NAME: &str = "db.system.name";
/// Its value here.
pub(crate) const POSTGRESQL: &str = "postgresql";
/// The table.
pub(crate) const DB_COLLECTION_NAME: &str = "db.collection.name";
/// Its value here.
pub(crate) const EVENTS_TABLE: &str = "events";
/// Rows of one statement.
pub(crate) const DB_OPERATION_BATCH_SIZE: &str = "db.operation.batch.size";

/// The method of an HTTP request, or `_OTHER`.
pub(crate) const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// The route that takes it.
pub(crate) const HTTP_ROUTE: &str = "http.route";
/// The status of its answer.
pub(crate) const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// Its path.
pub(crate) const URL_PATH: &str = "url.path";
/// Its scheme.
pub(crate) const URL_SCHEME: &str = "url.scheme";

/// Why something failed: the `code` or `reason` that the metrics have.
pub(crate) const ERROR_TYPE: &str = "error.type";
/// The words for people.
pub(crate) const EXCEPTION_MESSAGE: &str = "exception.message";

/// Why the trace was kept.
pub(crate) const KEEP_REASON: &str = "ganesh.keep_reason";
/// How the message ended: the metrics' `outcome`.
pub(crate) const OUTCOME: &str = "ganesh.outcome";
/// The stream that holds the message.
pub(crate) const STREAM: &str = "ganesh.stream";
/// The message's sequence in it.
pub(crate) const STREAM_SEQUENCE: &str = "ganesh.stream_sequence";
/// How often the message was delivered, this time included.
pub(crate) const DELIVERIES: &str = "ganesh.deliveries";
/// Messages of the batch that the message was in.
pub(crate) const BATCH_EVENTS: &str = "ganesh.batch_events";

/// The span event of an attempt that failed.
pub(crate) const ATTEMPT_FAILED: &str = "ganesh.attempt_failed";
