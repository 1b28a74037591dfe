//! Decode: from a delivery to an event, or to a dead letter. Plain functions: the source calls them.

use crate::event;
use crate::labels::Reason;
use crate::message::timings::now_nanos;
use crate::message::{DeadLetter, Decoded, Delivery};

/// Decodes deliveries of this stream. `accept_plain`: a message that is no CloudEvent becomes an
/// event all the same.
pub(crate) fn decode(
    stream: &str,
    accept_plain: bool,
    deliveries: Vec<Delivery>,
) -> (Vec<Decoded>, Vec<DeadLetter>) {
    let (mut decoded, mut letters) = (Vec::with_capacity(deliveries.len()), Vec::new());
    let taken_at = now_nanos();
    for mut delivery in deliveries {
        delivery.timings.mark_taken(taken_at);
        match decode_one(stream, accept_plain, delivery) {
            Ok(event) => decoded.push(event),
            Err(letter) => letters.push(letter),
        }
    }
    (decoded, letters)
}

#[allow(
    clippy::result_large_err,
    reason = "both are a delivery; boxing costs an allocation"
)]
fn decode_one(
    stream: &str,
    accept_plain: bool,
    mut delivery: Delivery,
) -> Result<Decoded, DeadLetter> {
    let message = event::Message {
        subject: &delivery.message.subject,
        headers: delivery.message.headers.as_ref(),
        payload: &delivery.message.payload,
        stream,
        stream_sequence: delivery.stream_sequence,
        stored_at: delivery.published_at,
    };
    let result = event::decode(&message, accept_plain);
    delivery.timings.mark_decoded(now_nanos());
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
