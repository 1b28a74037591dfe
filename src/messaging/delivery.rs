//! Reads what a delivery's ack subject says.

use async_nats::{Message, Subject};

use crate::event::{self, Timestamp, TraceId};
use crate::message::timings::Timings;
use crate::message::{Delivery, Hold};

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
        const MAX_TOKENS: usize = 10;
        let mut tokens = [""; MAX_TOKENS];
        let mut count = 0;
        for token in ack_subject
            .strip_prefix("$JS.ACK.")?
            .split('.')
            .take(MAX_TOKENS)
        {
            tokens[count] = token;
            count += 1;
        }
        let numbers = match count {
            7 => &tokens[2..7],
            9.. => &tokens[4..9],
            _ => return None,
        };
        Some(Self {
            delivered: numbers[0].parse().ok()?,
            stream_sequence: numbers[1].parse().ok()?,
            published_at: Timestamp::from_nanos(numbers[3].parse().ok()?),
        })
    }
}

/// A message that is a delivery of a consumer, not held yet.
pub struct Arrived {
    pub(crate) message: Message,
    /// The ack subject.
    pub reply: Subject,
    pub(crate) metadata: Metadata,
}

impl Arrived {
    /// Reads where the message came from.
    ///
    /// # Errors
    /// The message's subject when it is no delivery of a consumer.
    pub fn read(message: Message) -> Result<Self, String> {
        let found = message
            .reply
            .clone()
            .and_then(|reply| Some((Metadata::parse(&reply)?, reply)));
        match found {
            Some((metadata, reply)) => Ok(Self {
                message,
                reply,
                metadata,
            }),
            None => Err(message.subject.to_string()),
        }
    }

    /// The delivery that has this place in the register.
    pub fn into_delivery(self, stream: &str, hold: Hold) -> Delivery {
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
            reply: self.reply,
            hold,
        }
    }
}
