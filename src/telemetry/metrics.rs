//! The handles of the metrics: made once at start, indexed by closed enums,
//! never looked up by name on the message path.

use std::sync::Arc;

use metrics::{Counter, Gauge};
use strum::VariantArray;

use super::catalogue::{self, CATALOGUE, Metric};
use super::histogram::Histogram;
use super::recorder::Histograms;
use crate::error::{Code, Dependency, Error};
use crate::labels::{
    BusyWorker, CacheRequest, Decision, HttpRoute, Outcome, Queue, Reason, SpanResult, Stage,
    StatusClass, WriteMethod,
};

/// The handles. Cloning clones an `Arc`.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

/// See the catalogue for what each one means.
#[allow(missing_docs)]
pub struct Handles {
    pub received: Counter,
    pub redelivered: Counter,
    settled: Vec<Counter>,
    dead_letters: Vec<Counter>,
    pub end_to_end_seconds: Arc<Histogram>,
    stage_seconds: Vec<Arc<Histogram>>,
    pub batch_events: Arc<Histogram>,
    pub batch_bytes: Arc<Histogram>,
    batch_writes: Vec<Counter>,
    pub rejection_pause: Gauge,
    pub dead_letters_refused: Gauge,
    pub partition_upkeep_failures: Gauge,
    pub stream_gone: Gauge,
    pub in_flight_messages: Gauge,
    pub in_flight_limit: Gauge,
    pub in_flight_bytes: Gauge,
    pub in_flight_bytes_limit: Gauge,
    queue_depth: Vec<Gauge>,
    queue_capacity: Vec<Gauge>,
    pub progress_acks: Counter,
    pub consumer_pending: Gauge,
    pub consumer_ack_pending: Gauge,
    pub consumer_oldest_pending: Gauge,
    pub consumer_removed: Counter,
    pub clock_skew: Gauge,
    dependency_up: Vec<Gauge>,
    dependency_errors: Vec<Counter>,
    cache_requests: Vec<Counter>,
    pub connections_idle: Gauge,
    pub connections_used: Gauge,
    http_requests: Vec<Counter>,
    traces: Vec<Counter>,
    pub spans_built: Counter,
    spans: Vec<Counter>,
    pub runtime_workers: Gauge,
    runtime_busy_ratio: Vec<Gauge>,
    pub runtime_tasks: Gauge,
    pub runtime_global_queue_depth: Gauge,
    pub process: ProcessGauges,
}

/// What the operating system says about the process.
#[allow(missing_docs, reason = "see the catalogue")]
pub struct ProcessGauges {
    pub cpu_seconds: Gauge,
    pub open_fds: Gauge,
    pub max_fds: Gauge,
    pub resident_memory: Gauge,
    pub virtual_memory: Gauge,
    pub virtual_memory_max: Gauge,
    pub start_time: Gauge,
    pub threads: Gauge,
}

impl ProcessGauges {
    fn register() -> Self {
        Self {
            cpu_seconds: catalogue::PROCESS_CPU_SECONDS.gauge(&[]),
            open_fds: catalogue::PROCESS_OPEN_FDS.gauge(&[]),
            max_fds: catalogue::PROCESS_MAX_FDS.gauge(&[]),
            resident_memory: catalogue::PROCESS_RESIDENT_MEMORY.gauge(&[]),
            virtual_memory: catalogue::PROCESS_VIRTUAL_MEMORY.gauge(&[]),
            virtual_memory_max: catalogue::PROCESS_VIRTUAL_MEMORY_MAX.gauge(&[]),
            start_time: catalogue::PROCESS_START_TIME.gauge(&[]),
            threads: catalogue::PROCESS_THREADS.gauge(&[]),
        }
    }
}

impl std::ops::Deref for Metrics {
    type Target = Handles;
    fn deref(&self) -> &Handles {
        &self.0
    }
}

