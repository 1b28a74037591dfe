//! Which dependencies answer, and whether this process serves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strum::VariantArray as _;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Metrics;
use crate::error::Dependency;

const REFUSAL_PROOF: &str = "nothing panics under this lock";
/// Messages may be held for so long without one of them being settled.
pub(crate) const NONE_SETTLED_LIMIT: Duration = Duration::from_mins(1);

/// The answer of `/readyz`. Cloning clones an `Arc`.
#[derive(Clone)]
pub struct Health(Arc<HealthState>);

struct HealthState {
    up: [AtomicBool; Dependency::VARIANTS.len()],
    recovered: [Notify; Dependency::VARIANTS.len()],
    has_served: AtomicBool,
    stopping: AtomicBool,
    stream_gone: AtomicBool,
    rejection_pause: AtomicBool,
    letters_refused: AtomicUsize,
    pulls_fail: AtomicBool,
    database_refusal: Mutex<Option<String>>,
    reads_refusal: Mutex<Option<String>>,
    postgres_read_only: AtomicBool,
    none_settled: AtomicBool,
    metrics: Metrics,
}

impl Health {
    /// Nothing is known to answer yet.
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(HealthState {
            up: Default::default(),
            recovered: Default::default(),
            has_served: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            stream_gone: AtomicBool::new(false),
            rejection_pause: AtomicBool::new(false),
            letters_refused: AtomicUsize::new(0),
            pulls_fail: AtomicBool::new(false),
            database_refusal: Mutex::default(),
            reads_refusal: Mutex::default(),
            postgres_read_only: AtomicBool::new(false),
            none_settled: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Sets whether a dependency does what is needed of it: it answers. Logs a change.
    pub(crate) fn set(&self, dependency: Dependency, up: bool) {
        self.set_up(dependency, up, "dependency does not answer");
    }

    /// Sets that Postgres answers; it is up if it takes writes. Logs a change.
    pub(crate) fn set_postgres_answers(&self, is_read_only: bool) {
        let state = &self.0.postgres_read_only;
        state.store(is_read_only, Ordering::Relaxed);
        let why_down = "dependency is read-only: nothing is stored until it takes writes";
        self.set_up(Dependency::Postgres, !is_read_only, why_down);
    }

    /// Sets that Postgres does not answer. Logs a change.
    pub(crate) fn set_postgres_silent(&self) {
        let state = &self.0.postgres_read_only;
        state.store(false, Ordering::Relaxed);
        self.set(Dependency::Postgres, false);
    }

    fn set_up(&self, dependency: Dependency, up: bool, why_down: &'static str) {
        self.0.metrics.dependency_up[dependency].set(f64::from(up));
        if self.0.up[dependency as usize].swap(up, Ordering::Relaxed) != up {
            let name = dependency.into_str();
            if up {
                tracing::info!(dependency = name, "dependency answers");
                self.0.recovered[dependency as usize].notify_waiters();
            } else {
                tracing::warn!(dependency = name, "{why_down}");
            }
        }
    }

    pub(crate) fn is_up(&self, dependency: Dependency) -> bool {
        self.0.up[dependency as usize].load(Ordering::Relaxed)
    }

    /// Resolves when a dependency that did not answer does, from the moment of this call on.
    pub(crate) fn recovery(&self, dependency: Dependency) -> Notified<'_> {
        self.0.recovered[dependency as usize].notified()
    }

    /// Notes that the pipeline runs.
    pub(crate) fn set_serving(&self) {
        self.0.has_served.store(true, Ordering::Relaxed);
    }

    /// Notes that the process shuts down. It is not ready again.
    pub(crate) fn set_stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns whether the pipeline runs, or ran until it was shut down.
    pub(crate) fn has_served(&self) -> bool {
        self.0.has_served.load(Ordering::Relaxed)
    }

    /// Sets whether the event stream was deleted; logs a change.
    pub(crate) fn set_stream_gone(&self, gone: bool) {
        if self.0.stream_gone.swap(gone, Ordering::Relaxed) != gone {
            self.0.metrics.stream_gone.set(f64::from(gone));
            if gone {
                tracing::error!(
                    "the stream was deleted, with every event that was not stored; it is not made \
                     again by itself: make it, or restart ganesh, which does"
                );
            } else {
                tracing::info!("the stream is there again");
            }
        }
    }

    pub(crate) fn set_rejection_pause(&self, paused: bool) {
        self.0.rejection_pause.store(paused, Ordering::Relaxed);
        self.0.metrics.rejection_pause.set(f64::from(paused));
    }

    /// Counts a letter that the dead-letter stream rejects.
    pub(crate) fn add_refused_letter(&self) {
        if self.0.letters_refused.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(
                "the dead-letter stream rejects letters, and their messages wait; when \
                 GANESH_MAX_IN_FLIGHT are waiting, ingestion is paused until it accepts them: raise \
                 its limits or make room; if it was deleted, make it, or restart ganesh, which does"
            );
        }
        self.0.metrics.dead_letters_refused.increment(1.0);
    }

