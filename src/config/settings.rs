//! The table of settings: name, default, help. One fact in one place.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment variable's name.
    pub env: &'static str,
    /// What is used when nothing is given; empty means unset.
    pub default: &'static str,
    /// One sentence for `--help` and `.env.example`.
    pub help: &'static str,
}

impl Setting {
    /// The flag without its dashes: `GANESH_HTTP_ADDR` is `http-addr`.
    pub fn flag(&self) -> String {
        self.env
            .trim_start_matches("GANESH_")
            .to_ascii_lowercase()
            .replace('_', "-")
    }
}

const fn setting(env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { env, default, help }
}

/// Every setting, in the order in which `--help` and `.env.example` list them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "NATS_URL",
        "nats://localhost:4222",
        "NATS servers, separated by commas; user and password may stand in the URL",
    ),
    setting(
        "POSTGRES_URL",
        "postgresql://ganesh:ganesh@localhost:5432/ganesh",
        "Postgres 17",
    ),
    setting(
        "REDIS_URL",
        "redis://localhost:6379",
        "Dragonfly or Redis; may be away",
    ),
    setting("GANESH_STREAM", "EVENTS", "Stream that holds the events"),
    setting(
        "GANESH_SUBJECTS",
        "events.>",
        "Subjects of the stream, separated by commas, when it has to be made",
    ),
    setting(
        "GANESH_STREAM_MAX_AGE",
        "7d",
        "Age at which a stream made by us drops a message",
    ),
    setting(
        "GANESH_STREAM_MAX_BYTES",
        "10GiB",
        "Size at which a stream made by us drops its oldest messages",
    ),
    setting(
        "GANESH_CONSUMER",
        "ganesh",
        "Durable pull consumer, shared by all replicas",
    ),
    setting(
        "GANESH_DLQ_STREAM",
        "EVENTS_DLQ",
        "Stream of the dead letters, made when missing with subjects dlq.>",
    ),
    setting(
        "GANESH_ACK_WAIT",
        "30s",
        "How long the server waits for an acknowledgement before it delivers again",
    ),
    setting(
        "GANESH_MAX_DELIVERIES",
        "20",
        "A message delivered more often is stored alone; past twice that it becomes a dead letter, unless it has a row",
    ),
    setting(
        "GANESH_ACCEPT_PLAIN",
        "true",
        "Whether a message that is no CloudEvent is stored as one made from its NATS metadata (false: dead letter)",
    ),
    setting(
        "GANESH_BATCH_MAX_EVENTS",
        "2000",
        "A batch is closed at this many events",
    ),
    setting(
        "GANESH_BATCH_MAX_BYTES",
        "8MiB",
        "A batch is closed at this many bytes",
    ),
    setting(
        "GANESH_BATCH_LINGER_MS",
        "60",
        "A batch is closed when its first event has waited this long, in milliseconds",
    ),
    setting(
        "GANESH_WRITERS",
        "2",
        "Batches written at the same time, each on its own connection",
    ),
    setting(
        "GANESH_MAX_IN_FLIGHT",
        "16384",
        "Messages held at most, from delivery to settlement",
    ),
    setting(
        "GANESH_MAX_IN_FLIGHT_BYTES",
        "64MiB",
        "Bytes held at most; never below the server's maximum payload",
    ),
    setting(
        "GANESH_MIGRATE_ON_START",
        "true",
        "Whether serve applies the migrations before it starts",
    ),
    setting(
        "GANESH_PARTITION_INTERVAL",
        "day",
        "Time that one partition of events covers: hour or day",
    ),
    setting(
        "GANESH_RETENTION_DAYS",
        "0",
        "Days after which events are dropped; 0 keeps them",
    ),
    setting(
        "GANESH_CACHE_TTL_SECS",
        "3600",
        "How long a cache entry stays after a read put it there, in seconds",
    ),
    setting(
        "GANESH_HTTP_ADDR",
        "127.0.0.1:8080",
        "Where the API listens",
    ),
    setting(
        "GANESH_ADMIN_ADDR",
        "127.0.0.1:9464",
        "Where /livez, /readyz, /metrics, /debug/slow and /log-level are served",
    ),
    setting(
        "GANESH_API_TOKEN",
        "",
        "Bearer token that the API asks for; empty asks for none",
    ),
    setting(
        "GANESH_STARTUP_TIMEOUT",
        "60s",
        "How long to wait at start for NATS and Postgres to be there",
    ),
    setting(
        "GANESH_SHUTDOWN_GRACE",
        "25s",
        "How long a shutdown may take, from SIGTERM to exit",
    ),
    setting(
        "GANESH_LOG",
        "info,async_nats=warn,sqlx=warn",
        "Log filter: a level, or directives such as ganesh=debug,info",
    ),
    setting(
        "GANESH_LOG_FORMAT",
        "auto",
        "text, json, or auto: text on a terminal, JSON elsewhere",
    ),
    setting(
        "GANESH_LOG_DIR",
        "",
        "Folder in which serve, produce and migrate also write every log line, as JSON, to app.log",
    ),
    setting(
        "GANESH_TRACE_SLOW_MS",
        "250",
        "A message slower than this is kept as a trace, in milliseconds from the stream's timestamp to the settlement",
    ),
    setting(
        "GANESH_TRACE_BASELINE",
        "1000",
        "One in this many ordinary messages, and requests without a sampled caller, is kept as a trace; 0 means none",
    ),
    setting(
        "GANESH_TRACE_MAX_PER_SEC",
        "200",
        "Traces of messages kept in a second, at most; half of them for failed and redelivered ones alone",
    ),
    setting(
        "OTEL_SDK_DISABLED",
        "false",
        "true: no metrics, no timing of messages, no traces; there to measure what they cost",
    ),
    setting(
        "OTEL_TRACES_EXPORTER",
        "otlp",
        "otlp, or none to export no traces",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://localhost:4317",
        "Where the OTLP collector listens (gRPC, without TLS)",
    ),
    setting(
        "OTEL_SERVICE_NAME",
        "ganesh",
        "Resource attribute service.name (ganesh-produce for produce)",
    ),
    setting(
        "OTEL_RESOURCE_ATTRIBUTES",
        "",
        "Further resource attributes, as key=value pairs separated by commas",
    ),
];