impl Metrics {
    /// Makes every handle, so that every series is visible before its first event. Counters
    /// and gauges go to the installed recorder, if there is one; histograms stand in
    /// `histograms`.
    pub fn register(histograms: &Histograms) -> Self {
        for metric in CATALOGUE {
            metric.describe();
        }
        catalogue::BUILD_INFO
            .gauge(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        Self(Arc::new(Handles {
            received: catalogue::MESSAGES_RECEIVED.counter(&[]),
            redelivered: catalogue::MESSAGES_REDELIVERED.counter(&[]),
            settled: counters(&catalogue::MESSAGES_SETTLED),
            dead_letters: counters(&catalogue::DEAD_LETTERS),
            end_to_end_seconds: catalogue::END_TO_END_SECONDS.histogram(histograms, &[]),
            stage_seconds: catalogue::STAGE_SECONDS
                .series()
                .iter()
                .map(|stage| catalogue::STAGE_SECONDS.histogram(histograms, stage))
                .collect(),
            batch_events: catalogue::BATCH_EVENTS.histogram(histograms, &[]),
            batch_bytes: catalogue::BATCH_BYTES.histogram(histograms, &[]),
            batch_writes: counters(&catalogue::BATCH_WRITES),
            rejection_pause: catalogue::REJECTION_PAUSE.gauge(&[]),
            dead_letters_refused: catalogue::DEAD_LETTERS_REFUSED.gauge(&[]),
            partition_upkeep_failures: catalogue::PARTITION_UPKEEP_FAILURES.gauge(&[]),
            stream_gone: catalogue::STREAM_GONE.gauge(&[]),
            in_flight_messages: catalogue::IN_FLIGHT_MESSAGES.gauge(&[]),
            in_flight_limit: catalogue::IN_FLIGHT_LIMIT.gauge(&[]),
            in_flight_bytes: catalogue::IN_FLIGHT_BYTES.gauge(&[]),
            in_flight_bytes_limit: catalogue::IN_FLIGHT_BYTES_LIMIT.gauge(&[]),
            queue_depth: gauges(&catalogue::QUEUE_DEPTH),
            queue_capacity: gauges(&catalogue::QUEUE_CAPACITY),
            progress_acks: catalogue::PROGRESS_ACKS.counter(&[]),
            consumer_pending: catalogue::CONSUMER_PENDING.gauge(&[]),
            consumer_ack_pending: catalogue::CONSUMER_ACK_PENDING.gauge(&[]),
            consumer_oldest_pending: catalogue::CONSUMER_OLDEST_PENDING.gauge(&[]),
            consumer_removed: catalogue::CONSUMER_REMOVED.counter(&[]),
            clock_skew: catalogue::CLOCK_SKEW.gauge(&[]),
            dependency_up: gauges(&catalogue::DEPENDENCY_UP),
            dependency_errors: counters(&catalogue::DEPENDENCY_ERRORS),
            cache_requests: counters(&catalogue::CACHE_REQUESTS),
            connections_idle: catalogue::POSTGRES_CONNECTIONS.gauge(&["idle"]),
            connections_used: catalogue::POSTGRES_CONNECTIONS.gauge(&["used"]),
            http_requests: counters(&catalogue::HTTP_REQUESTS),
            traces: counters(&catalogue::TRACES),
            spans_built: catalogue::SPANS_BUILT.counter(&[]),
            spans: counters(&catalogue::SPANS),
            runtime_workers: catalogue::RUNTIME_WORKERS.gauge(&[]),
            runtime_busy_ratio: gauges(&catalogue::RUNTIME_BUSY_RATIO),
            runtime_tasks: catalogue::RUNTIME_TASKS.gauge(&[]),
            runtime_global_queue_depth: catalogue::RUNTIME_GLOBAL_QUEUE_DEPTH.gauge(&[]),
            process: ProcessGauges::register(),
        }))
    }

    /// `ganesh_messages_settled_total{outcome}`.
    pub fn settled(&self, outcome: Outcome) -> &Counter {
        &self.settled[outcome as usize]
    }

    /// `ganesh_dead_letters_total{reason}`.
    pub fn dead_letters(&self, reason: Reason) -> &Counter {
        &self.dead_letters[place(reason)]
    }

    /// `ganesh_stage_seconds{stage}`.
    pub fn stage_seconds(&self, stage: Stage) -> &Arc<Histogram> {
        &self.stage_seconds[stage as usize]
    }

    /// `ganesh_traces_total{decision}`.
    pub fn traces(&self, decision: Decision) -> &Counter {
        &self.traces[decision as usize]
    }

    /// `ganesh_spans_total{result}`.
    pub fn spans(&self, result: SpanResult) -> &Counter {
        &self.spans[result as usize]
    }

    /// `ganesh_runtime_busy_ratio{worker}`.
    pub fn runtime_busy_ratio(&self, worker: BusyWorker) -> &Gauge {
        &self.runtime_busy_ratio[worker as usize]
    }

    /// `ganesh_queue_depth{queue}`.
    pub fn queue_depth(&self, queue: Queue) -> &Gauge {
        &self.queue_depth[queue as usize]
    }

    /// `ganesh_queue_capacity{queue}`.
    pub fn queue_capacity(&self, queue: Queue) -> &Gauge {
        &self.queue_capacity[queue as usize]
    }

    /// `ganesh_dependency_up{dependency}`.
    pub fn dependency_up(&self, dependency: Dependency, up: bool) {
        self.dependency_up[dependency as usize].set(if up { 1.0 } else { 0.0 });
    }

    /// Counts an error in `ganesh_dependency_errors_total{dependency,code}`.
    pub fn dependency_error(&self, error: &Error) {
        let index = error.dependency as usize * Code::VARIANTS.len() + error.code as usize;
        self.dependency_errors[index].increment(1);
    }

    /// `ganesh_batch_writes_total{method}`.
    pub fn batch_writes(&self, method: WriteMethod) -> &Counter {
        &self.batch_writes[method as usize]
    }

    /// `ganesh_cache_requests_total{operation,result}`.
    pub fn cache_requests(&self, request: CacheRequest) -> &Counter {
        &self.cache_requests[request as usize]
    }

    /// `ganesh_http_requests_total{route,status}`; an unknown route is `other`.
    pub fn http_requests(&self, route: &str, status: u16) -> &Counter {
        let is_it = |known: &&HttpRoute| known.into_str() == route;
        let route = HttpRoute::VARIANTS.iter().find(is_it);
        let route = *route.unwrap_or(&HttpRoute::Other);
        let class = match status {
            500.. => StatusClass::ServerError,
            400.. => StatusClass::ClientError,
            _ => StatusClass::Success,
        };
        &self.http_requests[route as usize * StatusClass::VARIANTS.len() + class as usize]
    }
}

/// Where a value stands in its list.
fn place<L: VariantArray + Copy + PartialEq>(value: L) -> usize {
    let place = L::VARIANTS.iter().position(|known| *known == value);
    place.expect("a list has all values")
}

fn counters(metric: &Metric) -> Vec<Counter> {
    let series = metric.series();
    series.iter().map(|values| metric.counter(values)).collect()
}

fn gauges(metric: &Metric) -> Vec<Gauge> {
    let series = metric.series();
    series.iter().map(|values| metric.gauge(values)).collect()
}
