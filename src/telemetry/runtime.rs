//! What the tokio runtime and the operating system say about the process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::DirEntry;
use std::time::{Duration, Instant};

use metrics::Gauge;
use tokio::runtime::Handle;
use tokio_metrics::{RuntimeMetrics, RuntimeMonitor};
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::labels::BusyWorker;

/// Over how long the busy shares are taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Exports the runtime's gauges until `stop`.
pub(crate) async fn watch(metrics: Metrics, stop: CancellationToken) {
    let monitor = RuntimeMonitor::new(&Handle::current());
    let mut intervals = monitor.intervals();
    let mut waited = CpuWait::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SAMPLE_EVERY) => {}
        }
        let interval = intervals.next().expect("it never ends");
        export_interval(&metrics, &interval);
        metrics.runtime_cpu_wait_ratio.set(waited.longest_share());
    }
}

/// How long each thread of this process has waited for a processor while it could run.
struct CpuWait {
    by_thread: HashMap<OsString, Duration>,
    at: Instant,
}

impl Default for CpuWait {
    fn default() -> Self {
        Self {
            by_thread: waits(),
            at: Instant::now(),
        }
    }
}

impl CpuWait {
    /// The share of the time since the last call in which the thread that waited longest did.
    fn longest_share(&mut self) -> f64 {
        let before = std::mem::take(self);
        let elapsed = self.at.duration_since(before.at).as_secs_f64();
        let since = |(thread, wait): (&OsString, &Duration)| {
            let earlier = before.by_thread.get(thread)?;
            Some(wait.saturating_sub(*earlier))
        };
        let longest = self.by_thread.iter().filter_map(since).max();
        (longest.unwrap_or(Duration::ZERO).as_secs_f64() / elapsed).clamp(0.0, 1.0)
    }
}

/// By thread, as Linux has it: running, waiting, and time slices. Empty elsewhere.
fn waits() -> HashMap<OsString, Duration> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let wait = |thread: DirEntry| {
        // It may have ended.
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let waiting = times.split_whitespace().nth(1)?.parse().ok()?;
        Some((thread.file_name(), Duration::from_nanos(waiting)))
    };
    threads.flatten().filter_map(wait).collect()
}

fn export_interval(metrics: &Metrics, interval: &RuntimeMetrics) {
    #[allow(clippy::cast_precision_loss, reason = "gauges")]
    let workers = interval.workers_count.max(1) as f64;
    let elapsed = interval.elapsed.as_secs_f64();
    // A worker's busy time is added when it parks, so an interval may get more than its own.
    let share = |busy: Duration| (busy.as_secs_f64() / elapsed).clamp(0.0, 1.0);
    let mean = (interval.total_busy_duration.as_secs_f64() / workers / elapsed).clamp(0.0, 1.0);
    let busy = &metrics.runtime_busy_ratio;
    busy[BusyWorker::Mean].set(mean);
    busy[BusyWorker::Busiest].set(share(interval.max_busy_duration));
    busy[BusyWorker::Idlest].set(share(interval.min_busy_duration));
    set_whole(&metrics.runtime_workers, interval.workers_count as u64);
    set_whole(&metrics.runtime_tasks, interval.live_tasks_count as u64);
    set_whole(
        &metrics.runtime_global_queue_depth,
        interval.global_queue_depth as u64,
    );
}

/// Exports the process's figures. Called at each scrape: a rate from an older processor time is
/// wrong.
pub(crate) fn export_process(metrics: &Metrics) {
    let now = metrics_process::collector::collect();
    // What the system does not say stays as it is.
    if let Some(seconds) = now.cpu_seconds_total {
        metrics.process_cpu.set(seconds);
    }
    let wholes = [
        (&metrics.process_open_fds, now.open_fds),
        (&metrics.process_max_fds, now.max_fds),
        (&metrics.process_resident_memory, now.resident_memory_bytes),
        (&metrics.process_virtual_memory, now.virtual_memory_bytes),
        (
            &metrics.process_virtual_memory_max,
            now.virtual_memory_max_bytes,
        ),
        (&metrics.process_start_time, now.start_time_seconds),
        (&metrics.process_threads, now.threads),
    ];
    for (gauge, value) in wholes {
        if let Some(value) = value {
            set_whole(gauge, value);
        }
    }
}

fn set_whole(gauge: &Gauge, value: u64) {
    #[allow(clippy::cast_precision_loss, reason = "gauges")]
    gauge.set(value as f64);
}
