//! Every metric: name, kind, unit, help, labels and their closed values.
//! Dashboards, alerts and documents may name what stands here and nothing else.

use metrics::{Counter, Gauge, Histogram, Label};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in fixed buckets, with these upper bounds.
    Histogram(&'static [f64]),
}

/// One metric of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name on `/metrics`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit, in the words of OpenMetrics; empty for a count.
    pub unit: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// Label names, in the order in which handles take their values.
    pub labels: &'static [&'static str],
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit: "",
        help,
        labels,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit: "",
        help,
        labels,
    }
}

/// From a fast path's millisecond to the hour that a backlog may take. 0.25 s is
/// the objective's boundary.
pub const END_TO_END_BUCKETS_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// Deliveries fetched.
pub const MESSAGES_RECEIVED: Metric = counter(
    "ganesh_messages_received_total",
    &[],
    "Deliveries fetched from JetStream.",
);
/// Deliveries with a delivery count above one.
pub const MESSAGES_REDELIVERED: Metric = counter(
    "ganesh_messages_redelivered_total",
    &[],
    "Deliveries fetched whose delivery count was above one.",
);
/// How messages ended.
pub const MESSAGES_SETTLED: Metric = counter(
    "ganesh_messages_settled_total",
    &["outcome"],
    "Messages settled, by outcome: stored, duplicate, dead_lettered, released.",
);
/// Dead letters.
pub const DEAD_LETTERS: Metric = counter(
    "ganesh_dead_letters_total",
    &["reason"],
    "Dead letters written, by reason.",
);
/// From the stream's timestamp to the commit.
pub const END_TO_END_SECONDS: Metric = Metric {
    name: "ganesh_end_to_end_seconds",
    kind: Kind::Histogram(END_TO_END_BUCKETS_SECONDS),
    unit: "seconds",
    help: "From the time at which the stream stored a message to the commit of its row, once per message settled as stored.",
    labels: &[],
};
/// Messages held now.
pub const IN_FLIGHT_MESSAGES: Metric = gauge(
    "ganesh_in_flight_messages",
    &[],
    "Messages held now, from delivery to settlement.",
);
/// Messages that may be held.
pub const IN_FLIGHT_LIMIT: Metric = gauge(
    "ganesh_in_flight_limit",
    &[],
    "Messages that may be held (GANESH_MAX_IN_FLIGHT).",
);
/// Bytes held now.
pub const IN_FLIGHT_BYTES: Metric = gauge(
    "ganesh_in_flight_bytes",
    &[],
    "Bytes held now, from delivery to settlement, as delivered.",
);
/// Bytes that may be held.
pub const IN_FLIGHT_BYTES_LIMIT: Metric = gauge(
    "ganesh_in_flight_bytes_limit",
    &[],
    "Bytes that may be held (GANESH_MAX_IN_FLIGHT_BYTES).",
);
/// Fill of a channel.
pub const QUEUE_DEPTH: Metric = gauge(
    "ganesh_queue_depth",
    &["queue"],
    "Entries waiting in a bounded channel between two stages.",
);
/// Capacity of a channel.
pub const QUEUE_CAPACITY: Metric = gauge(
    "ganesh_queue_capacity",
    &["queue"],
    "Entries that a bounded channel between two stages can hold.",
);
/// Progress acknowledgements.
pub const PROGRESS_ACKS: Metric = counter(
    "ganesh_progress_acks_total",
    &[],
    "Progress acknowledgements (+WPI) sent for messages held longer than half of GANESH_ACK_WAIT.",
);
/// Lag: not delivered yet.
pub const CONSUMER_PENDING: Metric = gauge(
    "ganesh_consumer_pending_messages",
    &[],
    "Messages in the stream that the consumer has not delivered yet.",
);
/// Lag: delivered, not acknowledged.
pub const CONSUMER_ACK_PENDING: Metric = gauge(
    "ganesh_consumer_ack_pending_messages",
    &[],
    "Messages delivered to any replica and not acknowledged yet.",
);
/// Whether a dependency answers.
pub const DEPENDENCY_UP: Metric = gauge(
    "ganesh_dependency_up",
    &["dependency"],
    "1 while the dependency answers, 0 while it does not.",
);
/// Errors of a dependency.
pub const DEPENDENCY_ERRORS: Metric = counter(
    "ganesh_dependency_errors_total",
    &["dependency", "code"],
    "Errors that a dependency answered with, or that kept it from answering.",
);
/// Statements that wrote batches.
pub const BATCH_WRITES: Metric = counter(
    "ganesh_batch_writes_total",
    &["method"],
    "Statements that wrote a batch or a part of one: copy, or insert (ON CONFLICT DO NOTHING).",
);
/// What the cache was asked.
pub const CACHE_REQUESTS: Metric = counter(
    "ganesh_cache_requests_total",
    &["operation", "result"],
    "Cache operations: read (hit, miss, wait, bypass), fill (stored, voided, error), write (ok, skipped, error).",
);
/// The pool.
pub const POSTGRES_CONNECTIONS: Metric = gauge(
    "ganesh_postgres_connections",
    &["state"],
    "Connections of the Postgres pool: idle, used.",
);
/// HTTP requests.
pub const HTTP_REQUESTS: Metric = counter(
    "ganesh_http_requests_total",
    &["route", "status"],
    "Requests answered by the API, by route and class of status.",
);
/// The build.
pub const BUILD_INFO: Metric = gauge(
    "ganesh_build_info",
    &["version"],
    "Always 1; the version is the label.",
);