    pub(crate) fn remove_refused_letter(&self) {
        self.0.metrics.dead_letters_refused.decrement(1.0);
        if self.0.letters_refused.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("the dead-letter stream takes letters again");
        }
    }

    /// Sets whether pulls keep failing although the server answers.
    pub(crate) fn set_pulls_fail(&self, fail: bool) {
        self.0.pulls_fail.store(fail, Ordering::Relaxed);
    }

    /// Sets why ganesh refuses the database, though it answers; logs a change.
    pub(crate) fn set_database_refusal(&self, refusal: Option<String>) {
        let mut current = self.0.database_refusal.lock().expect(REFUSAL_PROOF);
        if *current == refusal {
            return;
        }
        if let Some(why) = &refusal {
            tracing::error!(why, "the database is refused");
        } else {
            tracing::info!("the database is fit again");
        }
        *current = refusal;
    }

    /// Why ganesh refuses the database. It makes this process not ready, too.
    pub(crate) fn database_refusal(&self) -> Option<String> {
        let current = self.0.database_refusal.lock().expect(REFUSAL_PROOF);
        current.clone()
    }

    /// Sets why Postgres refuses reads of the API, all or some; logs a change.
    pub(crate) fn set_reads_refusal(&self, refusal: Option<&str>) {
        let mut current = self.0.reads_refusal.lock().expect(REFUSAL_PROOF);
        if current.as_deref() == refusal {
            return;
        }
        if let Some(why) = refusal {
            tracing::error!(why, "reads of the API are refused; storing goes on");
        } else {
            tracing::info!("reads of the API are not refused any more");
        }
        let is_refused = f64::from(refusal.is_some());
        self.0.metrics.reads_refused.set(is_refused);
        *current = refusal.map(str::to_owned);
    }

    /// What is wrong, and makes this process not unready: it stores events.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let current = self.0.reads_refusal.lock().expect(REFUSAL_PROOF);
        let mut warnings: Vec<String> = current.clone().into_iter().collect();
        drop(current);
        if self.has_served() && !self.is_up(Dependency::Cache) {
            warnings.push("the cache does not answer: reads go to Postgres".to_owned());
        }
        warnings
    }

    /// Sets whether messages are held for longer than [`NONE_SETTLED_LIMIT`] and none of them is settled;
    /// logs a change.
    pub(crate) fn set_none_settled(&self, none_settled: bool) {
        if self.0.none_settled.swap(none_settled, Ordering::Relaxed) != none_settled {
            if none_settled {
                tracing::error!(
                    "messages are held for more than {} s, and none of them is settled: the lines before \
                     say why, or a lock in Postgres is waited for (pg_stat_activity)",
                    NONE_SETTLED_LIMIT.as_secs()
                );
            } else {
                tracing::info!("messages are settled again");
            }
        }
    }

    /// Reasons why this process is not ready; empty when it is. The cache does not count: without
    /// it reads are only slower.
    pub(crate) fn not_ready_because(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.0.stopping.load(Ordering::Relaxed) {
            reasons.push("shutting down");
        } else if !self.has_served() {
            reasons.push("starting");
        }
        if !self.is_up(Dependency::Nats) {
            reasons.push("nats does not answer");
        }
        if self.0.stream_gone.load(Ordering::Relaxed) {
            reasons.push("the stream was deleted: make it again, or restart ganesh, which does");
        }
        if self.0.postgres_read_only.load(Ordering::Relaxed) {
            reasons.push("postgres is read-only");
        } else if !self.is_up(Dependency::Postgres) {
            reasons.push("postgres does not answer");
        }
        if self.0.rejection_pause.load(Ordering::Relaxed) {
            reasons.push("pausing: postgres rejected half of the last 1000 rows");
        }
        if self.0.letters_refused.load(Ordering::Relaxed) > 0 {
            reasons.push("the dead-letter stream does not take letters: it is full or gone");
        }
        if self.0.pulls_fail.load(Ordering::Relaxed) {
            reasons.push("pulling messages fails again and again: the log says why");
        }
        if self.0.none_settled.load(Ordering::Relaxed) {
            reasons
                .push("messages are held for more than 60 s and none is settled: the log says why");
        }
        reasons
    }
}
