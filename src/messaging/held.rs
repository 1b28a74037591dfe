//! What this process holds: every delivery from the moment it is read until it is
//! acknowledged or released. One place counts it, keeps it alive and gives it back.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::Subject;
use slab::Slab;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::delivery::Metadata;
use crate::config::PipelineConfig;
use crate::telemetry::Metrics;

/// What the server counts of a message beside headers and body (its subjects), at most.
pub const SUBJECTS_MAX_BYTES: usize = 8 * 1024;

/// How much may be held.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes, as delivered.
    pub bytes: usize,
}

impl Limits {
    /// The configured limits.
    pub fn of(config: &PipelineConfig) -> Self {
        Self {
            messages: config.max_in_flight,
            bytes: config.max_in_flight_bytes,
        }
    }
}

/// What the source may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: usize,
    /// Bytes, as delivered.
    pub bytes: usize,
}

/// One delivery to be held.
pub struct Arrival {
    /// Where its acknowledgement goes.
    pub reply: Subject,
    /// What it takes of the limit: its size as delivered, at least.
    pub bytes: usize,
}

/// Identifies a held delivery within this process.
pub type HeldId = usize;

/// The register of held deliveries.
pub struct Held {
    limits: Limits,
    ack_wait: Duration,
    /// Counts consumers: with another one, acknowledgements of what the last one delivered would
    /// be taken for other deliveries, perhaps of other messages.
    generation: AtomicU64,
    state: Mutex<State>,
    freed: Notify,
    /// Unbounded, but never longer than what is held: an entry leaves `state` only
    /// when its release was sent.
    releases: mpsc::UnboundedSender<HeldId>,
    metrics: Metrics,
}

/// A slab, whose size is the most that was ever held: a hash map cost 5 % of our
/// processor time. A place is used again only after its one delivery has left.
#[derive(Default)]
struct State {
    entries: Slab<Entry>,
    bytes: usize,
    /// What pulls may still bring.
    reserved: Room,
}

struct Entry {
    reply: Subject,
    bytes: usize,
    /// When it was delivered, or progress was last acknowledged.
    alive_at: Instant,
    /// By which consumer.
    generation: u64,
    /// Whether `ack_wait` passed in between: another replica may hold it by now.
    is_maybe_elsewhere: bool,
}

