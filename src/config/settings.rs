//! The table of settings: name, default, help. One fact in one place.

use strum::IntoStaticStr;

use Group::{
    Bench, DeadLetters, Explain, Forget, Http, Links, LogLevel, Pipeline, Produce, Servers,
    Storage, Stream, Telemetry,
};

/// One setting: a flag and an environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The heading in `--help` under which it stands.
    pub group: Group,
    /// The environment variable's name.
    pub env: &'static str,
    /// The value when nothing is given; empty means unset.
    pub default: &'static str,
    /// One line for `--help` and `.env.example`.
    pub help: &'static str,
}

/// The topic of a setting. The last six belong to one command each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[expect(missing_docs, reason = "the headings say what they are")]
pub enum Group {
    Servers,
    #[strum(serialize = "Encryption, authentication, OTLP")]
    Links,
    Stream,
    Pipeline,
    Storage,
    #[strum(serialize = "HTTP")]
    Http,
    Telemetry,
    #[strum(serialize = "Producer")]
    Produce,
    #[strum(serialize = "Benchmark")]
    Bench,
    #[strum(serialize = "Dead letters")]
    DeadLetters,
    Explain,
    Forget,
    #[strum(serialize = "Log level")]
    LogLevel,
}

impl Group {
    /// Every group, in the order of [`SETTINGS`].
    pub const ALL: [Self; 13] = [
        Servers,
        Links,
        Stream,
        Pipeline,
        Storage,
        Http,
        Telemetry,
        Produce,
        Bench,
        DeadLetters,
        Explain,
        Forget,
        LogLevel,
    ];

    /// The heading in `--help` and `.env.example`.
    pub fn heading(self) -> &'static str {
        self.into()
    }

    /// Returns whether only one command has these settings.
    pub const fn is_of_one_command(self) -> bool {
        matches!(
            self,
            Produce | Bench | DeadLetters | Explain | Forget | LogLevel
        )
    }

    /// The part of the variable's name that the flag leaves out.
    const fn prefix(self) -> &'static str {
        match self {
            Produce => "GANESH_PRODUCE_",
            Bench => "GANESH_BENCH_",
            DeadLetters => "GANESH_DLQ_",
            Explain => "GANESH_EXPLAIN_",
            Forget => "GANESH_FORGET_",
            LogLevel => "GANESH_LOG_LEVEL_",
            _ => "GANESH_",
        }
    }
}

impl Setting {
    /// The flag without its dashes: `GANESH_HTTP_ADDR` is `http-addr`.
    pub(crate) fn flag(&self) -> String {
        let name = self.env.strip_prefix(self.group.prefix());
        name.unwrap_or(self.env)
            .to_ascii_lowercase()
            .replace('_', "-")
    }
}

/// The setting of this variable.
///
/// # Panics
/// When there is none, which is a mistake in the code.
pub(crate) fn setting_of(env: &str) -> &'static Setting {
    SETTINGS
        .iter()
        .find(|setting| setting.env == env)
        .unwrap_or_else(|| panic!("{env} stands in SETTINGS"))
}

const fn setting(
    group: Group,
    env: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        group,
        env,
        default,
        help,
    }
}

