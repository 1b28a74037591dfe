//! Queues between tasks. Sending never blocks: the in-flight limit bounds every queue.

use metrics::Gauge;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::config::PipelineConfig;
use crate::message::Decoded;

/// The sending half; the queue is closed when all of them are dropped.
pub(crate) struct Sender<T> {
    chunks: UnboundedSender<Vec<T>>,
    depth: Gauge,
}

/// The receiving half.
pub(crate) struct Receiver<T> {
    chunks: UnboundedReceiver<Vec<T>>,
    /// What did not fit into the last batch.
    left: Option<Vec<T>>,
    depth: Gauge,
}

/// A queue that exports how many messages are in it.
pub(crate) fn queue<T>(depth: Gauge) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = unbounded_channel();
    let sender = Sender {
        chunks: sender,
        depth: depth.clone(),
    };
    let receiver = Receiver {
        chunks: receiver,
        left: None,
        depth,
    };
    (sender, receiver)
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            depth: self.depth.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Queues messages. If the receiver is gone, they are dropped and so released.
    pub(crate) fn send(&self, messages: Vec<T>) {
        if !messages.is_empty() {
            self.depth.increment(count(messages.len()));
            let _ = self.chunks.send(messages);
        }
    }
}

impl<T> Sender<T> {
    /// Queues each message by itself.
    pub(crate) fn send_each(&self, messages: Vec<T>) {
        for message in messages {
            self.send(vec![message]);
        }
    }
}

impl<T> Receiver<T> {
    /// Messages that were sent together; `None` when the queue is closed and empty.
    pub(crate) async fn recv(&mut self) -> Option<Vec<T>> {
        let chunk = match self.left.take() {
            Some(left) => left,
            None => self.chunks.recv().await?,
        };
        self.depth.decrement(count(chunk.len()));
        Some(chunk)
    }

    fn try_recv(&mut self) -> Option<Vec<T>> {
        let chunk = self.left.take().or_else(|| self.chunks.try_recv().ok())?;
        self.depth.decrement(count(chunk.len()));
        Some(chunk)
    }

    fn put_back(&mut self, chunk: Vec<T>) {
        self.depth.increment(count(chunk.len()));
        self.left = Some(chunk);
    }
}

/// How much a batch may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Events.
    pub(crate) events: usize,
    /// Bytes, as delivered. One event may be larger, and is a batch then.
    pub(crate) bytes: usize,
}

impl BatchLimits {
    /// The configured limits.
    pub(crate) fn of(config: &PipelineConfig) -> Self {
        Self {
            events: config.batch_max_events,
            bytes: config.batch_max_bytes,
        }
    }

    /// Returns how many of `more` (sizes in bytes) fit into a batch with `events` and `bytes`.
    pub(crate) fn fitting(
        &self,
        events: usize,
        bytes: usize,
        more: impl Iterator<Item = usize>,
    ) -> usize {
        let (mut events, mut bytes) = (events, bytes);
        more.take_while(|message_bytes| {
            let fits = events == 0
                || (events < self.events && bytes.saturating_add(*message_bytes) <= self.bytes);
            events += 1;
            bytes = bytes.saturating_add(*message_bytes);
            fits
        })
        .count()
    }
}

impl Receiver<Decoded> {
    /// Waits for a message, and takes what the queue holds then, up to the limits; `None` when the
    /// queue is closed and empty. Can be stopped anywhere.
    pub(crate) async fn batch(&mut self, limits: &BatchLimits) -> Option<Vec<Decoded>> {
        let first = self.recv().await?;
        Some(self.fill(first, limits))
    }

    /// What the queue holds now, up to the limits; `None` when it is empty.
    pub(crate) fn try_batch(&mut self, limits: &BatchLimits) -> Option<Vec<Decoded>> {
        let first = self.try_recv()?;
        Some(self.fill(first, limits))
    }

    fn fill(&mut self, first: Vec<Decoded>, limits: &BatchLimits) -> Vec<Decoded> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(mut chunk) = next {
            let sizes = chunk.iter().map(bytes_of);
            let fitting = limits.fitting(batch.len(), bytes, sizes);
            if fitting < chunk.len() {
                self.put_back(chunk.split_off(fitting));
                batch.append(&mut chunk);
                break;
            }
            bytes += chunk.iter().map(bytes_of).sum::<usize>();
            if batch.is_empty() {
                batch = chunk;
            } else {
                batch.append(&mut chunk);
            }
            next = self.try_recv();
        }
        batch
    }
}

fn bytes_of(decoded: &Decoded) -> usize {
    decoded.delivery.message.length
}

#[allow(clippy::cast_precision_loss, reason = "a gauge")]
fn count(messages: usize) -> f64 {
    messages as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_takes_what_fits_and_at_least_one_message(
            events in 1usize..20,
            bytes in 1usize..1_000,
            sizes in prop::collection::vec(0usize..600, 1..40),
        ) {
            let limits = BatchLimits { events, bytes };
            let taken = limits.fitting(0, 0, sizes.iter().copied());
            let total: usize = sizes[..taken].iter().sum();
            prop_assert!((1..=events).contains(&taken));
            prop_assert!(taken == 1 || total <= bytes);
            let next = sizes.get(taken);
            prop_assert!(next.is_none_or(|next| taken == events || total + next > bytes));
        }

        #[test]
        fn pieces_fit_as_the_whole_does(
            sizes in prop::collection::vec(0usize..300, 2..40),
            at in 1usize..39,
        ) {
            let limits = BatchLimits { events: 16, bytes: 1_000 };
            let (one, other) = sizes.split_at(at.min(sizes.len() - 1));
            let first = limits.fitting(0, 0, one.iter().copied());
            let bytes = one[..first].iter().sum();
            let more = if first == one.len() {
                limits.fitting(first, bytes, other.iter().copied())
            } else {
                0
            };
            prop_assert_eq!(first + more, limits.fitting(0, 0, sizes.iter().copied()));
        }
    }
}
