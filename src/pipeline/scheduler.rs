//! Chooses the next batch: what the queue holds, or a parked batch that must be tried again.
//!
//! Normally a row that Postgres rejects by its SQLSTATE becomes a dead letter at once, and the rest of
//! its batch is stored. Only this is parked:
//!
//! ```text
//!            queue                     parked: ├ the rejected rows of a batch, during a pause
//!              │                               ├ rows that failed, and may be to blame
//!              ▼ a batch        ◀── again ──   └ delivered too often: written alone
//!            store ─▶ rejected ─▶ decided: dead letter, or parked
//! ```
//!
//! - A pause: half of the last 1,000 rows were rejected, so the schema or a release is wrong, not the
//!   messages. Dead letters would then empty the stream. The writers try one batch every 10 s, until
//!   less than half of it is rejected. Then they try the parked rows again. Those that are rejected
//!   again become dead letters.
//! - An unknown cause: the SQLSTATE does not say whether the rows or the server are to blame. The
//!   batch is tried again. Once other rows were stored meanwhile, its rows are to blame.
//! - A transient SQLSTATE that comes back: the batch is parked, and the writer takes another one
//!   ([`TransientFailures`]). If nobody was stored meanwhile, it is tried again as soon as others are.
//!
//! Parked messages stay held: they are kept alive, count against the limits, and are released
//! when they are dropped. So a pause needs no signal to the source: it finds no free capacity and stops pulling.

mod state;
#[cfg(test)]
mod tests;
mod window;

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::{Instant, sleep_until};

use self::state::{Next, Parked, ParkingState};
use self::window::log_pause;
pub use self::window::{BatchOrigin, PROBE_EVERY, RejectionWindow, WINDOW_ROWS};
use super::queue::{BatchLimits, Receiver};
use super::transient::TransientFailures;
use crate::message::timings::{Failures, now_nanos};
use crate::message::{Batch, Decoded, RejectedRow};
use crate::telemetry::{Health, Metrics};

/// The batch that a writer writes next.
pub(crate) struct NextBatch {
    /// Its messages.
    pub(crate) batch: Batch,
    /// To be given back with what became of it.
    pub(crate) history: BatchHistory,
}

/// Why a batch is written, and what was seen of it before.
pub(crate) struct BatchHistory {
    /// Fresh, unless there is or was a pause.
    pub(crate) origin: BatchOrigin,
    /// What its failures say so far.
    pub(crate) failures: SeenFailures,
    /// It was parked before, and may have been written without our hearing of it.
    pub(crate) was_parked: bool,
    /// A probe keeps the queue until its history is given back, so that only one probe runs.
    queue_lock: Option<OwnedMutexGuard<Receiver<Decoded>>>,
}

/// What the failed attempts at a batch say of its rows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SeenFailures {
    /// Number of the last attempt that rejected every row for an unknown cause
    /// ([`crate::storage::EventWriter::evidence_since`]).
    pub(crate) rejected_in_attempt: Option<u64>,
    /// Those with a code that passes by itself elsewhere.
    pub(crate) transient: TransientFailures,
}

/// What all writers share.
pub(crate) struct BatchScheduler {
    /// The writers take turns at it.
    queue: Arc<AsyncMutex<Receiver<Decoded>>>,
    limits: BatchLimits,
    state: Mutex<ParkingState>,
    /// Wakes the writer whose turn it is: there is something parked now.
    wake: Notify,
    health: Health,
    metrics: Metrics,
}

impl BatchScheduler {
    /// Nothing is parked yet.
    pub(crate) fn new(
        queue: Receiver<Decoded>,
        limits: BatchLimits,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        Self {
            queue: Arc::new(AsyncMutex::new(queue)),
            limits,
            state: Mutex::default(),
            wake: Notify::new(),
            health,
            metrics,
        }
    }

