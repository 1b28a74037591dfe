//! What to do with rows that Postgres refuses. One now and then is a bad message, and
//! becomes a dead letter. Half of the last thousand is something else: a schema, a
//! release. Dead letters would then empty the stream, so that the writers pause instead:
//!
//! ```text
//!  writing ── half of the last 1,000 rows refused ──▶ paused: refused rows are held
//!     ▲                                                 │ every 10 s one batch is tried
//!     └── less than half of that batch refused ─────────┘
//!  then what is held is tried once more; what is refused again becomes a dead letter
//! ```
//!
//! Held rows stay in the register of what is held, which keeps them alive, counts them
//! against `GANESH_MAX_IN_FLIGHT` and releases them when they are dropped. So nothing has to
//! tell the source: writers that take no batches leave it no room, as when Postgres is away.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::batch::Batch;
use super::decode::Decoded;
use crate::telemetry::Health;
use crate::telemetry::record::Failures;

/// Rows that are remembered; half of them refused is too many.
pub const WINDOW_ROWS: usize = 1_000;
/// How often a batch is tried while too many are refused.
pub const PROBE_EVERY: Duration = Duration::from_secs(10);

/// Why a batch is written, which decides what its refused rows mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It came from the stream.
    Fresh,
    /// Too many rows are refused, and it shows whether they still are.
    Probe,
    /// Its rows were refused, and were held until another batch was not.
    Again,
}

/// The last rows, and whether too many of them were refused. Pure: it is told the time.
#[derive(Debug, Default)]
pub struct Window {
    /// Whether each of the last rows was refused, the oldest first.
    rows: VecDeque<bool>,
    refused: usize,
    /// While too many are refused: when the next batch may be tried.
    probe_at: Option<Instant>,
}

impl Window {
    /// Notes how the rows of a batch ended: `true` is refused. Says whether those that were
    /// are to be held.
    pub fn note(&mut self, attempt: Attempt, batch: &[bool], now: Instant) -> bool {
        let refused = batch.iter().filter(|refused| **refused).count();
        match (attempt, self.is_paused()) {
            // Duplicates alone, of which no row was tried: another one is a probe, and at once.
            (Attempt::Probe, _) if batch.is_empty() => {}
            (Attempt::Probe, _) if refused * 2 < batch.len() => *self = Self::default(),
            (Attempt::Probe, _) => self.probe_at = Some(now + PROBE_EVERY),
            (Attempt::Fresh, false) => {
                for refused in batch {
                    self.push(*refused);
                    if self.refused * 2 >= WINDOW_ROWS {
                        self.probe_at = Some(now + PROBE_EVERY);
                    }
                }
            }
            // Begun before the pause, which it says nothing about; or refused once before,
            // and counted then.
            (Attempt::Fresh, true) | (Attempt::Again, _) => {}
        }
        // Of a batch that ends the pause too: they get their second try like the others.
        self.is_paused() || attempt == Attempt::Probe
    }

    fn push(&mut self, refused: bool) {
        if self.rows.len() == WINDOW_ROWS && self.rows.pop_front() == Some(true) {
            self.refused -= 1;
        }
        self.rows.push_back(refused);
        self.refused += usize::from(refused);
    }

    /// Whether too many rows are refused.
    pub fn is_paused(&self) -> bool {
        self.probe_at.is_some()
    }

    /// When the next batch may be tried; `None` when every batch may be written.
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }
}

/// A message whose row was refused, and why.
pub struct Refused {
    /// The message.
    pub decoded: Decoded,
    /// SQLSTATE and message.
    pub detail: String,
}

/// What all writers share: which batch is written next, and where refused rows wait.
pub struct Rejections {
    state: Mutex<State>,
    /// Wakes the one that waits for a batch: there are held rows now.
    held: Notify,
    health: Health,
}

/// Bounded by `GANESH_MAX_IN_FLIGHT`, as everything that carries a delivery.
#[derive(Default)]
struct State {
    window: Window,
    /// Refused rows, with those of their batch. Never empty during a pause, but while a
    /// probe is under way.
    held: VecDeque<Batch>,
    /// The last probe had duplicates alone: what is held shows more.
    probe_held: bool,
}

