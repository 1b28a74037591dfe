//! The metrics themselves, in the order in which a message meets what they measure.

use super::{Kind, Metric};

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric::new(Kind::Counter, name, labels, help)
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric::new(Kind::Gauge, name, labels, help)
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    help: &'static str,
) -> Metric {
    Metric::new(Kind::Histogram(bounds), name, labels, help)
}

/// From a fast path's millisecond to the hour that a backlog may take. 0.25 s is
/// the objective's boundary.
pub const END_TO_END_BUCKETS_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 300.0, 900.0, 3600.0,
];
/// From a decode of 100 µs to an outage of a minute.
pub const STAGE_BUCKETS_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// One event alone to far more than a batch has by default.
pub const BATCH_BUCKETS_EVENTS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
    50_000.0,
];
/// 1 KiB to 64 MiB, in steps of four.
pub const BATCH_BUCKETS_BYTES: &[f64] = &[
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
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
pub const END_TO_END_SECONDS: Metric = histogram(
    "ganesh_end_to_end_seconds",
    &[],
    END_TO_END_BUCKETS_SECONDS,
    "From the time at which the stream stored a message to the commit of its row, once per message settled as stored.",
)
.in_unit("seconds");
/// Time in each stage.
pub const STAGE_SECONDS: Metric = histogram(
    "ganesh_stage_seconds",
    &["stage"],
    STAGE_BUCKETS_SECONDS,
    "Time that each settled message spent in a stage: stream (waiting in JetStream), decode, queue (waiting for a writer), store, cache, settle.",
)
.in_unit("seconds");
/// Events of a batch.
pub const BATCH_EVENTS: Metric = histogram(
    "ganesh_batch_events",
    &[],
    BATCH_BUCKETS_EVENTS,
    "Events of each batch that was closed.",
);
/// Bytes of a batch.
pub const BATCH_BYTES: Metric = histogram(
    "ganesh_batch_bytes",
    &[],
    BATCH_BUCKETS_BYTES,
    "Bytes of each batch that was closed, as delivered.",
)
.in_unit("bytes");
/// Statements that wrote batches.
pub const BATCH_WRITES: Metric = counter(
    "ganesh_batch_writes_total",
    &["method"],
    "Statements that wrote a batch or a part of one: copy, or insert (ON CONFLICT DO NOTHING).",
);
/// Whether too many rows are refused.
pub const REJECTION_PAUSE: Metric = gauge(
    "ganesh_rejection_pause",
    &[],
    "1 while nothing is stored because Postgres refused half of the last 1,000 rows, but for one batch every 10 s.",
);
/// Whether letters are refused.
pub const DEAD_LETTERS_REFUSED: Metric = gauge(
    "ganesh_dead_letters_refused",
    &[],
    "Letters that the dead-letter stream has not taken for ten seconds or more, though NATS answers: it is full or gone.",
);
/// Whether partitions are looked after.
pub const PARTITION_UPKEEP_FAILURES: Metric = gauge(
    "ganesh_partition_upkeep_failures",
    &[],
    "Rounds of partition upkeep that failed one after the other; 0 after one that did not. One replica of several is enough.",
);
/// Whether the stream was deleted.
pub const STREAM_GONE: Metric = gauge(
    "ganesh_stream_gone",
    &[],
    "1 after the stream was deleted, until it is made again.",
);
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
    "Bytes held now, from delivery to settlement, as delivered; each header after the 32nd of a message counts 150 more.",
)
.in_unit("bytes");
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
    "Entries waiting in a bounded queue, by what reads it.",
);
/// Capacity of a channel.
pub const QUEUE_CAPACITY: Metric = gauge(
    "ganesh_queue_capacity",
    &["queue"],
    "Entries that a bounded queue can hold, by what reads it.",
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
/// Lag in time.
pub const CONSUMER_OLDEST_PENDING: Metric = gauge(
    "ganesh_consumer_oldest_pending_seconds",
    &[],
    "Age of the oldest message that the consumer has not acknowledged, held ones included; 0 when there is none. Every replica exports the same value.",
)
.in_unit("seconds");
/// What the stream removed too early.
pub const CONSUMER_REMOVED: Metric = counter(
    "ganesh_consumer_removed_messages_total",
    &[],
    "Messages that the stream removed (limits, purge, deletion) before they were delivered: they are not stored. Every replica exports what it has seen.",
);
/// How far the clocks differ.
pub const CLOCK_SKEW: Metric = gauge(
    "ganesh_clock_skew_seconds",
    &[],
    "How far ahead of this process's clock the stream's timestamp of a message was at most in the last 10 s; 0 when it was never ahead.",
)
.in_unit("seconds");
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
/// Keeping decisions.
pub const TRACES: Metric = counter(
    "ganesh_traces_total",
    &["decision"],
    "Settled messages by the first that applies: kept as a trace because failed, redelivered, slow, upstream (sampled by the producer) or baseline (1 in N); over_budget; unsampled.",
);
/// Spans built.
pub const SPANS_BUILT: Metric = counter(
    "ganesh_spans_built_total",
    &[],
    "Spans built for export; after a flush the sum of ganesh_spans_total.",
);
/// What became of spans.
pub const SPANS: Metric = counter(
    "ganesh_spans_total",
    &["result"],
    "Spans by what became of them: exported (the collector answered Ok), dropped (no room in the queue), failed (the collector did not take them).",
);
/// Worker threads.
pub const RUNTIME_WORKERS: Metric = gauge(
    "ganesh_runtime_workers",
    &[],
    "Worker threads of the tokio runtime.",
);
/// Busy share of the worker threads.
pub const RUNTIME_BUSY_RATIO: Metric = gauge(
    "ganesh_runtime_busy_ratio",
    &["worker"],
    "Share of the last 5 s in which worker threads of the tokio runtime were busy, 0 to 1: their mean, the busiest, the idlest.",
)
.in_unit("ratio");
/// Tasks alive.
pub const RUNTIME_TASKS: Metric = gauge(
    "ganesh_runtime_tasks",
    &[],
    "Tasks of the tokio runtime that have not ended.",
);
/// Tasks that wait for any worker.
pub const RUNTIME_GLOBAL_QUEUE_DEPTH: Metric = gauge(
    "ganesh_runtime_global_queue_depth",
    &[],
    "Tasks waiting in the tokio runtime's global queue.",
);
/// The build.
pub const BUILD_INFO: Metric = gauge(
    "ganesh_build_info",
    &["version"],
    "Always 1; the version is the label.",
);
/// Processor time. The names without `ganesh_` are those that every Prometheus client uses.
pub const PROCESS_CPU_SECONDS: Metric = counter(
    "process_cpu_seconds_total",
    &[],
    "User and system processor time of the process.",
)
.in_unit("seconds");
/// File descriptors.
pub const PROCESS_OPEN_FDS: Metric = gauge(
    "process_open_fds",
    &[],
    "File descriptors that the process has open.",
);
/// Their limit.
pub const PROCESS_MAX_FDS: Metric = gauge(
    "process_max_fds",
    &[],
    "File descriptors that the process may have open (soft limit); 0 without limit.",
);
/// Resident memory.
pub const PROCESS_RESIDENT_MEMORY: Metric = gauge(
    "process_resident_memory_bytes",
    &[],
    "Resident memory of the process.",
)
.in_unit("bytes");
/// Virtual memory.
pub const PROCESS_VIRTUAL_MEMORY: Metric = gauge(
    "process_virtual_memory_bytes",
    &[],
    "Virtual memory of the process.",
)
.in_unit("bytes");
/// Its limit.
pub const PROCESS_VIRTUAL_MEMORY_MAX: Metric = gauge(
    "process_virtual_memory_max_bytes",
    &[],
    "Virtual memory that the process may use (soft limit); 0 without limit.",
)
.in_unit("bytes");
/// Start of the process.
pub const PROCESS_START_TIME: Metric = gauge(
    "process_start_time_seconds",
    &[],
    "Start of the process, since the Unix epoch.",
)
.in_unit("seconds");
/// Threads.
pub const PROCESS_THREADS: Metric = gauge(
    "process_threads",
    &[],
    "Operating-system threads of the process.",
);