/// Every setting, in the order in which `--help` and `.env.example` list them.
#[rustfmt::skip] // one line each
pub const SETTINGS: &[Setting] = &[
    setting(Servers, "NATS_URL", "nats://localhost:4222", "NATS servers, separated by commas; tls://… needs TLS; a URL may hold user and password"),
    setting(Servers, "POSTGRES_URL", "postgresql://ganesh:ganesh@localhost:5432/ganesh", "Postgres 17"),
    setting(Servers, "POSTGRES_READ_URL", "", "The same database, as a role that may only read, for the reads of the API (deploy/postgres/roles.sql); empty: POSTGRES_URL"),
    setting(Servers, "REDIS_URL", "redis://localhost:6379", "Dragonfly or Redis, not in cluster mode; may be away; rediss://… is TLS"),
    setting(Servers, "GANESH_STARTUP_TIMEOUT", "60s", "How long to wait for NATS and Postgres at start"),
    setting(Links, "NATS_CA", "", "File with the certificates of the authorities that sign those of NATS; empty: those that the system trusts"),
    setting(Links, "NATS_CERT", "", "File with the client certificate for NATS, and its chain"),
    setting(Links, "NATS_KEY", "", "File with the private key of NATS_CERT"),
    setting(Links, "GANESH_NATS_TLS_FIRST", "false", "Begin with TLS, as servers with handshake_first expect"),
    setting(Links, "NATS_USER", "", "User for NATS"),
    setting(Links, "NATS_PASSWORD", "", "Password of NATS_USER"),
    setting(Links, "NATS_TOKEN", "", "Token for NATS"),
    setting(Links, "NATS_NKEY", "", "Seed of an nkey for NATS, or a file with it"),
    setting(Links, "NATS_CREDS", "", "Credentials file for NATS: a JWT and a seed"),
    setting(Links, "GANESH_NATS_DOMAIN", "", "JetStream domain that has the streams"),
    setting(Links, "GANESH_NATS_API_PREFIX", "", "Subjects of requests to JetStream begin with it; empty: $JS.API"),
    setting(Links, "GANESH_NATS_INBOX_PREFIX", "_INBOX", "Subjects of answers and deliveries begin with it"),
    setting(Links, "PGSSLMODE", "", "sslmode of the URLs of Postgres that have none: disable, prefer (also if empty), require, verify-ca or verify-full"),
    setting(Links, "PGSSLROOTCERT", "", "Their sslrootcert: file with the certificates of the authorities that sign that of Postgres"),
    setting(Links, "PGSSLCERT", "", "Their sslcert: file with the client certificate for Postgres, and its chain"),
    setting(Links, "PGSSLKEY", "", "Their sslkey: file with the private key of PGSSLCERT"),
    setting(Links, "PGPASSFILE", "", "File with passwords for them: lines host:port:database:user:password"),
    setting(Links, "REDIS_CA", "", "File with the certificates of the authorities that sign that of the cache; empty: those that the system trusts"),
    setting(Links, "REDIS_CERT", "", "File with the client certificate for the cache, and its chain"),
    setting(Links, "REDIS_KEY", "", "File with the private key of REDIS_CERT"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "The endpoint for traces only; its path stays as it is"),
    setting(Links, "OTEL_EXPORTER_OTLP_PROTOCOL", "", "grpc (also if empty) or http/protobuf"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "", "The same for traces only"),
    setting(Links, "OTEL_EXPORTER_OTLP_COMPRESSION", "", "gzip or none (also if empty)"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "", "The same for traces only"),
    setting(Links, "OTEL_EXPORTER_OTLP_TIMEOUT", "", "How long a request to the collector may take, retries included, in milliseconds; empty: 10000"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "", "The same for traces only"),
    setting(Links, "OTEL_EXPORTER_OTLP_HEADERS", "", "Headers for the collector, such as a token: name=value pairs, separated by commas, values percent-encoded"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "", "The same for traces only"),
    setting(Links, "OTEL_EXPORTER_OTLP_CERTIFICATE", "", "File with the certificates of the authorities that sign that of the collector; empty: those that the system trusts"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "", "The same for traces only"),
    setting(Links, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "", "File with the client certificate for the collector, and its chain"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "", "The same for traces only"),
    setting(Links, "OTEL_EXPORTER_OTLP_CLIENT_KEY", "", "File with the private key of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    setting(Links, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "", "File with the private key of OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE"),
    setting(Stream, "GANESH_STREAM", "EVENTS", "Stream that holds the events"),
    setting(Stream, "GANESH_SUBJECTS", "events.>", "Subjects of the stream, separated by commas, when ganesh makes it"),
    setting(Stream, "GANESH_STREAM_MAX_AGE", "7d", "Age at which a stream that ganesh made drops a message"),
    setting(Stream, "GANESH_STREAM_MAX_BYTES", "10GiB", "Size at which a stream that ganesh made drops its oldest messages"),
    setting(Stream, "GANESH_STREAM_REPLICAS", "", "Replicas of the streams that ganesh makes; empty: 3 in a cluster, else 1; letters have at least those of the events"),
    setting(Stream, "GANESH_CONSUMER", "ganesh", "Durable pull consumer, shared by all replicas"),
    setting(Stream, "GANESH_DLQ_STREAM", "EVENTS_DLQ", "Stream of the dead letters, on subjects dlq.>; on <its name>.> if another stream has these"),
    setting(Stream, "GANESH_ACK_WAIT", "30s", "Time after which the server delivers an unacknowledged message again"),
    setting(Pipeline, "GANESH_MAX_DELIVERIES", "20", "A message delivered more often is written alone; after twice as many, a dead letter if three processes died while they wrote it"),
    setting(Pipeline, "GANESH_ACCEPT_PLAIN", "true", "Store a message that is no CloudEvent under its NATS metadata; false: dead letter"),
    setting(Pipeline, "GANESH_BATCH_MAX_EVENTS", "2000", "Events in a batch, at most"),
    setting(Pipeline, "GANESH_BATCH_MAX_BYTES", "8MiB", "Bytes in a batch, at most"),
    // `make compare` on two cores: 2 drain 44,000/s, 6 drain 37,000/s.
    setting(Pipeline, "GANESH_WRITERS", "2", "Batches stored side by side, each on its own connection"),
    setting(Pipeline, "GANESH_MAX_IN_FLIGHT", "16384", "Messages held, from delivery to settlement, at most"),
    setting(Pipeline, "GANESH_MAX_IN_FLIGHT_BYTES", "64MiB", "Bytes held, at most; never below the server's maximum payload"),
    setting(Pipeline, "GANESH_SHUTDOWN_GRACE", "25s", "How long a shutdown may take, from SIGTERM to exit"),
    setting(Storage, "GANESH_MIGRATE_ON_START", "true", "Apply the migrations before serve starts"),
    setting(Storage, "GANESH_POSTGRES_SCHEMA", "public", "Schema that holds events and ganesh's other tables; made when missing"),
    setting(Storage, "GANESH_PARTITION_INTERVAL", "day", "Time that one partition of events covers: hour or day"),
    setting(Storage, "GANESH_RETENTION_DAYS", "0", "Days after which events are dropped; 0 keeps them"),
    setting(Storage, "GANESH_CACHE_TTL_SECS", "3600", "Seconds that a newest state stays in the cache after a read put it there, less up to a tenth"),
    setting(Http, "GANESH_HTTP_ADDR", "127.0.0.1:8080", "Where the API listens; off: there is none"),
    setting(Http, "GANESH_ADMIN_ADDR", "127.0.0.1:9464", "Where /livez, /readyz, /metrics, /debug/slow, /runbook and /log-level are served"),
    setting(Http, "GANESH_API_TOKEN", "", "Bearer token of the API; empty: none; GANESH_API_TOKEN_FILE may hold several, one a line, and is read again when it changes"),
    setting(Http, "GANESH_HTTP_CLIENT_TIMEOUT", "30s", "How long the API waits for a client, which has to send its next request or to take an answer; 2 s to 1 h. Longer than a proxy keeps an idle connection. A stream sends a heartbeat after half of it"),
    setting(Http, "GANESH_HTTP_CORS_ORIGINS", "", "Origins whose pages may read the API, separated by commas; empty: none"),
    setting(Telemetry, "GANESH_LOG", "info,async_nats=warn,sqlx=warn", "Log filter: a level, or directives such as ganesh=debug,info"),
    setting(Telemetry, "GANESH_LOG_FORMAT", "auto", "text, json, or auto: text on a terminal, JSON elsewhere"),
    setting(Telemetry, "GANESH_LOG_DIR", "", "Folder for app.log, a copy of every log line as JSON"),
    setting(Telemetry, "GANESH_TRACE_SLOW_MS", "250", "Keep the trace of a message slower than this, in milliseconds"),
    setting(Telemetry, "GANESH_TRACE_BASELINE", "1000", "Keep the trace of one in this many ordinary messages and requests; 0: none"),
    setting(Telemetry, "GANESH_TRACE_MAX_PER_SEC", "200", "Traces kept in a second, at most; half of them for failed and redelivered messages"),
    setting(Telemetry, "OTEL_SDK_DISABLED", "false", "true: no metrics, no timing and no traces; to measure what they cost"),
    setting(Telemetry, "OTEL_TRACES_EXPORTER", "otlp", "otlp, or none"),
    setting(Telemetry, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317", "OTLP collector; https://… is TLS; http://localhost:4318 for http/protobuf, to whose path v1/traces is added"),
    setting(Telemetry, "OTEL_SERVICE_NAME", "ganesh", "Resource attribute service.name; ganesh-produce for produce"),
    setting(Telemetry, "OTEL_RESOURCE_ATTRIBUTES", "", "Further resource attributes: key=value pairs, separated by commas"),
    setting(Telemetry, "JAEGER_URL", "", "URL of Jaeger, such as http://localhost:16686, from which ganesh explain reads traces; empty: it reads none"),
    setting(Telemetry, "JAEGER_UI_URL", "", "URL of Jaeger's page for a browser, without a slash at its end: links to traces begin with it; empty: JAEGER_URL"),
    setting(Produce, "GANESH_PRODUCE_RATE", "1000", "Messages a second; 0: as fast as they are acknowledged"),
    setting(Produce, "GANESH_PRODUCE_COUNT", "", "End after this many messages; of a few, print how to look them up"),
    setting(Produce, "GANESH_PRODUCE_DURATION", "", "End after this time, such as 30s or 5m; without it and --count: at Ctrl-C"),
    setting(Produce, "GANESH_PRODUCE_SUBJECT", "", "Subject of every event, such as device-1"),
    setting(Produce, "GANESH_PRODUCE_TYPE", "", "Type of every event, such as com.example.reading"),
    setting(Produce, "GANESH_PRODUCE_DATA", "", "JSON data of every event"),
    setting(Produce, "GANESH_PRODUCE_SUBJECT_COUNT", "1000", "Number of subjects that the events are about; few of them are busy (Zipf)"),
    setting(Produce, "GANESH_PRODUCE_BYTES", "230", "Size of an event's data, in bytes, roughly"),
    setting(Produce, "GANESH_PRODUCE_MODE", "binary", "binary, structured, or plain (no CloudEvent: the data alone)"),
    setting(Produce, "GANESH_PRODUCE_DUPLICATES", "0", "Percentage of messages that repeat an event under another Nats-Msg-Id"),
    setting(Produce, "GANESH_PRODUCE_INVALID", "0", "Percentage of messages that are no valid event"),
    setting(Produce, "GANESH_PRODUCE_SAMPLE", "1000", "One in this many messages has a sampled traceparent; 0: none"),
    setting(Produce, "GANESH_PRODUCE_SEED", "", "Repeats the ids and contents of the run that printed it"),
    setting(Produce, "GANESH_PRODUCE_MAX_ACKS_IN_FLIGHT", "4096", "Messages that wait for their acknowledgement, at most"),
    setting(Produce, "GANESH_PRODUCE_JSON", "false", "Print the report as one JSON object"),
    setting(Bench, "GANESH_BENCH_MESSAGES", "300000", "Messages of each ceiling and each drain"),
    setting(Bench, "GANESH_BENCH_PAIRS", "3", "Pairs of a bare loop and a drain by ganesh"),
    setting(Bench, "GANESH_BENCH_RATES", "1000,20000", "Messages a second, of each live run"),
    setting(Bench, "GANESH_BENCH_DURATION", "20s", "How long each live run takes"),
    setting(Bench, "GANESH_BENCH_QUICK", "false", "Less of everything: 50,000 messages, one pair, 5 s"),
    setting(Bench, "GANESH_BENCH_JSON", "false", "Print the report as one JSON object"),
    setting(DeadLetters, "GANESH_DLQ_REASON", "", "Only letters with this reason, or one of several separated by commas"),
    setting(DeadLetters, "GANESH_DLQ_SUBJECT", "", "Only letters of messages on this subject; * and > are wildcards"),
    setting(DeadLetters, "GANESH_DLQ_SINCE", "", "Only letters written in this time up to now (30m, 2d), or since an RFC 3339 time"),
    setting(DeadLetters, "GANESH_DLQ_LIMIT", "", "Only this many letters, the oldest ones"),
    setting(DeadLetters, "GANESH_DLQ_JSON", "false", "Print one JSON object a line for each letter"),
    setting(DeadLetters, "GANESH_DLQ_RAW", "false", "Write the body to standard output, and nothing else"),
    setting(DeadLetters, "GANESH_DLQ_DRY_RUN", "false", "Say what would be done with each letter, and do nothing"),
    setting(DeadLetters, "GANESH_DLQ_RATE", "0", "Letters a second, at most; 0: no limit"),
    setting(DeadLetters, "GANESH_DLQ_MAX_GENERATION", "5", "Skip a message that was replayed this often"),
    setting(DeadLetters, "GANESH_DLQ_YES", "false", "Delete without asking; needed where there is no terminal"),
    setting(Explain, "GANESH_EXPLAIN_SEQUENCE", "", "Sequence of a message in GANESH_STREAM"),
    setting(Explain, "GANESH_EXPLAIN_ID", "", "Id of an event"),
    setting(Explain, "GANESH_EXPLAIN_TRACE_ID", "", "Trace id of a message: 32 hexadecimal digits"),
    setting(Explain, "GANESH_EXPLAIN_SUBJECT", "", "Subject of events, of which the newest is explained"),
    setting(Explain, "GANESH_EXPLAIN_SOURCE", "", "Source of the event with that id; empty: any"),
    setting(Explain, "GANESH_EXPLAIN_TIME", "", "Time of the event with that id, such as 2026-01-31T08:00:00Z; empty: the newest"),
    setting(Explain, "GANESH_EXPLAIN_JSON", "false", "Print the answer as one JSON object"),
    setting(Forget, "GANESH_FORGET_SUBJECT", "", "Subject of the rows that were deleted or changed"),
    setting(LogLevel, "GANESH_LOG_LEVEL_FOR", "15m", "How long the other filter stays in force, from 1s to 1d"),
];
