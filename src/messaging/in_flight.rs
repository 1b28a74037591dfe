//! What this process holds: every delivery from the moment it is read until it is
//! acknowledged or released. One place counts it, keeps it alive and gives it back.

use std::collections::HashSet;
use std::ops::{AddAssign, SubAssign};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::Subject;
use slab::Slab;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use super::delivery::{Metadata, pending};
use crate::config::PipelineConfig;
use crate::message::{Delivery, InFlightGuard, InFlightId, Releases};
use crate::telemetry::Metrics;

/// The most that the server counts for a message's subjects, beside headers and body.
pub(crate) const SUBJECTS_MAX_BYTES: usize = 8 * 1024;

/// A pipeline that moves settles a message in this time.
const SETTLES: Duration = Duration::from_secs(2);

/// What may be held, what is free of that, or what a pull may bring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Messages.
    pub messages: usize,
    /// Bytes, as delivered.
    pub bytes: usize,
}

impl Capacity {
    /// The configured limits.
    pub fn in_flight(config: &PipelineConfig) -> Self {
        Self {
            messages: config.max_in_flight,
            bytes: config.max_in_flight_bytes,
        }
    }
}

impl AddAssign for Capacity {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

impl SubAssign for Capacity {
    fn sub_assign(&mut self, less: Self) {
        self.messages -= less.messages;
        self.bytes -= less.bytes;
    }
}

/// One delivery to be held.
pub struct Admission {
    /// The ack subject.
    pub ack_subject: Subject,
    /// Counts against the limit: at least its size as delivered.
    pub bytes: usize,
}

/// How long what is held has been held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldFor {
    /// The oldest message; zero when there is none.
    pub oldest: Duration,
    /// For how long none of those that were held was settled.
    pub none_settled: Duration,
}

/// The register of held deliveries.
pub struct InFlight {
    limits: Capacity,
    ack_wait: Duration,
    register: Mutex<Register>,
    freed: Notify,
    releases: Arc<Releases>,
    metrics: Metrics,
}

/// A slab that never shrinks; a hash map costs 5 % more processor time. A slot is reused only after its
/// delivery has left.
struct Register {
    entries: Slab<InFlightDelivery>,
    bytes: usize,
    /// When a message was last settled.
    settled_at: Instant,
    /// The ack subject of the newest delivery.
    newest: Option<Subject>,
    /// What pulls under way may still bring.
    reserved: Capacity,
}

struct InFlightDelivery {
    ack_subject: Subject,
    bytes: usize,
    /// When it was delivered.
    since: Instant,
    /// When it was delivered, or progress was last acknowledged.
    alive_at: Instant,
    /// The consumer that delivered it.
    consumer_generation: u64,
    /// Whether `ack_wait` passed in between: another replica may hold it by now.
    is_maybe_elsewhere: bool,
}

