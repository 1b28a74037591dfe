//! What travels between the parts of the pipeline. No part owns it, and nothing here does I/O.
//!
//! ```text
//!  Delivery ─ decode ─▶ Decoded ─ queue ─▶ Batch ─ store ─▶ StoredBatch ─ cache, settle ─▶ acknowledged
//!      │ not an event                        │ RejectedRow
//!      └──────────▶ DeadLetter ◀─────────────┘
//! ```

pub mod timings;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_nats::{Message, Subject};
use tokio::sync::mpsc::UnboundedSender;

use self::timings::{Failures, Timings};
use crate::error::Error;
use crate::event::{Event, Timestamp, TraceContext, TraceId};
use crate::labels::{Outcome, Reason, WriteMethod};

pub(crate) type InFlightId = usize;

/// A delivered message. If it is dropped before it is settled, ganesh releases it by a NAK, and the server
/// delivers it again at once.
pub struct Delivery {
    /// Subject, headers and body.
    pub message: Message,
    pub(crate) stream_sequence: u64,
    /// How often it was delivered, this time included.
    pub(crate) delivered: u64,
    /// When the stream stored it.
    pub published_at: Timestamp,
    /// The producer's trace context, if it sent one.
    pub(crate) producer: Option<TraceContext>,
    /// The id that every trace, row, log line and dead letter of it carries.
    pub(crate) trace_id: TraceId,
    /// The time of each stage.
    pub timings: Timings,
    pub(crate) ack_subject: Subject,
    pub(crate) guard: InFlightGuard,
}

impl Delivery {
    pub(crate) fn is_redelivered(&self) -> bool {
        self.delivered > 1
    }

    /// Returns whether the consumer that delivered it can still take its acknowledgement.
    pub(crate) fn can_be_acked(&self) -> bool {
        self.guard.consumer_generation == self.guard.releases.consumer_generation()
    }
}

/// A delivery's place in the register `messaging::in_flight`.
pub struct InFlightGuard {
    id: InFlightId,
    consumer_generation: u64,
    releases: Arc<Releases>,
    is_settled: bool,
}

impl InFlightGuard {
    /// The place with this id, of a delivery of the consumer of this generation.
    pub(crate) fn new(id: InFlightId, consumer_generation: u64, releases: &Arc<Releases>) -> Self {
        Self {
            id,
            consumer_generation,
            releases: releases.clone(),
            is_settled: false,
        }
    }

    /// Returns the id of an acknowledged delivery, which is not released any more.
    pub(crate) fn disarm(mut self) -> InFlightId {
        self.is_settled = true;
        self.id
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if !self.is_settled {
            // Nobody listens when the process ends: the server delivers again after ack_wait.
            let _ = self.releases.ids.send(self.id);
        }
    }
}

/// The queue of deliveries that were dropped before they were settled.
pub(crate) struct Releases {
    /// Unbounded, but never longer than the register: an entry leaves it only after its release was
    /// sent.
    ids: UnboundedSender<InFlightId>,
    /// Counts consumers. Sequences restart with a recreated one: an old ack would acknowledge another message.
    consumer_generation: AtomicU64,
}

impl Releases {
    pub(crate) fn new(ids: UnboundedSender<InFlightId>) -> Self {
        Self {
            ids,
            consumer_generation: AtomicU64::new(0),
        }
    }

    /// The number of the consumer that delivers now.
    pub(crate) fn consumer_generation(&self) -> u64 {
        self.consumer_generation.load(Ordering::Relaxed)
    }

    /// Another consumer delivers from now on.
    pub(crate) fn begin_consumer_generation(&self) {
        self.consumer_generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// A delivery with the event that it carries.
pub struct Decoded {
    /// The delivery.
    pub delivery: Delivery,
    /// Its event.
    pub event: Event,
}

/// Events that are written together.
pub(crate) struct Batch {
    /// In the order in which they arrived.
    pub(crate) messages: Vec<Decoded>,
    /// When a writer took it (nanoseconds of [`timings::now_nanos`]).
    pub(crate) taken_at: u64,
    pub(crate) failures: Failures,
}

impl Batch {
    /// Bytes of its messages, as delivered.
    pub(crate) fn bytes(&self) -> usize {
        self.messages
            .iter()
            .map(|decoded| decoded.delivery.message.length)
            .sum()
    }
}

/// Messages to be acknowledged once the cache is written: their rows are committed, or they need none. They
/// stay here until they are settled: copying them into another `Vec` costs a tenth of the processor time.
pub struct StoredBatch {
    /// Its messages, without those whose row Postgres rejected.
    pub messages: Vec<Decoded>,
    /// For each of them [`Outcome::Stored`], [`Outcome::Duplicate`] or [`Outcome::Skipped`].
    pub outcomes: Vec<Outcome>,
    /// Whether its transaction advanced the cache's epoch.
    pub epoch_advanced: bool,
    /// The time of each stage, and what failed.
    pub timings: Arc<BatchTimings>,
}

/// The time of each stage of a batch (nanoseconds of [`timings::now_nanos`]), and what failed.
#[derive(Debug)]
pub struct BatchTimings {
    /// When a writer took it first.
    pub taken_at: u64,
    /// When every row of it was decided: committed, or rejected.
    pub durable_at: u64,
    /// Its messages.
    pub events: usize,
    /// The method that succeeded.
    pub method: WriteMethod,
    /// Attempts to write it that failed.
    pub failures: Failures,
    /// Made by `observe` once for all messages of the batch.
    pub observed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

pub(crate) struct RejectedRow {
    pub(crate) decoded: Decoded,
    /// SQLSTATE and message.
    pub(crate) detail: String,
}

pub(crate) struct DeadLetter {
    pub(crate) delivery: Delivery,
    pub(crate) reason: Reason,
    /// For people; no payload.
    pub(crate) detail: String,
    /// Its event, if it could be decoded.
    pub(crate) event: Option<Event>,
    /// Its batch, if it reached one.
    pub(crate) batch: Option<Arc<BatchTimings>>,
}

/// Result of the cache write of a batch.
pub struct CacheWrite {
    /// When it was written or skipped (nanoseconds of [`timings::now_nanos`]).
    pub ended: u64,
    /// Attempts that failed.
    pub failures: Failures,
    /// The cache's error, if the batch was settled without the cache.
    pub cache_error: Option<Error>,
}

/// A letter that the dead-letter stream has acknowledged.
pub(crate) struct PublishedLetter {
    pub(crate) letter: DeadLetter,
    pub(crate) failures: Failures,
}
