//! Settle: the one place where messages are acknowledged. Each has a committed row or needs none (a trigger
//! skipped it, a marker of NATS), or its letter is in the dead-letter stream. A lost ack causes a redelivery,
//! which becomes a duplicate.

use async_nats::Client;
use bytes::Bytes;

use super::writer::Writer;
use crate::labels::Outcome;
use crate::message::{CacheWrite, Delivery, PublishedLetter, StoredBatch};
use crate::messaging::InFlight;
use crate::observe::Observer;
use crate::telemetry::Metrics;

const ACK: &[u8] = b"+ACK";

/// Acknowledges a batch. Its rows are committed, and the cache is written or its epoch advanced.
pub(crate) async fn ack_batch(writer: &mut Writer, stored: StoredBatch, cached: &CacheWrite) {
    for decoded in &stored.messages {
        acknowledge(&writer.client, &decoded.delivery).await;
    }
    if let Some(observer) = &mut writer.observer {
        observer.record_batch(&stored, cached);
    }
    let messages = stored.messages.into_iter();
    writer
        .in_flight
        .remove_acked(messages.map(|decoded| decoded.delivery));
}

/// Acknowledges a message whose letter is in the dead-letter stream.
pub(crate) async fn ack_dead_letter(
    client: &Client,
    in_flight: &InFlight,
    observer: Option<&mut Observer>,
    published: PublishedLetter,
) {
    acknowledge(client, &published.letter.delivery).await;
    if let Some(observer) = observer {
        observer.record_letter(&published);
    }
    in_flight.remove_acked(std::iter::once(published.letter.delivery));
}

/// Acknowledges NATS's own markers, which are no events.
pub(crate) async fn ack_markers(
    client: &Client,
    in_flight: &InFlight,
    metrics: &Metrics,
    markers: Vec<Delivery>,
) {
    for delivery in &markers {
        acknowledge(client, delivery).await;
    }
    metrics.settled[Outcome::Marker].increment(markers.len() as u64);
    in_flight.remove_acked(markers.into_iter());
}

/// Skips the ack if the consumer was recreated: it would acknowledge another message.
async fn acknowledge(client: &Client, delivery: &Delivery) {
    if delivery.can_be_acked() {
        // Fails only when the client is closed, at the very end.
        let ack = Bytes::from_static(ACK);
        let _ = client.publish(delivery.ack_subject.clone(), ack).await;
    }
}
