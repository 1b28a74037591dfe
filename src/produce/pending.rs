//! The messages that wait for their acknowledgement.

use std::collections::BTreeMap;
use std::time::Duration;

use super::messages::Recipe;

/// Without an acknowledgement a message is sent again after this time, under the
/// same `Nats-Msg-Id`.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time it has failed. Shorter than the two minutes in which a stream
/// drops a second message of the same `Nats-Msg-Id` unless told otherwise.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// A message that waits. Times are since the start of the run.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The message that was sent.
    pub recipe: Recipe,
    /// When it was due: its latency counts from here.
    pub(super) scheduled: Duration,
    /// When it was sent, the first time.
    pub(super) first_sent: Duration,
    retry_at: Duration,
}

/// The messages by number, at most as many as there is room for.
#[derive(Debug)]
pub struct Pending {
    waiting: BTreeMap<u64, Waiting>,
    room: usize,
}

impl Pending {
    /// Room for so many messages.
    pub fn new(room: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            room,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether there is no room.
    pub fn is_full(&self) -> bool {
        self.len() >= self.room
    }

    /// Takes a message that is sent `now`. The caller has checked that there is room.
    pub fn insert(&mut self, recipe: Recipe, scheduled: Duration, now: Duration) {
        let waiting = Waiting {
            recipe,
            scheduled,
            first_sent: now,
            retry_at: now + ACK_TIMEOUT,
        };
        self.waiting.insert(recipe.number, waiting);
    }

    /// The message that was acknowledged; `None` when it was before, or has failed.
    pub fn remove(&mut self, number: u64) -> Option<Waiting> {
        self.waiting.remove(&number)
    }

    /// The server refused the message: it is sent again soon.
    pub(super) fn refused(&mut self, number: u64, now: Duration) {
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.retry_at = now + REFUSED_PAUSE;
        }
    }

    /// The connection broke: what was sent until `now` may be lost.
    pub fn retry_all(&mut self, now: Duration) {
        for waiting in self.waiting.values_mut() {
            waiting.retry_at = waiting.retry_at.min(now);
        }
    }

    /// Removes the messages that have failed.
    pub fn take_failed(&mut self, now: Duration) -> Vec<Waiting> {
        let has_failed = |_: &u64, waiting: &mut Waiting| {
            now.saturating_sub(waiting.first_sent) >= GIVE_UP_AFTER
        };
        let failed = self.waiting.extract_if(.., has_failed);
        failed.map(|(_, waiting)| waiting).collect()
    }

    /// The messages to send again; each gets another [`ACK_TIMEOUT`].
    pub fn take_overdue(&mut self, now: Duration) -> Vec<Recipe> {
        let mut overdue = Vec::new();
        for waiting in self.waiting.values_mut() {
            if waiting.retry_at <= now {
                waiting.retry_at = now + ACK_TIMEOUT;
                overdue.push(waiting.recipe);
            }
        }
        overdue
    }
}