impl Rejections {
    /// Nothing is refused yet.
    pub fn new(health: Health) -> Self {
        Self {
            state: Mutex::default(),
            held: Notify::new(),
            health,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// The batch to be written next, and why; `None` at the end. Who gets a probe keeps the
    /// queue until it is judged, so that nobody tries another one meanwhile.
    pub async fn next(&self, queue: &mut Receiver<Batch>) -> Option<(Batch, Attempt)> {
        loop {
            let (probe_at, again) = {
                let mut state = self.state();
                match state.window.probe_at() {
                    Some(at) => (Some(at), None),
                    None => (None, state.held.pop_front()),
                }
            };
            if let Some(at) = probe_at {
                return Some((self.probe(at, queue).await?, Attempt::Probe));
            }
            if let Some(batch) = again {
                return Some((batch, Attempt::Again));
            }
            tokio::select! {
                biased; // a pause that has begun comes before another batch
                () = self.held.notified() => {}
                batch = queue.recv() => return Some((batch?, Attempt::Fresh)),
            }
        }
    }

    /// Waits until a batch may be tried: a new one, whose rows nobody has judged yet; or where
    /// none comes, because nothing does or because what is held leaves no room, a held one.
    async fn probe(&self, at: Instant, queue: &mut Receiver<Batch>) -> Option<Batch> {
        let held = {
            let mut state = self.state();
            let is_wanted = std::mem::take(&mut state.probe_held);
            is_wanted.then(|| state.held.pop_front()).flatten()
        };
        if held.is_some() {
            return held;
        }
        // At the end nothing is tried any more: what is held is dropped, and so released.
        if let Ok(batch) = timeout_at(at, queue.recv()).await {
            let batch = batch?;
            sleep_until(at).await;
            return Some(batch);
        }
        let held = self.state().held.pop_front();
        match held {
            Some(batch) => Some(batch),
            None => queue.recv().await,
        }
    }

    /// Takes a probe back that was refused for a reason that we do not know: too many rows are
    /// refused still, it says no less than that.
    pub fn put_back(&self, mut batch: Batch) {
        batch.set_aside_at = None;
        let mut state = self.state();
        let rows = vec![true; batch.messages.len()];
        state.window.note(Attempt::Probe, &rows, Instant::now());
        state.held.push_back(batch);
    }

    /// Judges a batch by how its rows ended that were tried (`true` is refused): gives back those that are to
    /// become dead letters, and holds the others.
    pub fn judge(
        &self,
        attempt: Attempt,
        rows: &[bool],
        refused: Vec<Refused>,
        closed_at: u64,
    ) -> Vec<Refused> {
        let example = refused.first().map(|refused| refused.detail.clone());
        let count = refused.len();
        let (was_paused, is_paused, letters) = {
            let mut state = self.state();
            let was_paused = state.window.is_paused();
            let hold = state.window.note(attempt, rows, Instant::now());
            state.probe_held = attempt == Attempt::Probe && rows.is_empty();
            let letters = if hold && !refused.is_empty() {
                let messages = refused.into_iter().map(|refused| refused.decoded);
                let messages = messages.collect();
                state.held.push_back(Batch {
                    messages,
                    is_exhausted: false,
                    closed_at,
                    failures: Failures::default(),
                    set_aside_at: None,
                });
                self.held.notify_one();
                Vec::new()
            } else {
                refused
            };
            (was_paused, state.window.is_paused(), letters)
        };
        if was_paused != is_paused {
            self.health.set_rejection_pause(is_paused);
        }
        let rows = rows.len();
        let example = example.unwrap_or_default();
        match (was_paused, is_paused) {
            (false, true) => tracing::error!(
                example,
                "Postgres refused half of the last {WINDOW_ROWS} rows: pausing, refused rows are \
                 held, and a batch is tried every {} s. Look for a change of the schema, of ganesh \
                 or of a producer",
                PROBE_EVERY.as_secs()
            ),
            (true, true) if attempt == Attempt::Probe => tracing::warn!(
                refused = count,
                rows,
                example,
                "still pausing: Postgres refuses half of a batch or more"
            ),
            (true, false) => tracing::info!(
                refused = count,
                rows,
                "Postgres takes most rows of a batch again: going on"
            ),
            _ => {}
        }
        letters
    }
}
