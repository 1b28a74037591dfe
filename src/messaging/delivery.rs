//! One delivery of a message, and the handle that gives it back when it is dropped.

use std::sync::Arc;

use async_nats::{Message, Subject};

use super::held::{Held, HeldId};
use crate::event::{self, Timestamp, TraceContext};
use crate::telemetry::record::Record;
use crate::telemetry::trace_id::TraceId;

/// A delivered message. Dropped on any path without [`settle`], it is
/// released: the server delivers it again at once.
pub struct Delivery {
    /// Subject, headers and body.
    pub message: Message,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    /// When the stream stored it.
    pub published_at: Timestamp,
    /// The producer's trace context, if it sent one.
    pub producer: Option<TraceContext>,
    /// The id that every trace, row, log line and dead letter of it carries.
    pub trace_id: TraceId,
    /// When it passed which stage.
    pub record: Record,
    /// Where its acknowledgement goes.
    pub reply: Subject,
    hold: Hold,
}

/// The place in the register of what is held.
struct Hold {
    id: HeldId,
    held: Arc<Held>,
    generation: u64,
    settled: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.settled {
            self.held.release(self.id);
        }
    }
}

/// What the ack subject of a delivery says (NATS ADR-15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    /// When the stream stored it.
    pub published_at: Timestamp,
}

impl Metadata {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`,
    /// or the longer form with domain and account hash before the stream. The client
    /// library has such a parser, on a type that would cost us a copy of its whole
    /// context for each message.
    pub fn parse(ack_subject: &str) -> Option<Self> {
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
    /// Subject, headers and body.
    pub message: Message,
    /// Where its acknowledgement goes.
    pub reply: Subject,
    /// What that subject says.
    pub metadata: Metadata,
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

    /// The delivery that is in the register as `id`.
    pub fn into_delivery(self, stream: &str, id: HeldId, held: &Arc<Held>) -> Delivery {
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
            record: Record::received(),
            message: self.message,
            reply: self.reply,
            hold: Hold {
                id,
                held: held.clone(),
                generation: held.generation(),
                settled: false,
            },
        }
    }
}

impl Delivery {
    /// Whether it was delivered before.
    pub fn is_redelivered(&self) -> bool {
        self.delivered > 1
    }

    /// Whether the consumer that delivered it is still there to take its acknowledgement.
    pub fn is_ours(&self) -> bool {
        self.hold.generation == self.hold.held.generation()
    }
}

/// Lets deliveries go whose acknowledgements were sent: one lock for all of them.
pub fn settle(deliveries: impl IntoIterator<Item = Delivery>) {
    let mut ids = Vec::new();
    let mut held = None;
    for mut delivery in deliveries {
        delivery.hold.settled = true;
        ids.push(delivery.hold.id);
        held.get_or_insert_with(|| delivery.hold.held.clone());
    }
    if let Some(held) = held {
        held.forget(ids.into_iter());
    }
}