/// All of them.
pub const CATALOGUE: &[Metric] = &[
    MESSAGES_RECEIVED,
    MESSAGES_REDELIVERED,
    MESSAGES_SETTLED,
    DEAD_LETTERS,
    END_TO_END_SECONDS,
    IN_FLIGHT_MESSAGES,
    IN_FLIGHT_LIMIT,
    IN_FLIGHT_BYTES,
    IN_FLIGHT_BYTES_LIMIT,
    QUEUE_DEPTH,
    QUEUE_CAPACITY,
    PROGRESS_ACKS,
    CONSUMER_PENDING,
    CONSUMER_ACK_PENDING,
    DEPENDENCY_UP,
    DEPENDENCY_ERRORS,
    BATCH_WRITES,
    CACHE_REQUESTS,
    POSTGRES_CONNECTIONS,
    HTTP_REQUESTS,
    BUILD_INFO,
];

/// Values of the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its event is a new row.
    Stored,
    /// Its event was a row already.
    Duplicate,
    /// It is a dead letter.
    DeadLettered,
    /// It went back to the stream for at-once redelivery.
    Released,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [
        Self::Stored,
        Self::Duplicate,
        Self::DeadLettered,
        Self::Released,
    ];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::DeadLettered => "dead_lettered",
            Self::Released => "released",
        }
    }
}

/// The bounded channels between the stages, in flow order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// source → decode, in chunks of deliveries.
    Decode,
    /// decode → batch, in chunks of events.
    Batch,
    /// batch → store, in batches.
    Store,
    /// store → cache, in batches.
    Cache,
    /// cache → settle, in batches.
    Settle,
    /// decode and store → dead letter, in messages.
    DeadLetter,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 6] = [
        Self::Decode,
        Self::Batch,
        Self::Store,
        Self::Cache,
        Self::Settle,
        Self::DeadLetter,
    ];

    /// Its label value: the stage that reads it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Batch => "batch",
            Self::Store => "store",
            Self::Cache => "cache",
            Self::Settle => "settle",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// How a batch was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMethod {
    /// Binary `COPY`.
    Copy,
    /// `INSERT … ON CONFLICT DO NOTHING`.
    Insert,
}

/// A cache operation and how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRequest {
    /// A read found the value.
    ReadHit,
    /// A read found nothing and took the lease.
    ReadMiss,
    /// A read found another's lease and waited for its value.
    ReadWait,
    /// A read went to Postgres without the cache (away, slow, or epoch unknown).
    ReadBypass,
    /// A value was stored after a miss.
    FillStored,
    /// A value was not stored: a write had voided the lease.
    FillVoided,
    /// A fill failed.
    FillError,
    /// A batch's newest states were written.
    WriteOk,
    /// A batch's write was skipped because the cache is known to be away.
    WriteSkipped,
    /// A batch's write failed.
    WriteError,
}

impl CacheRequest {
    /// Every operation and result.
    pub const ALL: [Self; 10] = [
        Self::ReadHit,
        Self::ReadMiss,
        Self::ReadWait,
        Self::ReadBypass,
        Self::FillStored,
        Self::FillVoided,
        Self::FillError,
        Self::WriteOk,
        Self::WriteSkipped,
        Self::WriteError,
    ];

    /// The labels `operation` and `result`.
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::ReadHit => ("read", "hit"),
            Self::ReadMiss => ("read", "miss"),
            Self::ReadWait => ("read", "wait"),
            Self::ReadBypass => ("read", "bypass"),
            Self::FillStored => ("fill", "stored"),
            Self::FillVoided => ("fill", "voided"),
            Self::FillError => ("fill", "error"),
            Self::WriteOk => ("write", "ok"),
            Self::WriteSkipped => ("write", "skipped"),
            Self::WriteError => ("write", "error"),
        }
    }
}

impl Metric {
    fn labels_with(&self, values: &[&'static str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::from_static_parts(name, value))
            .collect()
    }

    /// The counter with these label values, visible as zero from now on.
    pub(super) fn counter(&self, values: &[&'static str]) -> Counter {
        let counter = metrics::counter!(self.name, self.labels_with(values));
        counter.increment(0);
        counter
    }

    /// The gauge with these label values, visible as zero from now on.
    pub(super) fn gauge(&self, values: &[&'static str]) -> Gauge {
        let gauge = metrics::gauge!(self.name, self.labels_with(values));
        gauge.set(0.0);
        gauge
    }

    /// The histogram.
    pub(super) fn histogram(&self) -> Histogram {
        metrics::histogram!(self.name)
    }

    /// Tells the recorder what the metric means.
    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram(_) => metrics::describe_histogram!(self.name, self.help),
        }
    }
}
