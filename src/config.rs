//! The configuration: one table of settings, one validated [`Config`].
//!
//! Every setting is a flag and an environment variable of the same name
//! (`GANESH_BATCH_MAX_EVENTS` is `--batch-max-events`); [`SETTINGS`] is where its
//! default and its help stand, and the only place. [`Reader`] collects every
//! mistake before it gives up, so that a user corrects them all at once.

mod cache;
mod links;
pub(crate) mod log_filter;
mod nats;
mod otlp;
mod postgres;
mod reader;
mod secret;
mod settings;
mod sources;
mod subjects;
mod unknown;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use nats::{NatsLogin, parse_credentials};
pub(crate) use otlp::{OtlpConfig, OtlpProtocol};
pub(crate) use postgres::files_of as files_of_postgres;
pub use reader::{ConfigErrors, Reader};
pub(crate) use secret::HIDDEN;
pub use secret::{Secret, SecretUrl};
pub(crate) use settings::setting_of;
pub use settings::{Group, SETTINGS, Setting};
pub(crate) use sources::{flags, group_flags, link_flags};
pub(crate) use subjects::is_valid as is_subject;
pub(crate) use subjects::{covers, pattern_of};
pub(crate) use values::{parse_duration, parse_tokens};

use crate::tls::TlsFiles;

pub(crate) const DLQ_SUBJECTS: &str = "dlq.>";

/// Everything that a process of ganesh can be told. Its `Debug` shows no secret.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "SETTINGS says what each field is")]
pub struct Config {
    pub nats: NatsConfig,
    pub postgres: PostgresConfig,
    pub(crate) cache: CacheConfig,
    pub pipeline: PipelineConfig,
    pub(crate) http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub(crate) startup_timeout: Duration,
    pub shutdown_grace: Duration,
}

/// JetStream: its address, and the streams and the consumer of ganesh.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "SETTINGS says what each field is")]
pub struct NatsConfig {
    pub(crate) url: SecretUrl,
    pub(crate) login: NatsLogin,
    pub(crate) tls: TlsFiles,
    /// TLS before the server's first word.
    pub(crate) tls_first: bool,
    /// Of requests to JetStream; that of a domain, if there is one.
    pub(crate) api_prefix: String,
    pub(crate) inbox_prefix: String,
    pub(crate) stream: String,
    pub subjects: Vec<String>,
    pub stream_max_age: Duration,
    pub stream_max_bytes: u64,
    /// `None`: 3 in a cluster, else 1.
    pub(crate) stream_replicas: Option<usize>,
    pub(crate) consumer: String,
    pub(crate) dlq_stream: String,
    pub(crate) ack_wait: Duration,
}

/// Postgres: where it is, and how `events` is kept.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "SETTINGS says what each field is")]
pub struct PostgresConfig {
    pub(crate) url: SecretUrl,
    /// `None`: `url`.
    pub(crate) read_url: Option<SecretUrl>,
    /// Where its tables are; as it is, without quotes.
    pub(crate) schema: String,
    pub migrate_on_start: bool,
    pub(crate) partition_interval: PartitionInterval,
    /// `None` keeps events.
    pub retention_days: Option<u32>,
}

/// The time that one partition of `events` covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionInterval {
    /// From one full hour, UTC, to the next.
    Hour,
    /// From midnight, UTC, to midnight.
    Day,
}

/// Dragonfly or Redis.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    pub(crate) url: SecretUrl,
    pub(crate) tls: TlsFiles,
    pub(crate) ttl: Duration,
}

/// The message path.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "SETTINGS says what each field is")]
pub struct PipelineConfig {
    pub accept_plain: bool,
    pub(crate) max_deliveries: u64,
    pub(crate) batch_max_events: usize,
    /// As the messages were delivered.
    pub(crate) batch_max_bytes: usize,
    pub(crate) writers: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_in_flight_bytes: usize,
}

/// Writers for each place to store (`GANESH_WRITERS`). One stores; the others write the cache and
/// acknowledge. By default 8 writers can hold 8 full batches, about the in-flight limit. With a cache
/// 90 ms late they keep the full rate; one writer a place keeps 55 % (`make compare`).
const WRITERS_PER_PLACE: usize = 4;

