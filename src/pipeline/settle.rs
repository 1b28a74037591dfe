//! Settle: the one place where messages are acknowledged, all of them durable by now.

use async_nats::Client;
use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use crate::error::Error;
use crate::event::Timestamp;
use crate::messaging::{Delivery, delivery};
use crate::telemetry::Metrics;
use crate::telemetry::catalogue::Outcome;

const ACK: &[u8] = b"+ACK";

/// A message that may be acknowledged.
pub struct Settlement {
    /// The message.
    pub delivery: Delivery,
    /// How it ended.
    pub outcome: Outcome,
    /// When its row was committed, or its dead letter acknowledged.
    pub durable_at: Timestamp,
}

/// Acknowledges until the input closes.
///
/// # Errors
/// None: an acknowledgement that is lost makes a redelivery, and that a duplicate.
pub async fn run(
    client: Client,
    metrics: Metrics,
    mut input: Receiver<Vec<Settlement>>,
) -> Result<(), Error> {
    while let Some(settlements) = input.recv().await {
        for settlement in &settlements {
            let reply = settlement.delivery.reply.clone();
            // Fails only when the client is closed, at the very end.
            let _ = client.publish(reply, Bytes::from_static(ACK)).await;
        }
        count(&metrics, &settlements);
        delivery::settle(
            settlements
                .into_iter()
                .map(|settlement| settlement.delivery),
        );
    }
    Ok(())
}

fn count(metrics: &Metrics, settlements: &[Settlement]) {
    for outcome in [Outcome::Stored, Outcome::Duplicate, Outcome::DeadLettered] {
        let count = settlements.iter().filter(|s| s.outcome == outcome).count();
        metrics.settled(outcome).increment(count as u64);
    }
    let stored = settlements.iter().filter(|s| s.outcome == Outcome::Stored);
    for settlement in stored {
        let micros = settlement.durable_at.micros() - settlement.delivery.published_at.micros();
        // The clocks of two hosts differ: a duration is never negative.
        #[allow(clippy::cast_precision_loss, reason = "microseconds of an hour fit")]
        let seconds = micros.max(0) as f64 / 1e6;
        metrics.end_to_end_seconds.record(seconds);
    }
}
