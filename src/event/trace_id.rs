//! The trace id of a message: the producer's when it sampled, otherwise derived,
//! so that every delivery, row, log line and dead letter of it carries the same.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::{Timestamp, TraceContext};

/// A W3C trace id: 16 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// The producer's id if its trace was sampled, else one derived from what
    /// identifies the message in its stream. The stored time is part of it,
    /// because a recreated stream starts its sequences again.
    pub fn of_message(
        producer: Option<&TraceContext>,
        stream: &str,
        stream_sequence: u64,
        published_at: Timestamp,
    ) -> Self {
        if let Some(context) = producer.filter(|context| context.sampled) {
            return Self(context.trace_id);
        }
        let mut hasher = Xxh3::new();
        hasher.update(stream.as_bytes());
        hasher.update(&stream_sequence.to_le_bytes());
        hasher.update(&published_at.micros().to_le_bytes());
        // W3C trace context forbids the id of zeros.
        Self(hasher.digest128().max(1).to_be_bytes())
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