impl PipelineConfig {
    /// Writers, of which `writers` store at the same time.
    pub(crate) fn all_writers(&self) -> usize {
        self.writers * WRITERS_PER_PLACE
    }
}

#[derive(Debug, Clone)]
pub(crate) struct HttpConfig {
    /// `None`: there is no API.
    pub(crate) api_addr: Option<SocketAddr>,
    pub(crate) admin_addr: SocketAddr,
    pub(crate) api_tokens: ApiTokens,
    /// For a client of the API to send its next request, or to take an answer.
    pub(crate) client_timeout: Duration,
    /// Whose pages may read the API.
    pub(crate) cors_origins: Vec<String>,
}

/// What the API asks for; nothing if there are none.
#[derive(Debug, Clone)]
pub(crate) struct ApiTokens {
    pub(crate) tokens: Vec<Secret>,
    /// Where they came from, and may change.
    pub(crate) file: Option<PathBuf>,
}

/// Logs and traces.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "SETTINGS says what each field is")]
pub struct TelemetryConfig {
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
    pub(crate) log_dir: Option<PathBuf>,
    /// Off: nothing is counted, timed or traced.
    pub(crate) enabled: bool,
    /// Never when nothing is timed.
    pub(crate) traces: TracesExporter,
    /// What `serve` has with these settings, whichever command this is.
    pub(crate) traces_of_service: TracesExporter,
    pub(crate) otlp: OtlpConfig,
    /// From the stream's timestamp to the settlement.
    pub(crate) trace_slow: Duration,
    /// One in this many; 0 means none.
    pub(crate) trace_baseline: u32,
    pub(crate) trace_max_per_second: u32,
    pub service_name: String,
    pub resource_attributes: Vec<(String, String)>,
    /// Where traces are read.
    pub(crate) jaeger_url: Option<SecretUrl>,
    /// Where links to traces lead; else to `jaeger_url`.
    pub(crate) jaeger_ui_url: Option<SecretUrl>,
    /// Variables of OpenTelemetry that are set, and change nothing here.
    pub(crate) unread_variables: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TracesExporter {
    Otlp,
    None,
}

impl Config {
    /// Reads and validates every setting that is not of one command alone.
    ///
    /// # Errors
    /// All mistakes at once, each with the variable's name and what was expected.
    pub fn read(mut reader: Reader) -> Result<Self, ConfigErrors> {
        let config = Self::read_from(&mut reader);
        reader.finish(config)
    }

    /// A configuration that counts only when [`Reader::finish`] has no mistakes.
    pub(crate) fn read_from(r: &mut Reader) -> Self {
        let config = Self {
            nats: NatsConfig::read(r),
            postgres: PostgresConfig::read(r),
            cache: CacheConfig::read(r),
            pipeline: PipelineConfig::read(r),
            http: HttpConfig::read(r),
            telemetry: TelemetryConfig::read(r),
            startup_timeout: r.duration("GANESH_STARTUP_TIMEOUT", "1ms", "1d"),
            shutdown_grace: r.duration("GANESH_SHUTDOWN_GRACE", "1s", "1h"),
        };
        config.check_together(r);
        config
    }

    /// Checks rules across settings.
    fn check_together(&self, r: &mut Reader) {
        let pipeline = &self.pipeline;
        if pipeline.batch_max_events > pipeline.max_in_flight {
            r.conflict(
                "GANESH_BATCH_MAX_EVENTS",
                "GANESH_MAX_IN_FLIGHT",
                "at most GANESH_MAX_IN_FLIGHT, or a batch could never fill",
            );
        }
        if pipeline.batch_max_bytes > pipeline.max_in_flight_bytes {
            r.conflict(
                "GANESH_BATCH_MAX_BYTES",
                "GANESH_MAX_IN_FLIGHT_BYTES",
                "at most GANESH_MAX_IN_FLIGHT_BYTES, or a batch could never fill",
            );
        }
        if self.nats.stream == self.nats.dlq_stream {
            r.conflict(
                "GANESH_DLQ_STREAM",
                "GANESH_STREAM",
                "a stream other than GANESH_STREAM",
            );
        }
        let (api, admin) = (self.http.api_addr, self.http.admin_addr);
        if api == Some(admin) && admin.port() != 0 {
            r.conflict(
                "GANESH_ADMIN_ADDR",
                "GANESH_HTTP_ADDR",
                "an address other than GANESH_HTTP_ADDR",
            );
        }
        self.check_subjects(r);
    }

