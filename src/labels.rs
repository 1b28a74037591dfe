//! The closed lists of label values. A value's name is its variant in snake case, unless it says so.

#![allow(missing_docs, reason = "strum writes `into_str`")]

use strum::{IntoStaticStr, VariantArray};

use crate::event::DecodeReason;

/// How a message ended: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Outcome {
    /// Its event is a new row.
    Stored,
    /// Its event was a row already.
    Duplicate,
    /// A trigger of the table skipped its row.
    Skipped,
    DeadLettered,
    /// No event: NATS's own marker of an expired subject.
    Marker,
    /// It went back to the stream for immediate redelivery.
    Released,
}

/// Why a message became a dead letter: the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    #[strum(transparent)]
    Decode(DecodeReason),
    RejectedRow,
    /// The client library cannot read it.
    Unreadable,
    MaxDeliveries,
}

impl Reason {
    pub(crate) fn into_str(self) -> &'static str {
        self.into()
    }
}

impl VariantArray for Reason {
    const VARIANTS: &'static [Self] = &{
        const DECODE: &[DecodeReason] = DecodeReason::VARIANTS;
        let mut all = [Self::RejectedRow; DECODE.len() + 3];
        let mut i = 0;
        while i < DECODE.len() {
            all[i] = Self::Decode(DECODE[i]);
            i += 1;
        }
        all[i + 1] = Self::Unreadable;
        all[i + 2] = Self::MaxDeliveries;
        all
    };
}

/// The stages that a message is timed in, in flow order: the label `stage`. They leave no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Stage {
    /// From the stream's timestamp until decode took the delivery.
    Stream,
    /// Until its envelope was decoded, or refused.
    Decode,
    /// Until a writer took it.
    Queue,
    /// Until its row was committed.
    Store,
    /// Until the cache was written, or skipped.
    Cache,
    /// Until its acknowledgement was sent; publishing a dead letter belongs to it.
    Settle,
}

/// The queues, in flow order, each named after what reads it: the label `queue`. Messages in them count
/// against the in-flight limit; the export queue has a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Queue {
    /// source → writers, in messages.
    Writer,
    /// source and writers → dead letters, in messages.
    DeadLetter,
    /// Spans of kept traces that wait for the OTLP exporter.
    Export,
}

/// How a batch was written: the label `method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum WriteMethod {
    /// Binary `COPY`.
    Copy,
    /// `INSERT … ON CONFLICT (id, source, time) DO NOTHING`.
    Insert,
}

/// A cache operation and how it went: the labels `operation` and `result`, with a space between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub enum CacheRequest {
    /// A read found the value.
    #[strum(serialize = "read hit")]
    ReadHit,
    /// A read found nothing and took the lease.
    #[strum(serialize = "read miss")]
    ReadMiss,
    /// A read found another's lease and waited for its value.
    #[strum(serialize = "read wait")]
    ReadWait,
    /// A read went to Postgres without the cache (away, slow, or epoch unknown).
    #[strum(serialize = "read bypass")]
    ReadBypass,
    /// A value was stored after a miss.
    #[strum(serialize = "fill stored")]
    FillStored,
    /// A value was not stored: a write had voided the lease.
    #[strum(serialize = "fill voided")]
    FillVoided,
    #[strum(serialize = "fill error")]
    FillError,
    /// A batch's newest states were written.
    #[strum(serialize = "write ok")]
    WriteOk,
    /// A batch's write was skipped because the cache is known to be away.
    #[strum(serialize = "write skipped")]
    WriteSkipped,
    #[strum(serialize = "write error")]
    WriteError,
}

/// How a read through the cache was answered: the label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum CacheRead {
    /// By the cache.
    Hit,
    /// By Postgres: the cache had nothing.
    Miss,
    /// By the cache, after another read had fetched the value.
    Wait,
    /// By Postgres, without the cache.
    Bypass,
}

/// The use of a connection of the Postgres pool: the label `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ConnectionState {
    Idle,
    Used,
}

/// What became of a connection to a dependency: the label `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ConnectionEvent {
    Opened,
    Closed,
}

/// Routes of the API: the label `route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum HttpRoute {
    #[strum(serialize = "/v1/docs")]
    Docs,
    #[strum(serialize = "/v1/docs/{file}")]
    DocsFile,
    #[strum(serialize = "/v1/events")]
    Search,
    #[strum(serialize = "/v1/events/stream")]
    Tail,
    #[strum(serialize = "/v1/events/{id}")]
    Event,
    #[strum(serialize = "/v1/explain")]
    Explain,
    #[strum(serialize = "/v1/openapi.json")]
    Document,
    #[strum(serialize = "/v1/stats")]
    Stats,
    #[strum(serialize = "/v1/subjects")]
    Subjects,
    #[strum(serialize = "/v1/subjects/{subject}/latest")]
    Latest,
    Other,
}

impl HttpRoute {
    pub(crate) fn of(path: &str) -> Self {
        let route = Self::VARIANTS.iter().find(|route| route.into_str() == path);
        *route.unwrap_or(&Self::Other)
    }
}

/// Classes of HTTP status: the label `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub enum StatusClass {
    /// Below 400.
    #[strum(serialize = "2xx")]
    Success,
    /// 400 to 499.
    #[strum(serialize = "4xx")]
    ClientError,
    /// 500 and above.
    #[strum(serialize = "5xx")]
    ServerError,
}

impl StatusClass {
    pub(crate) const fn of(status: u16) -> Self {
        match status {
            500.. => Self::ServerError,
            400.. => Self::ClientError,
            _ => Self::Success,
        }
    }
}

/// Whether a settled message is kept as a trace, the first that applies: the label `decision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Decision {
    /// Kept: a dead letter, or an attempt failed on the way.
    Failed,
    /// Kept: it was delivered before.
    Redelivered,
    /// Kept: it took longer than `GANESH_TRACE_SLOW_MS`.
    Slow,
    /// Kept: its producer sampled it.
    Upstream,
    /// Kept: one in `GANESH_TRACE_BASELINE`.
    Baseline,
    /// One of these, and the budget for it was spent.
    OverBudget,
    /// None of these.
    Unsampled,
}

/// The fate of a span: the label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum SpanResult {
    /// The collector answered Ok.
    Exported,
    /// There was no room in the queue.
    Dropped,
    /// The collector did not take it.
    Failed,
}

/// Whose busy share a gauge shows: the label `worker`. A series for each worker would be one for each
/// processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum BusyWorker {
    Mean,
    Busiest,
    Idlest,
}