    fn state(&self) -> MutexGuard<'_, ParkingState> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Waits for the next batch. Takes a parked one if it is due, otherwise a fresh one from the queue. `None` when
    /// the queue is closed and empty. Parked batches that are not due are then released.
    pub(crate) async fn next_batch(&self) -> Option<NextBatch> {
        let mut queue_lock = self.queue.clone().lock_owned().await;
        loop {
            if self.state().fresh_goes_before_parked()
                && let Some(messages) = queue_lock.try_batch(&self.limits)
            {
                return Some(self.fresh(messages));
            }
            let next = self.state().next(Instant::now());
            match next {
                Next::Parked(work) => return Some(work),
                Next::Probe(at) => return self.probe(at, queue_lock).await,
                Next::Fresh(due) => {
                    let is_due = async {
                        match due {
                            Some(due) => sleep_until(due).await,
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        biased; // a pause that has begun comes before another batch
                        () = self.wake.notified() => {}
                        () = is_due => {}
                        // The ordinary way.
                        batch = queue_lock.batch(&self.limits) => return Some(self.fresh(batch?)),
                    }
                }
            }
        }
    }

    fn fresh(&self, messages: Vec<Decoded>) -> NextBatch {
        self.state().last_was_parked = false;
        NextBatch {
            batch: self.batch(messages),
            history: BatchHistory {
                origin: BatchOrigin::Fresh,
                failures: SeenFailures::default(),
                was_parked: false,
                queue_lock: None,
            },
        }
    }

    fn batch(&self, messages: Vec<Decoded>) -> Batch {
        let batch = Batch {
            messages,
            taken_at: now_nanos(),
            failures: Failures::default(),
        };
        #[allow(clippy::cast_precision_loss, reason = "a batch is far below 2^53")]
        {
            self.metrics
                .batch_events
                .record(batch.messages.len() as f64);
            self.metrics.batch_bytes.record(batch.bytes() as f64);
        }
        batch
    }

    /// Waits until a batch may be tried during a pause. It takes a fresh batch. If none arrives, because of
    /// no traffic or no free capacity, it takes a parked one.
    async fn probe(
        &self,
        at: Instant,
        mut queue_lock: OwnedMutexGuard<Receiver<Decoded>>,
    ) -> Option<NextBatch> {
        let mut next = loop {
            let due = self.state().probe_due(at);
            if due.is_some_and(|due| due <= Instant::now())
                && let Some(next) = self.state().take_parked()
            {
                break next;
            }
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // At the end nothing is tried any more.
                messages = queue_lock.batch(&self.limits) => {
                    let next = self.fresh(messages?);
                    sleep_until(at).await;
                    break next;
                }
                () = self.wake.notified() => {}
                () = is_due => {}
            }
        };
        next.history.origin = BatchOrigin::Probe;
        next.history.queue_lock = Some(queue_lock);
        Some(next)
    }

    /// Parks messages that were delivered too often, each as its own batch: if one crashes its writer, the
    /// others are not affected.
    pub(crate) fn park_alone(&self, messages: Vec<Decoded>) {
        if messages.is_empty() {
            return;
        }
        let due = Instant::now();
        let parked = messages.into_iter().map(|decoded| Parked {
            batch: self.batch(vec![decoded]),
            due,
            origin: BatchOrigin::Fresh,
            failures: SeenFailures::default(),
        });
        self.state().parked.extend(parked);
        self.wake.notify_one();
    }

    /// Parks what has no outcome yet of a batch of which nothing is decided. `has_answer`: Postgres
    /// answered, so in a probe all its rows count as rejected. Otherwise nobody is to blame.
    #[allow(clippy::needless_pass_by_value, reason = "the history is spent")]
    pub(crate) fn park_again(
        &self,
        batch: Batch,
        history: BatchHistory,
        failures: SeenFailures,
        has_answer: bool,
    ) {
        let mut state = self.state();
        state.parked_in_progress &= !history.was_parked;
        if history.origin == BatchOrigin::Probe && has_answer {
            let rows = vec![true; batch.messages.len()];
            state.window.note(BatchOrigin::Probe, &rows, Instant::now());
        }
        state.park(batch, history.origin, failures);
        drop(state);
        self.wake.notify_one();
    }

    /// Parks the rest of a batch whose other rows are decided, and recorded next.
    pub(crate) fn park_rest(&self, batch: Batch, history: &BatchHistory, failures: SeenFailures) {
        self.state().park(batch, history.origin, failures);
        self.wake.notify_one();
    }

    /// Parks messages on which nothing can be decided yet.
    pub(crate) fn park_for_later(&self, messages: Vec<Decoded>) {
        if messages.is_empty() {
            return;
        }
        let batch = self.batch(messages);
        self.state()
            .park(batch, BatchOrigin::Fresh, SeenFailures::default());
        self.wake.notify_one();
    }

    /// Records the outcome of a batch. Returns the rejected rows that become dead letters, and parks the
    /// others. `were_rejected`: for each row that Postgres tried.
    #[allow(clippy::needless_pass_by_value, reason = "the history is spent")]
    pub(crate) fn record_outcome(
        &self,
        history: BatchHistory,
        were_rejected: &[bool],
        rejected: Vec<RejectedRow>,
        taken_at: u64,
    ) -> Vec<RejectedRow> {
        let example = rejected.first().map(|rejected| rejected.detail.clone());
        let count = rejected.len();
        let (was_paused, is_paused, letters) = {
            let mut state = self.state();
            if history.was_parked {
                state.parked_in_progress = false;
                // This parked batch has an outcome, so the next one may, too: restart the waits.
                state.undecided_attempts = 0;
            }
            if were_rejected.contains(&false) {
                state.end_waits_for_outage(Instant::now());
            }
            let was_paused = state.window.is_paused();
            let park = state
                .window
                .note(history.origin, were_rejected, Instant::now());
            state.probe_parked_at_once =
                history.origin == BatchOrigin::Probe && were_rejected.is_empty();
            let letters = if park && !rejected.is_empty() {
                state.park_rejected(rejected, taken_at);
                Vec::new()
            } else {
                rejected
            };
            (was_paused, state.window.is_paused(), letters)
        };
        self.wake.notify_one();
        if was_paused != is_paused {
            self.health.set_rejection_pause(is_paused);
        }
        log_pause(
            history.origin,
            (was_paused, is_paused),
            count,
            were_rejected.len(),
            &example.unwrap_or_default(),
        );
        letters
    }
}
