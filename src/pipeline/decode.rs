//! Decode: from a delivery to an event, or to a dead letter.

use tokio::sync::mpsc::{Receiver, Sender};

use super::dead_letter::DeadLetter;
use crate::error::Error;
use crate::event::{self, Event};
use crate::labels::Reason;
use crate::messaging::Delivery;
use crate::telemetry::record::now_nanos;

/// A delivery with the event that it carries.
pub struct Decoded {
    /// The delivery.
    pub delivery: Delivery,
    /// Its event.
    pub event: Event,
}

/// Decodes until the input closes.
///
/// # Errors
/// None.
pub async fn run(
    stream: String,
    accept_plain: bool,
    mut input: Receiver<Vec<Delivery>>,
    output: Sender<Vec<Decoded>>,
    dead_letters: Sender<DeadLetter>,
) -> Result<(), Error> {
    while let Some(chunk) = input.recv().await {
        let mut decoded = Vec::with_capacity(chunk.len());
        let taken_at = now_nanos();
        for mut delivery in chunk {
            delivery.record.mark_taken(taken_at);
            match decode(&stream, accept_plain, delivery) {
                Ok(event) => decoded.push(event),
                Err(letter) => {
                    if dead_letters.send(letter).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        if !decoded.is_empty() && output.send(decoded).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[allow(
    clippy::result_large_err,
    reason = "both are a delivery; boxing costs an allocation"
)]
fn decode(stream: &str, accept_plain: bool, mut delivery: Delivery) -> Result<Decoded, DeadLetter> {
    let message = event::Message {
        subject: &delivery.message.subject,
        headers: delivery.message.headers.as_ref(),
        payload: &delivery.message.payload,
        stream,
        stream_sequence: delivery.stream_sequence,
        stored_at: delivery.published_at,
    };
    let result = event::decode(&message, accept_plain);
    delivery.record.mark_decoded(now_nanos());
    match result {
        Ok(event) => Ok(Decoded { delivery, event }),
        Err(error) => Err(DeadLetter {
            reason: Reason::Decode(error.reason()),
            detail: error.to_string(),
            delivery,
            event: None,
            batch: None,
        }),
    }
}
