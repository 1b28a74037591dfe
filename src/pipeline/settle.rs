//! Settle: the one place where messages are acknowledged, all of them durable by now.

use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use super::store::Committed;
use crate::error::Error;
use crate::messaging::{Delivery, delivery};
use crate::telemetry::Metrics;
use crate::telemetry::catalogue::Outcome;

const ACK: &[u8] = b"+ACK";

/// Messages that may be acknowledged.
pub enum Settlement {
    /// A batch whose rows are committed.
    Rows(Committed),
    /// A message whose dead letter the stream has acknowledged.
    Letter(Box<Delivery>),
}

/// Acknowledges until the input closes.
///
/// # Errors
/// None: an acknowledgement that is lost makes a redelivery, and that a duplicate.
pub async fn run(
    client: Client,
    metrics: Metrics,
    mut input: Receiver<Settlement>,
) -> Result<(), Error> {
    while let Some(settlement) = input.recv().await {
        match settlement {
            Settlement::Rows(committed) => {
                let replies = committed.messages.iter().map(|d| &d.delivery.reply);
                acknowledge(&client, replies).await;
                count_rows(&metrics, &committed);
                delivery::settle(committed.messages.into_iter().map(|d| d.delivery));
            }
            Settlement::Letter(delivery) => {
                acknowledge(&client, std::iter::once(&delivery.reply)).await;
                metrics.settled(Outcome::DeadLettered).increment(1);
                delivery::settle([*delivery]);
            }
        }
    }
    Ok(())
}

async fn acknowledge(client: &Client, replies: impl Iterator<Item = &Subject>) {
    for reply in replies {
        // Fails only when the client is closed, at the very end.
        let _ = client.publish(reply.clone(), Bytes::from_static(ACK)).await;
    }
}

fn count_rows(metrics: &Metrics, committed: &Committed) {
    let outcomes = &committed.outcomes;
    let stored = outcomes.iter().filter(|o| **o == Outcome::Stored).count();
    let duplicates = outcomes.len() - stored;
    metrics.settled(Outcome::Stored).increment(stored as u64);
    metrics
        .settled(Outcome::Duplicate)
        .increment(duplicates as u64);
    for (decoded, outcome) in committed.messages.iter().zip(outcomes) {
        if *outcome == Outcome::Stored {
            let published_at = decoded.delivery.published_at;
            let micros = committed.committed_at.micros() - published_at.micros();
            // The clocks of two hosts differ: a duration is never negative.
            #[allow(clippy::cast_precision_loss, reason = "microseconds of an hour fit")]
            let seconds = micros.max(0) as f64 / 1e6;
            metrics.end_to_end_seconds.record(seconds);
        }
    }
}
