//! Batch: collects events until there are enough, or the first has waited enough.

use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::Instant;

use super::decode::Decoded;
use crate::config::PipelineConfig;
use crate::error::Error;
use crate::telemetry::Metrics;
use crate::telemetry::record::{Failures, now_nanos};

/// When a batch is closed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At this many events.
    pub events: usize,
    /// At this many bytes, as delivered.
    pub bytes: usize,
    /// This long after its first event.
    pub linger: Duration,
}

impl Limits {
    /// The configured limits.
    pub fn of(config: &PipelineConfig) -> Self {
        Self {
            events: config.batch_max_events,
            bytes: config.batch_max_bytes,
            linger: Duration::from_millis(60),
        }
    }
}

/// Events that are written together.
pub struct Batch {
    /// They.
    pub messages: Vec<Decoded>,
    /// Whether it is one message that was delivered so often that it is not written any more.
    pub is_exhausted: bool,
    /// When nothing was added any more (nanoseconds of [`now_nanos`]).
    pub closed_at: u64,
    /// Attempts to write it that failed before it was set aside.
    pub failures: Failures,
    /// The last attempt that was refused for a reason that we do not know, if it was set aside for
    /// that: [`crate::storage::EventWriter::has_succeeded_since`].
    pub set_aside_at: Option<u64>,
}

/// Collects one batch at a time. Pure: it is told the time.
pub struct Batcher<T> {
    limits: Limits,
    items: Vec<T>,
    bytes: usize,
    deadline: Option<Instant>,
}

impl<T> Batcher<T> {
    /// An empty batch.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            items: Vec::new(),
            bytes: 0,
            deadline: None,
        }
    }

    /// Adds an item; returns the batch that this closes. A batch holds at least one
    /// item, however large that is.
    pub fn push(&mut self, item: T, bytes: usize, now: Instant) -> Option<Vec<T>> {
        let closed = if !self.items.is_empty() && self.bytes + bytes > self.limits.bytes {
            self.take()
        } else {
            None
        };
        self.deadline.get_or_insert(now + self.limits.linger);
        self.items.push(item);
        self.bytes += bytes;
        if closed.is_none() && self.is_full() {
            return self.take();
        }
        closed
    }

    /// Whether no further item fits.
    pub fn is_full(&self) -> bool {
        self.items.len() >= self.limits.events || self.bytes >= self.limits.bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// When the batch has to be closed; `None` while it is empty.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Closes the batch; `None` when it is empty.
    pub fn take(&mut self) -> Option<Vec<T>> {
        self.deadline = None;
        self.bytes = 0;
        Some(std::mem::take(&mut self.items)).filter(|items| !items.is_empty())
    }
}

/// Batches until the input closes; then hands on what is left.
///
/// # Errors
/// None.
pub async fn run(
    limits: Limits,
    max_deliveries: u64,
    metrics: Metrics,
    mut input: Receiver<Vec<Decoded>>,
    output: Sender<Batch>,
) -> Result<(), Error> {
    let mut batcher = Batcher::new(limits);
    loop {
        let chunk = match batcher.deadline() {
            Some(deadline) => tokio::time::timeout_at(deadline, input.recv()).await,
            None => Ok(input.recv().await),
        };
        let closed = match chunk {
            Ok(Some(chunk)) => add(&mut batcher, chunk, max_deliveries),
            Ok(None) => break,
            Err(_) => batcher.take().into_iter().collect(),
        };
        for messages in closed {
            let batch = close(&metrics, messages, max_deliveries);
            if output.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }
    if let Some(messages) = batcher.take() {
        // Nobody left to take it: then it is dropped, which releases it.
        let batch = close(&metrics, messages, max_deliveries);
        let _ = output.send(batch).await;
    }
    Ok(())
}

fn add(
    batcher: &mut Batcher<Decoded>,
    chunk: Vec<Decoded>,
    max_deliveries: u64,
) -> Vec<Vec<Decoded>> {
    let now = Instant::now();
    let mut closed = Vec::new();
    for decoded in chunk {
        // Whatever it does to those who store it, it shall not do to others.
        if decoded.delivery.delivered > max_deliveries {
            closed.push(vec![decoded]);
            continue;
        }
        let bytes = decoded.delivery.message.length;
        closed.extend(batcher.push(decoded, bytes, now));
        // An item can close the batch before it and fill its own.
        if batcher.is_full() {
            closed.extend(batcher.take());
        }
    }
    closed
}

fn close(metrics: &Metrics, messages: Vec<Decoded>, max_deliveries: u64) -> Batch {
    let bytes: usize = messages
        .iter()
        .map(|decoded| decoded.delivery.message.length)
        .sum();
    #[allow(clippy::cast_precision_loss, reason = "a batch is far below 2^53")]
    {
        metrics.batch_events.record(messages.len() as f64);
        metrics.batch_bytes.record(bytes as f64);
    }
    Batch {
        is_exhausted: is_exhausted(&messages, max_deliveries),
        messages,
        closed_at: now_nanos(),
        failures: Failures::default(),
        set_aside_at: None,
    }
}

/// Delivered alone as often as it was with others: it is not they.
fn is_exhausted(messages: &[Decoded], max_deliveries: u64) -> bool {
    messages
        .iter()
        .any(|decoded| decoded.delivery.delivered > max_deliveries * 2)
}
