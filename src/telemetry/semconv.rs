//! Names of OpenTelemetry's semantic conventions, and our own beside them: every attribute
//! of our spans stands here.
//!
//! Sources: "Semantic conventions for messaging spans", "for database client spans", "for
//! CloudEvents spans", "for HTTP server spans", and the attribute registry (`error.type`, `exception.message`).

pub(crate) const MESSAGING_SYSTEM: &str = "messaging.system";
pub(crate) const NATS: &str = "nats";
pub(crate) const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// The configured subject pattern that takes it.
pub(crate) const MESSAGING_DESTINATION_TEMPLATE: &str = "messaging.destination.template";
pub(crate) const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
pub(crate) const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
pub(crate) const MESSAGING_CONSUMER_GROUP_NAME: &str = "messaging.consumer.group.name";
/// `Nats-Msg-Id`, as its producer set it.
pub(crate) const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
pub(crate) const MESSAGING_MESSAGE_BODY_SIZE: &str = "messaging.message.body.size";

pub(crate) const CLOUDEVENTS_EVENT_ID: &str = "cloudevents.event_id";
pub(crate) const CLOUDEVENTS_EVENT_SOURCE: &str = "cloudevents.event_source";
pub(crate) const CLOUDEVENTS_EVENT_SPEC_VERSION: &str = "cloudevents.event_spec_version";
pub(crate) const CLOUDEVENTS_EVENT_TYPE: &str = "cloudevents.event_type";
pub(crate) const CLOUDEVENTS_EVENT_SUBJECT: &str = "cloudevents.event_subject";

pub(crate) const DB_SYSTEM_NAME: &str = "db.system.name";
pub(crate) const POSTGRESQL: &str = "postgresql";
pub(crate) const DB_COLLECTION_NAME: &str = "db.collection.name";
pub(crate) const EVENTS_TABLE: &str = "events";
/// The database of `POSTGRES_URL`.
pub(crate) const DB_NAMESPACE: &str = "db.namespace";
/// `COPY` or `INSERT`.
pub(crate) const DB_OPERATION_NAME: &str = "db.operation.name";
/// The SQLSTATE.
pub(crate) const DB_RESPONSE_STATUS_CODE: &str = "db.response.status_code";
/// The host of `POSTGRES_URL`, or the folder of its socket.
pub(crate) const SERVER_ADDRESS: &str = "server.address";
pub(crate) const DB_OPERATION_BATCH_SIZE: &str = "db.operation.batch.size";

/// The method of an HTTP request, or `_OTHER`.
pub(crate) const HTTP_REQUEST_METHOD: &str = "http.request.method";
pub(crate) const HTTP_ROUTE: &str = "http.route";
pub(crate) const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// `X-Request-Id`.
pub(crate) const REQUEST_ID: &str = "ganesh.request_id";
pub(crate) const URL_PATH: &str = "url.path";
pub(crate) const URL_SCHEME: &str = "url.scheme";

/// The `code` or `reason` of a failure, as in the metrics.
pub(crate) const ERROR_TYPE: &str = "error.type";
pub(crate) const EXCEPTION_MESSAGE: &str = "exception.message";

pub(crate) const KEEP_REASON: &str = "ganesh.keep_reason";
/// How many messages a baseline trace stands for: N of one in N.
pub(crate) const SAMPLE_WEIGHT: &str = "ganesh.sample_weight";
/// The stage that took the longest.
pub(crate) const LONGEST_STAGE: &str = "ganesh.longest_stage";
pub(crate) const OUTCOME: &str = "ganesh.outcome";
pub(crate) const STREAM: &str = "ganesh.stream";
pub(crate) const STREAM_SEQUENCE: &str = "ganesh.stream_sequence";
/// How often the message was delivered, this time included.
pub(crate) const DELIVERIES: &str = "ganesh.deliveries";
pub(crate) const BATCH_EVENTS: &str = "ganesh.batch_events";

/// The span event of an attempt that failed.
pub(crate) const ATTEMPT_FAILED: &str = "ganesh.attempt_failed";
