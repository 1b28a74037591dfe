//! The closed values of the labels.

/// Values of the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its event is a new row.
    Stored,
    /// Its event was a row already.
    Duplicate,
    /// It is a dead letter.
    DeadLettered,
    /// It went back to the stream for at-once redelivery.
    Released,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [
        Self::Stored,
        Self::Duplicate,
        Self::DeadLettered,
        Self::Released,
    ];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::DeadLettered => "dead_lettered",
            Self::Released => "released",
        }
    }
}

/// The bounded queues, in flow order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// source → decode, in chunks of deliveries.
    Decode,
    /// decode → batch, in chunks of events.
    Batch,
    /// batch → store, in batches.
    Store,
    /// store → cache, in batches.
    Cache,
    /// cache → settle, in batches.
    Settle,
    /// decode and store → dead letter, in messages.
    DeadLetter,
    /// Spans of kept traces that wait for the OTLP exporter.
    Export,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 7] = [
        Self::Decode,
        Self::Batch,
        Self::Store,
        Self::Cache,
        Self::Settle,
        Self::DeadLetter,
        Self::Export,
    ];

    /// Its label value: what reads it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Batch => "batch",
            Self::Store => "store",
            Self::Cache => "cache",
            Self::Settle => "settle",
            Self::DeadLetter => "dead_letter",
            Self::Export => "export",
        }
    }
}

/// How a batch was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMethod {
    /// Binary `COPY`.
    Copy,
    /// `INSERT … ON CONFLICT DO NOTHING`.
    Insert,
}

impl WriteMethod {
    /// Every method.
    pub const ALL: [Self; 2] = [Self::Copy, Self::Insert];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Insert => "insert",
        }
    }
}

/// A cache operation and how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRequest {
    /// A read found the value.
    ReadHit,
    /// A read found nothing and took the lease.
    ReadMiss,
    /// A read found another's lease and waited for its value.
    ReadWait,
    /// A read went to Postgres without the cache (away, slow, or epoch unknown).
    ReadBypass,
    /// A value was stored after a miss.
    FillStored,
    /// A value was not stored: a write had voided the lease.
    FillVoided,
    /// A fill failed.
    FillError,
    /// A batch's newest states were written.
    WriteOk,
    /// A batch's write was skipped because the cache is known to be away.
    WriteSkipped,
    /// A batch's write failed.
    WriteError,
}

impl CacheRequest {
    /// Every operation and result.
    pub const ALL: [Self; 10] = [
        Self::ReadHit,
        Self::ReadMiss,
        Self::ReadWait,
        Self::ReadBypass,
        Self::FillStored,
        Self::FillVoided,
        Self::FillError,
        Self::WriteOk,
        Self::WriteSkipped,
        Self::WriteError,
    ];

    /// The labels `operation` and `result`.
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::ReadHit => ("read", "hit"),
            Self::ReadMiss => ("read", "miss"),
            Self::ReadWait => ("read", "wait"),
            Self::ReadBypass => ("read", "bypass"),
            Self::FillStored => ("fill", "stored"),
            Self::FillVoided => ("fill", "voided"),
            Self::FillError => ("fill", "error"),
            Self::WriteOk => ("write", "ok"),
            Self::WriteSkipped => ("write", "skipped"),
            Self::WriteError => ("write", "error"),
        }
    }
}

/// The stages that a message is timed in, in flow order. They leave no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the stream's timestamp until the source read the delivery.
    Stream,
    /// Until its envelope was decoded, or refused.
    Decode,
    /// Until its batch was closed.
    Batch,
    /// Until its row was committed.
    Store,
    /// Until the cache was written, or skipped.
    Cache,
    /// Until its acknowledgement was sent; publishing a dead letter belongs to it.
    Settle,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 6] = [
        Self::Stream,
        Self::Decode,
        Self::Batch,
        Self::Store,
        Self::Cache,
        Self::Settle,
    ];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Decode => "decode",
            Self::Batch => "batch",
            Self::Store => "store",
            Self::Cache => "cache",
            Self::Settle => "settle",
        }
    }
}

/// Whether a settled message is kept as a trace: the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl Decision {
    /// Every decision.
    pub const ALL: [Self; 7] = [
        Self::Failed,
        Self::Redelivered,
        Self::Slow,
        Self::Upstream,
        Self::Baseline,
        Self::OverBudget,
        Self::Unsampled,
    ];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Redelivered => "redelivered",
            Self::Slow => "slow",
            Self::Upstream => "upstream",
            Self::Baseline => "baseline",
            Self::OverBudget => "over_budget",
            Self::Unsampled => "unsampled",
        }
    }
}

/// What became of a span that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanResult {
    /// The collector answered Ok.
    Exported,
    /// There was no room in the queue.
    Dropped,
    /// The collector did not take it.
    Failed,
}

impl SpanResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Exported, Self::Dropped, Self::Failed];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// Whose busy share a gauge shows: the workers are not told apart, which would be a
/// series for each processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyWorker {
    /// The mean of all.
    Mean,
    /// The one that was busy longest.
    Busiest,
    /// The one that was busy shortest.
    Idlest,
}

impl BusyWorker {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Busiest, Self::Idlest];

    /// Its label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Busiest => "busiest",
            Self::Idlest => "idlest",
        }
    }
}