impl InFlight {
    /// An empty register, and the queue of ids to be released.
    pub fn new(
        limits: Capacity,
        ack_wait: Duration,
        metrics: Metrics,
    ) -> (Arc<Self>, UnboundedReceiver<InFlightId>) {
        let (releases, queue) = unbounded_channel();
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        {
            metrics.in_flight_limit.set(limits.messages as f64);
            metrics.in_flight_bytes_limit.set(limits.bytes as f64);
        }
        let in_flight = Self {
            limits,
            ack_wait,
            register: Mutex::new(Register {
                entries: Slab::new(),
                bytes: 0,
                settled_at: Instant::now(),
                newest: None,
                reserved: Capacity::default(),
            }),
            freed: Notify::new(),
            releases: Arc::new(Releases::new(releases)),
            metrics,
        };
        (Arc::new(in_flight), queue)
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Waits until at least `least` is free, and returns all that is free. Only the source may wait.
    pub(crate) async fn wait_for_capacity(&self, least: Capacity) -> Capacity {
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

    fn free(&self) -> Capacity {
        let register = self.register();
        Capacity {
            messages: (self.limits.messages)
                .saturating_sub(register.entries.len() + register.reserved.messages),
            bytes: (self.limits.bytes).saturating_sub(register.bytes + register.reserved.bytes),
        }
    }

    /// Reserves capacity for a pull.
    pub(crate) fn reserve(&self, capacity: Capacity) {
        self.register().reserved += capacity;
    }

    /// Frees reserved capacity that a pull filled, or will not fill any more.
    pub(crate) fn unreserve(&self, capacity: Capacity) {
        if capacity != Capacity::default() {
            self.register().reserved -= capacity;
            self.freed.notify_one();
        }
    }

    /// The stream sequences of what is held of the consumer as it is now.
    pub fn sequences(&self) -> HashSet<u64> {
        let (consumer_generation, register) = (self.consumer_generation(), self.register());
        let entries = register.entries.iter().map(|(_, entry)| entry);
        let ours = entries.filter(|entry| entry.consumer_generation == consumer_generation);
        let metadata = ours.filter_map(|entry| Metadata::parse(&entry.ack_subject));
        metadata.map(|metadata| metadata.stream_sequence).collect()
    }

    /// Takes deliveries of the consumer of this generation into the register.
    pub fn admit(
        &self,
        admissions: impl Iterator<Item = Admission>,
        consumer_generation: u64,
    ) -> Vec<InFlightGuard> {
        let now = Instant::now();
        let mut register = self.register();
        let mut newest = None;
        let guards = admissions
            .map(|Admission { ack_subject, bytes }| {
                register.bytes += bytes;
                let id = register.entries.insert(InFlightDelivery {
                    ack_subject,
                    bytes,
                    since: now,
                    alive_at: now,
                    consumer_generation,
                    is_maybe_elsewhere: false,
                });
                newest = Some(id);
                InFlightGuard::new(id, consumer_generation, &self.releases)
            })
            .collect();
        if let Some(id) = newest {
            register.newest = Some(register.entries[id].ack_subject.clone());
        }
        self.export(&register);
        guards
    }

    /// Removes acknowledged deliveries, under one lock.
    pub(crate) fn remove_acked(&self, deliveries: impl Iterator<Item = Delivery>) {
        let ids: Vec<InFlightId> = deliveries.map(|delivery| delivery.guard.disarm()).collect();
        self.register().settled_at = Instant::now();
        self.forget(ids.into_iter());
    }

    /// Removes deliveries that were acknowledged, or whose release was sent.
    pub(super) fn forget(&self, ids: impl Iterator<Item = InFlightId>) {
        {
            let mut register = self.register();
            for id in ids {
                if let Some(entry) = register.entries.try_remove(id) {
                    register.bytes -= entry.bytes;
                }
            }
            self.export(&register);
        }
        self.freed.notify_one();
    }

    /// The subject for the NAK of a dropped delivery. `None` once `ack_wait` has passed without
    /// progress: another replica may hold it by then, and a late NAK would make the server deliver
    /// it a third time.
    pub(super) fn nak_subject(&self, id: InFlightId) -> Option<Subject> {
        let register = self.register();
        let entry = register.entries.get(id)?;
        let is_ours = entry.consumer_generation == self.consumer_generation()
            && !entry.is_maybe_elsewhere
            && entry.alive_at.elapsed() < self.ack_wait;
        is_ours.then(|| entry.ack_subject.clone())
    }

    /// At most `limit` deliveries without progress since `before`; they count as alive from now on.
    pub(super) fn take_overdue(&self, before: Instant, limit: usize) -> Vec<Subject> {
        let (now, consumer_generation) = (Instant::now(), self.consumer_generation());
        let mut register = self.register();
        let overdue = register.entries.iter_mut().map(|(_, entry)| entry);
        let overdue = overdue
            .filter(|entry| {
                entry.consumer_generation == consumer_generation && entry.alive_at <= before
            })
            .take(limit);
        let replies = overdue.map(|entry| {
            entry.is_maybe_elsewhere |= now.duration_since(entry.alive_at) >= self.ack_wait;
            entry.alive_at = now;
            entry.ack_subject.clone()
        });
        replies.collect()
    }

    /// The consumer is another one: what was held until now is stored all the same, but neither
    /// acknowledged nor released, and the new one delivers it again.
    pub fn disown(&self) {
        self.releases.begin_consumer_generation();
    }

    /// The number of the consumer that delivers now.
    pub fn consumer_generation(&self) -> u64 {
        self.releases.consumer_generation()
    }

    /// For how long messages have been held, and none of them settled.
    pub fn held_for(&self) -> HeldFor {
        let register = self.register();
        let entries = register.entries.iter().map(|(_, entry)| entry.since);
        let oldest = entries
            .min()
            .map_or(Duration::ZERO, |since| since.elapsed());
        HeldFor {
            oldest,
            none_settled: oldest.min(register.settled_at.elapsed()),
        }
    }

    /// Returns whether the pipeline is behind: half of what may be held is held, or more than that waits in the
    /// stream. And a message was settled lately: a pipeline that settles nothing is blocked, and no faster without
    /// reads.
    pub(crate) fn is_behind(&self) -> bool {
        let register = self.register();
        let is_half_full = register.entries.len() >= self.limits.messages / 2
            || register.bytes >= self.limits.bytes / 2;
        let waiting = register.newest.as_deref().and_then(pending).unwrap_or(0);
        let has_backlog = waiting >= self.limits.messages as u64 / 2;
        (is_half_full || has_backlog) && register.settled_at.elapsed() < SETTLES
    }

    /// Messages held now.
    pub fn count(&self) -> usize {
        self.register().entries.len()
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges")]
    fn export(&self, register: &Register) {
        self.metrics
            .in_flight_messages
            .set(register.entries.len() as f64);
        self.metrics.in_flight_bytes.set(register.bytes as f64);
    }
}