    /// JetStream would reject these; the second only after it made the event stream.
    fn check_subjects(&self, r: &mut Reader) {
        let subjects = &self.nats.subjects;
        let overlap = subjects.iter().enumerate().any(|(i, one)| {
            let mut others = subjects[..i].iter().map(String::as_str);
            subjects::overlap(one, DLQ_SUBJECTS)
                || others.any(|other| subjects::overlap(one, other))
        });
        if overlap {
            r.conflict(
                "GANESH_SUBJECTS",
                "GANESH_SUBJECTS",
                "subjects that overlap neither each other nor dlq.>, where dead letters go",
            );
        }
    }
}

impl PipelineConfig {
    fn read(r: &mut Reader) -> Self {
        Self {
            accept_plain: r.boolean("GANESH_ACCEPT_PLAIN"),
            max_deliveries: r.integer("GANESH_MAX_DELIVERIES", 1, 1_000_000),
            batch_max_events: r.integer("GANESH_BATCH_MAX_EVENTS", 1, 50_000),
            batch_max_bytes: r.bytes("GANESH_BATCH_MAX_BYTES", "1", "64GiB"),
            writers: r.integer("GANESH_WRITERS", 1, 64),
            max_in_flight: r.integer("GANESH_MAX_IN_FLIGHT", 1, 1_000_000),
            max_in_flight_bytes: r.bytes("GANESH_MAX_IN_FLIGHT_BYTES", "64KiB", "64GiB"),
        }
    }
}

impl HttpConfig {
    fn read(r: &mut Reader) -> Self {
        Self {
            api_addr: r.socket_addr_or_off("GANESH_HTTP_ADDR"),
            admin_addr: r.socket_addr("GANESH_ADMIN_ADDR"),
            api_tokens: ApiTokens {
                tokens: r.tokens("GANESH_API_TOKEN"),
                file: r.file_of("GANESH_API_TOKEN"),
            },
            client_timeout: r.duration("GANESH_HTTP_CLIENT_TIMEOUT", "2s", "1h"),
            cors_origins: r.origins("GANESH_HTTP_CORS_ORIGINS"),
        }
    }
}

impl TelemetryConfig {
    fn read(r: &mut Reader) -> Self {
        let enabled = !r.boolean("OTEL_SDK_DISABLED");
        let exporters = [
            ("otlp", TracesExporter::Otlp),
            ("none", TracesExporter::None),
        ];
        let exporter = r.one_of("OTEL_TRACES_EXPORTER", &exporters);
        let traces = if enabled {
            exporter
        } else {
            TracesExporter::None
        };
        let (service_name, resource_attributes) = r.resource();
        Self {
            enabled,
            traces,
            traces_of_service: traces,
            log_filter: r.log_filter("GANESH_LOG"),
            log_format: r.one_of(
                "GANESH_LOG_FORMAT",
                &[
                    ("auto", LogFormat::Auto),
                    ("text", LogFormat::Text),
                    ("json", LogFormat::Json),
                ],
            ),
            log_dir: r.folder("GANESH_LOG_DIR"),
            otlp: OtlpConfig::read(r),
            trace_slow: Duration::from_millis(r.integer("GANESH_TRACE_SLOW_MS", 0, 86_400_000)),
            trace_max_per_second: r.integer("GANESH_TRACE_MAX_PER_SEC", 0, 1_000_000),
            trace_baseline: r.integer("GANESH_TRACE_BASELINE", 0, 1_000_000_000),
            service_name,
            resource_attributes,
            jaeger_url: r.optional_url("JAEGER_URL", &["http"]),
            jaeger_ui_url: r.optional_url("JAEGER_UI_URL", &["http", "https"]),
            unread_variables: r.unread_of_opentelemetry(),
        }
    }
}
