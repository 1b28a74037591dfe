//! Every metric, in the order in which a message meets what it measures. To add one, add an entry:
//! its handle, its series, its HELP and its line in docs/TELEMETRY.md come from it.

mod table;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::histogram::Histogram;
use crate::error::{Code, Dependency, Error};
use crate::labels::{
    BusyWorker, CacheRead, CacheRequest, ConnectionEvent, ConnectionState, Decision, HttpRoute,
    Outcome, Queue, Reason, SpanResult, Stage, StatusClass, WriteMethod,
};
pub(super) use table::Reading;
pub use table::{Both, Counter, Family, Gauge, Kind, Metric};
use table::{Fractions, Version, table};

/// From a millisecond to the hour that a backlog may take. 0.25 s is the objective's boundary.
const END_TO_END_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 300.0, 900.0, 3600.0,
];
/// From a decode of 100 µs to an outage of a minute.
pub const STAGE_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// From an answer of the cache to one of Postgres that takes its whole time.
const CACHE_READ_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// From an answer of the cache to the limit of an answer, 5 s.
const HTTP_REQUEST_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From one event to far more than a batch has by default.
const BATCH_EVENTS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
    50_000.0,
];
/// 1 KiB to 64 MiB, in steps of four.
const BATCH_BYTES: &[f64] = &[
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

table! {
    /// Deliveries fetched from JetStream.
    received: Counter = "ganesh_messages_received_total";

    /// Deliveries fetched whose delivery count was above one.
    redelivered: Counter = "ganesh_messages_redelivered_total";

    /// Messages settled, by outcome: stored, duplicate, skipped (by a trigger of the table), dead_lettered, marker (of NATS, no event), released.
    settled: Counter = "ganesh_messages_settled_total" [outcome: Outcome];

    /// Dead letters written, by reason.
    dead_letters: Counter = "ganesh_dead_letters_total" [reason: Reason];

    /// From the time at which the stream stored a message to the commit of its row, once per message
    /// settled as stored.
    end_to_end_seconds: Histogram(END_TO_END_SECONDS) = "ganesh_end_to_end_seconds";

    /// Time that each settled message spent in a stage: stream (waiting in JetStream), decode, queue
    /// (waiting for a writer), store, cache, settle.
    stage_seconds: Histogram(STAGE_SECONDS) = "ganesh_stage_seconds" [stage: Stage];

    /// Events of each batch.
    batch_events: Histogram(BATCH_EVENTS) = "ganesh_batch_events";

    /// Bytes of each batch, as delivered.
    batch_bytes: Histogram(BATCH_BYTES) = "ganesh_batch_bytes";

    /// Statements that wrote a batch or a part of one: copy, or insert (ON CONFLICT DO NOTHING).
    batch_writes: Counter = "ganesh_batch_writes_total" [method: WriteMethod];

    /// 1 while nothing is stored because Postgres rejected half of the last 1,000 rows, except one
    /// batch every 10 s.
    rejection_pause: Gauge = "ganesh_rejection_pause";

    /// Letters that the dead-letter stream has not accepted for 10 s or more although NATS answers:
    /// the stream is full or gone.
    dead_letters_refused: Gauge = "ganesh_dead_letters_refused";

    /// Rounds of partition upkeep that have failed in a row. It is enough that one replica succeeds.
    partition_upkeep_failures: Gauge = "ganesh_partition_upkeep_failures";

    /// 1 after the stream was deleted, until it is made again.
    stream_gone: Gauge = "ganesh_stream_gone";

    /// 1 while the API's reads get no fit session in Postgres by POSTGRES_READ_URL, or its role may not read all
    /// that they need: /readyz and the log say why.
    reads_refused: Gauge = "ganesh_reads_refused";

    /// Messages held now, from delivery to settlement.
    in_flight_messages: Gauge = "ganesh_in_flight_messages";

    /// Messages that may be held (GANESH_MAX_IN_FLIGHT).
    in_flight_limit: Gauge = "ganesh_in_flight_limit";

    /// Bytes held now, from delivery to settlement, as delivered; each header after the 32nd of a
    /// message counts 150 more.
    in_flight_bytes: Gauge = "ganesh_in_flight_bytes";

    /// Bytes that may be held (GANESH_MAX_IN_FLIGHT_BYTES).
    in_flight_bytes_limit: Gauge = "ganesh_in_flight_bytes_limit";

    /// Age of the oldest message held, since it was delivered here; 0 when none is held.
    oldest_held: Gauge = "ganesh_oldest_held_seconds";

    /// Entries waiting in a queue, by what reads it: messages, or spans (export).
    queue_depth: Gauge = "ganesh_queue_depth" [queue: Queue];

    /// Most entries in a queue, by what reads it: GANESH_MAX_IN_FLIGHT for messages, a limit of its own
    /// for export.
    queue_capacity: Gauge = "ganesh_queue_capacity" [queue: Queue];

    /// Progress acknowledgements (+WPI) sent for messages held longer than half of GANESH_ACK_WAIT.
    progress_acks: Counter = "ganesh_progress_acks_total";

    /// Messages in the stream that the consumer has not delivered yet.
    consumer_pending: Gauge = "ganesh_consumer_pending_messages";

    /// Messages delivered to any replica and not acknowledged yet.
    consumer_ack_pending: Gauge = "ganesh_consumer_ack_pending_messages";

    /// Age of the oldest message that the consumer has not acknowledged, held ones included; 0 when
    /// there is none. Every replica exports the same value.
    consumer_oldest_pending: Gauge = "ganesh_consumer_oldest_pending_seconds";

    /// Messages that the stream removed (limits, purge, deletion) before they were delivered: they are
    /// not stored. Every replica exports what it has seen.
    consumer_removed: Counter = "ganesh_consumer_removed_messages_total";

    /// Bytes that the stream holds, stored ones included.
    stream_bytes: Gauge = "ganesh_stream_bytes";

    /// Bytes at which the stream removes its oldest messages; 0 without limit.
    stream_bytes_limit: Gauge = "ganesh_stream_bytes_limit";

    /// Messages that the stream holds, stored ones included.
    stream_messages: Gauge = "ganesh_stream_messages";

    /// Messages at which the stream removes its oldest ones; 0 without limit.
    stream_messages_limit: Gauge = "ganesh_stream_messages_limit";

    /// Age of the oldest message that the stream holds, stored ones included; 0 when it is empty.
    stream_age: Gauge = "ganesh_stream_age_seconds";

    /// Age at which the stream removes a message; 0 without limit.
    stream_age_limit: Gauge = "ganesh_stream_age_limit_seconds";

    /// How far the stream's timestamp of a message was ahead of this process's clock: the most in the
    /// last 10 s, 0 when it was never ahead.
    clock_skew: Gauge = "ganesh_clock_skew_seconds";

    /// 1 while the dependency does what is needed of it, 0 while it does not: it does not answer, or
    /// Postgres is read-only.
    dependency_up: Gauge = "ganesh_dependency_up" [dependency: Dependency];

    /// Errors that a dependency answered with, or that kept it from answering.
    dependency_errors: Counter = "ganesh_dependency_errors_total"
        [dependency, code: Both<Dependency, Code>];

    /// Connections by what became of them: opened, the first one too; closed (lost, given up because an
    /// answer was late, or renewed by the Postgres pool).
    connection_events: Counter = "ganesh_connection_events_total"
        [dependency, event: Both<Dependency, ConnectionEvent>];

    /// Cache operations: read (hit, miss, wait, bypass), fill (stored, voided, error), write (ok,
    /// skipped, error).
    cache_requests: Counter = "ganesh_cache_requests_total" [operation, result: CacheRequest];

    /// Time in which a read of a newest state or of a single event was answered, by result: hit or wait (by the
    /// cache), miss or bypass (by Postgres).
    cache_read_seconds: Histogram(CACHE_READ_SECONDS) = "ganesh_cache_read_seconds"
        [result: CacheRead];

    /// Connections of the Postgres pools: idle, used.
    connections: Gauge = "ganesh_postgres_connections" [state: ConnectionState];

    /// Time in which the API answered a request, by route template and class of status.
    http_request_seconds: Histogram(HTTP_REQUEST_SECONDS) = "ganesh_http_request_seconds"
        [route, status: Both<HttpRoute, StatusClass>];

    /// Open streams of `GET /v1/events/stream`.
    tails: Gauge = "ganesh_tails";

    /// Settled messages, by the first that applies. Kept as a trace: failed, redelivered, slow,
    /// upstream (sampled by the producer), baseline (1 in N). Not kept: over_budget, unsampled.
    traces: Counter = "ganesh_traces_total" [decision: Decision];

    /// Spans built for export; after a flush the sum of ganesh_spans_total.
    spans_built: Counter = "ganesh_spans_built_total";

    /// Spans by what became of them: exported (the collector answered Ok), dropped (no room in the
    /// queue), failed (the collector did not take them).
    spans: Counter = "ganesh_spans_total" [result: SpanResult];

    /// Worker threads of the tokio runtime.
    runtime_workers: Gauge = "ganesh_runtime_workers";

    /// Share of the last 5 s in which worker threads of the tokio runtime were busy, 0 to 1: their
    /// mean, the busiest, the idlest.
    runtime_busy_ratio: Gauge = "ganesh_runtime_busy_ratio" [worker: BusyWorker];

    /// Share of the last 5 s in which the thread that waited longest could run and had no processor, 0
    /// to 1: other processes have them, or a limit on CPU is reached. Measured on Linux only; 0 elsewhere.
    runtime_cpu_wait_ratio: Gauge = "ganesh_runtime_cpu_wait_ratio";

    /// Tasks of the tokio runtime that have not ended.
    runtime_tasks: Gauge = "ganesh_runtime_tasks";

    /// Tasks waiting in the tokio runtime's global queue.
    runtime_global_queue_depth: Gauge = "ganesh_runtime_global_queue_depth";

    /// Always 1; the version is the label.
    build_info: Gauge = "ganesh_build_info" [version: Version];

    // The names without `ganesh_` are those that every Prometheus client uses.

    /// User and system processor time of the process.
    process_cpu: Fractions = "process_cpu_seconds_total";

    /// File descriptors that the process has open.
    process_open_fds: Gauge = "process_open_fds";

    /// File descriptors that the process may have open (soft limit); 0 without limit.
    process_max_fds: Gauge = "process_max_fds";

    /// Resident memory of the process.
    process_resident_memory: Gauge = "process_resident_memory_bytes";

    /// Virtual memory of the process.
    process_virtual_memory: Gauge = "process_virtual_memory_bytes";

    /// Virtual memory that the process may use (soft limit); 0 without limit.
    process_virtual_memory_max: Gauge = "process_virtual_memory_max_bytes";

    /// Start of the process, since the Unix epoch.
    process_start_time: Gauge = "process_start_time_seconds";

    /// Operating-system threads of the process.
    process_threads: Gauge = "process_threads";
}

/// The handles of all metrics; every series exists from the start. Cloning clones an `Arc`.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

impl Default for Metrics {
    fn default() -> Self {
        let handles = Handles::new();
        handles.build_info[Version].set(1.0);
        Self(Arc::new(handles))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Deref for Metrics {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

impl Metrics {
    /// Counts an error of a dependency.
    pub(crate) fn dependency_error(&self, error: &Error) {
        self.dependency_errors[Both(error.dependency, error.code)].increment(1);
    }
}
