//! What is parked, and what a writer does next. Pure but for the clock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{BatchHistory, BatchOrigin, NextBatch, RejectionWindow, SeenFailures};
use crate::message::timings::Failures;
use crate::message::{Batch, RejectedRow};

/// Waits of a batch that is rejected for an unknown cause: the first and the longest, doubling in between.
pub(super) const RETRY_AFTER: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(5));

/// Bounded by what may be held, as everything that carries a delivery.
#[derive(Default)]
pub(super) struct ParkingState {
    pub(super) window: RejectionWindow,
    pub(super) parked: VecDeque<Parked>,
    /// A writer has a parked batch; others take fresh ones meanwhile.
    pub(super) parked_in_progress: bool,
    /// The last batch was parked, so a fresh one is next.
    pub(super) last_was_parked: bool,
    /// The last probe had only duplicates: probe a parked batch at once.
    pub(super) probe_parked_at_once: bool,
    /// Attempts in a row without an outcome.
    pub(super) undecided_attempts: u32,
}

pub(super) struct Parked {
    pub(super) batch: Batch,
    pub(super) due: Instant,
    pub(super) origin: BatchOrigin,
    pub(super) failures: SeenFailures,
}

/// What the writer whose turn it is does next.
pub(super) enum Next {
    /// Tries a parked batch.
    Parked(NextBatch),
    /// Waits until one batch may be tried.
    Probe(Instant),
    /// Waits for a fresh batch, or until a parked one is due.
    Fresh(Option<Instant>),
}

impl ParkingState {
    pub(super) fn fresh_goes_before_parked(&self) -> bool {
        self.last_was_parked && !self.window.is_paused()
    }

    /// When a batch is tried again that says nothing.
    pub(super) fn next_try(&mut self) -> Instant {
        let doublings = 1 << self.undecided_attempts.min(10);
        self.undecided_attempts += 1;
        Instant::now() + (RETRY_AFTER.0 * doublings).min(RETRY_AFTER.1)
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(at) = self.window.probe_at() {
            return Next::Probe(at);
        }
        match self.due() {
            Some(due) if due <= now => match self.take_parked() {
                Some(work) => Next::Parked(work),
                None => Next::Fresh(None),
            },
            due => Next::Fresh(due),
        }
    }

    /// When a parked batch may be tried: one at a time.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.parked.iter().map(|parked| parked.due).min();
        due.filter(|_| !self.parked_in_progress)
    }

    /// The same for a probe, which is due at `at` unless what is parked has to show more.
    pub(super) fn probe_due(&mut self, at: Instant) -> Option<Instant> {
        let is_at_once = std::mem::take(&mut self.probe_parked_at_once);
        let due = self.due()?;
        Some(if is_at_once { due } else { due.max(at) })
    }

    /// The parked batch that is due first, unless one is being tried.
    pub(super) fn take_parked(&mut self) -> Option<NextBatch> {
        if self.parked_in_progress {
            return None;
        }
        let places = 0..self.parked.len();
        let first = places.min_by_key(|place| self.parked[*place].due)?;
        let Parked {
            batch,
            origin,
            failures,
            ..
        } = self.parked.remove(first)?;
        (self.parked_in_progress, self.last_was_parked) = (true, true);
        Some(NextBatch {
            batch,
            history: BatchHistory {
                origin,
                failures,
                was_parked: true,
                queue_lock: None,
            },
        })
    }

    /// Others are stored, so what failed while nobody was may pass, too: it waits no longer.
    pub(super) fn end_waits_for_outage(&mut self, now: Instant) {
        for parked in &mut self.parked {
            let SeenFailures {
                rejected_in_attempt,
                transient,
            } = &parked.failures;
            if rejected_in_attempt.is_none() && transient.are_of_an_outage() {
                parked.due = parked.due.min(now);
            }
        }
    }

    /// Parks a batch without an outcome.
    pub(super) fn park(&mut self, batch: Batch, origin: BatchOrigin, failures: SeenFailures) {
        let due = self.next_try();
        let is_probe = origin == BatchOrigin::Probe;
        self.parked.push_back(Parked {
            batch,
            due,
            origin: if is_probe { BatchOrigin::Again } else { origin },
            // What was stored before the pause is no evidence after it.
            failures: if is_probe {
                SeenFailures::default()
            } else {
                failures
            },
        });
    }

    pub(super) fn park_rejected(&mut self, rejected: Vec<RejectedRow>, taken_at: u64) {
        let messages = rejected
            .into_iter()
            .map(|rejected| rejected.decoded)
            .collect();
        self.parked.push_back(Parked {
            batch: Batch {
                messages,
                taken_at,
                failures: Failures::default(),
            },
            due: Instant::now(),
            origin: BatchOrigin::Again,
            failures: SeenFailures::default(),
        });
    }
}
