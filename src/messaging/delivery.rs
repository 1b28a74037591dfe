//! Reads what a delivery's ack subject says.

use async_nats::{Message, Subject};

use crate::event::{self, Timestamp, TraceId};
use crate::message::timings::Timings;
use crate::message::{Delivery, InFlightGuard};

/// The parsed ack subject of a delivery (NATS ADR-15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) stream_sequence: u64,
    /// How often it was delivered, this time included.
    pub(crate) delivered: u64,
    pub(crate) published_at: Timestamp,
}

impl Metadata {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`,
    /// or the longer form with domain and account hash before the stream. The client
    /// library has such a parser, on a type that would cost us a copy of its whole
    /// context for each message.
    pub(crate) fn parse(ack_subject: &str) -> Option<Self> {
        let mut numbers = numbers(ack_subject)?;
        let delivered = numbers.next()?.parse().ok()?;
        let stream_sequence = numbers.next()?.parse().ok()?;
        let _consumer_sequence = numbers.next()?;
        Some(Self {
            stream_sequence,
            delivered,
            published_at: Timestamp::from_nanos(numbers.next()?.parse().ok()?),
        })
    }
}

fn numbers(ack_subject: &str) -> Option<impl Iterator<Item = &str>> {
    let subject = ack_subject.strip_prefix("$JS.ACK.")?;
    let before_numbers = match subject.split('.').count() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    Some(subject.split('.').skip(before_numbers))
}

/// How many messages waited in the stream behind this one when it was delivered.
pub(crate) fn pending(ack_subject: &str) -> Option<u64> {
    numbers(ack_subject)?.nth(4)?.parse().ok()
}

/// A message that is a delivery of a consumer, not held yet.
pub struct ParsedDelivery {
    pub(crate) message: Message,
    /// The ack subject.
    pub ack_subject: Subject,
    pub(crate) metadata: Metadata,
}

impl ParsedDelivery {
    /// Reads where the message came from.
    ///
    /// # Errors
    /// The message's subject when it is no delivery of a consumer.
    pub fn read(message: Message) -> Result<Self, String> {
        let reply = message.reply.clone();
        let found = reply.and_then(|reply| Some((Metadata::parse(&reply)?, reply)));
        match found {
            Some((metadata, ack_subject)) => Ok(Self {
                message,
                ack_subject,
                metadata,
            }),
            None => Err(message.subject.to_string()),
        }
    }

    /// The delivery that has this place in the register.
    pub fn into_delivery(self, stream: &str, guard: InFlightGuard) -> Delivery {
        let Metadata {
            stream_sequence,
            delivered,
            published_at,
        } = self.metadata;
        let producer = event::trace_context(self.message.headers.as_ref());
        Delivery {
            trace_id: TraceId::of_message(producer.as_ref(), stream, stream_sequence, published_at),
            producer,
            stream_sequence,
            delivered,
            published_at,
            timings: Timings::received(),
            message: self.message,
            ack_subject: self.ack_subject,
            guard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_ack_subjects_are_read() {
        for subject in [
            "$JS.ACK.EVENTS.ganesh.2.7.9.1700000000000000000.41",
            "$JS.ACK.hub.ACCOUNT.EVENTS.ganesh.2.7.9.1700000000000000000.41.random",
        ] {
            let metadata = Metadata::parse(subject).expect("an ack subject");
            assert_eq!((metadata.delivered, metadata.stream_sequence), (2, 7));
            assert_eq!(pending(subject), Some(41));
        }
        assert_eq!(pending("$JS.ACK.EVENTS.ganesh"), None);
    }
}