impl Held {
    /// An empty register, and the queue of ids to be released.
    pub fn new(
        limits: Limits,
        ack_wait: Duration,
        metrics: Metrics,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<HeldId>) {
        let (releases, queue) = mpsc::unbounded_channel();
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        {
            metrics.in_flight_limit.set(limits.messages as f64);
            metrics.in_flight_bytes_limit.set(limits.bytes as f64);
        }
        let held = Self {
            limits,
            ack_wait,
            generation: AtomicU64::new(0),
            state: Mutex::default(),
            freed: Notify::new(),
            releases,
            metrics,
        };
        (Arc::new(held), queue)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Waits until at least `least` is free, and says what is. One waiter only: the source.
    pub async fn room(&self, least: Room) -> Room {
        loop {
            let freed = self.freed.notified();
            let free = self.free();
            if free.messages >= least.messages.min(self.limits.messages)
                && free.bytes >= least.bytes.min(self.limits.bytes)
            {
                return free;
            }
            freed.await;
        }
    }

    fn free(&self) -> Room {
        let state = self.state();
        Room {
            messages: (self.limits.messages)
                .saturating_sub(state.entries.len() + state.reserved.messages),
            bytes: (self.limits.bytes).saturating_sub(state.bytes + state.reserved.bytes),
        }
    }

    /// Keeps room for a pull until the reservation is filled or dropped.
    pub fn reserve(self: &Arc<Self>, room: Room) -> Reservation {
        let reserved = &mut self.state().reserved;
        reserved.messages += room.messages;
        reserved.bytes += room.bytes;
        Reservation {
            held: self.clone(),
            left: room,
        }
    }

    /// The stream sequences of what is held of the consumer as it is now.
    pub fn sequences(&self) -> HashSet<u64> {
        let (generation, state) = (self.generation(), self.state());
        let entries = state.entries.iter().map(|(_, entry)| entry);
        let ours = entries.filter(|entry| entry.generation == generation);
        let metadata = ours.filter_map(|entry| Metadata::parse(&entry.reply));
        metadata.map(|metadata| metadata.stream_sequence).collect()
    }

    /// Takes deliveries into the register; returns their ids.
    pub fn hold(&self, arrivals: impl Iterator<Item = Arrival>) -> Vec<HeldId> {
        let (now, generation) = (Instant::now(), self.generation());
        let mut state = self.state();
        let ids = arrivals
            .map(|Arrival { reply, bytes }| {
                state.bytes += bytes;
                state.entries.insert(Entry {
                    reply,
                    bytes,
                    alive_at: now,
                    generation,
                    is_maybe_elsewhere: false,
                })
            })
            .collect();
        self.export(&state);
        ids
    }

    /// Lets deliveries go that were acknowledged, or whose release was sent.
    pub(super) fn forget(&self, ids: impl Iterator<Item = HeldId>) {
        {
            let mut state = self.state();
            for id in ids {
                if let Some(entry) = state.entries.try_remove(id) {
                    state.bytes -= entry.bytes;
                }
            }
            self.export(&state);
        }
        self.freed.notify_one();
    }

    /// Asks for a release: the keeper sends it.
    pub(super) fn release(&self, id: HeldId) {
        if self.releases.send(id).is_err() {
            // The keeper is gone, the process ends: the server delivers again after ack_wait.
            self.forget(std::iter::once(id));
        }
    }

    /// Where to send the NAK of a delivery that is to be released; `None` once
    /// `ack_wait` has passed without progress: another replica may hold it by then,
    /// and a late NAK would make the server deliver it a third time.
    pub(super) fn nak_subject(&self, id: HeldId) -> Option<Subject> {
        let state = self.state();
        let entry = state.entries.get(id)?;
        let is_ours = entry.generation == self.generation()
            && !entry.is_maybe_elsewhere
            && entry.alive_at.elapsed() < self.ack_wait;
        is_ours.then(|| entry.reply.clone())
    }

    /// At most `limit` deliveries without progress since `before`; they count as alive
    /// from now on.
    pub(super) fn take_overdue(&self, before: Instant, limit: usize) -> Vec<Subject> {
        let (now, generation) = (Instant::now(), self.generation());
        let mut state = self.state();
        let overdue = state.entries.iter_mut().map(|(_, entry)| entry);
        let overdue = overdue
            .filter(|entry| entry.generation == generation && entry.alive_at <= before)
            .take(limit);
        let replies = overdue.map(|entry| {
            entry.is_maybe_elsewhere |= now.duration_since(entry.alive_at) >= self.ack_wait;
            entry.alive_at = now;
            entry.reply.clone()
        });
        replies.collect()
    }

    /// The consumer is another one: what was held until now is stored all the same, but neither
    /// acknowledged nor released, and the new one delivers it again.
    pub fn disown(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Says by which consumer what arrives now is delivered.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Messages held now.
    pub fn count(&self) -> usize {
        self.state().entries.len()
    }

    /// How long the server waits before it delivers again.
    pub fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges")]
    fn export(&self, state: &State) {
        self.metrics
            .in_flight_messages
            .set(state.entries.len() as f64);
        self.metrics.in_flight_bytes.set(state.bytes as f64);
    }
}

/// Room that a pull may still fill; free again when it is dropped.
pub struct Reservation {
    held: Arc<Held>,
    left: Room,
}

impl Reservation {
    /// What is left of it.
    pub fn left(&self) -> Room {
        self.left
    }

    /// So much of it arrived, and is held by now.
    pub fn fill(&mut self, messages: usize, bytes: usize) {
        self.give_back(Room {
            messages: messages.min(self.left.messages),
            bytes: bytes.min(self.left.bytes),
        });
    }

    fn give_back(&mut self, room: Room) {
        self.left.messages -= room.messages;
        self.left.bytes -= room.bytes;
        let reserved = &mut self.held.state().reserved;
        reserved.messages -= room.messages;
        reserved.bytes -= room.bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.left);
        self.held.freed.notify_one();
    }
}
