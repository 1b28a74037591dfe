//! One row of `events`, borrowed from what it is made of.

use std::cmp::Ordering;

use crate::event::{Event, Timestamp, TraceId};

/// The columns of [`Row`]. `stored_at`, which both ways of writing fill too, is Postgres's clock; Postgres fills
/// `stored_in`.
pub(super) const COLUMNS: &str = "id, source, time, type, subject, datacontenttype, dataschema, \
     data, data_bytes, extensions, nats_subject, stream_seq, published_at, trace_id";

/// One row of `events`.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the columns have the same names")]
pub struct Row<'a> {
    pub event: &'a Event,
    /// With sequence and time it names the message.
    pub stream: &'a str,
    pub nats_subject: &'a str,
    pub stream_seq: u64,
    /// When the stream stored it.
    pub published_at: Timestamp,
    pub trace_id: TraceId,
}

impl Row<'_> {
    fn key(&self) -> (Timestamp, &str, &str) {
        (self.event.time, &self.event.source, &self.event.id)
    }

    /// The order in which every writer touches the index: two that write the same
    /// keys wait for each other instead of deadlocking. Of the same event, what
    /// the stream stored first comes first.
    pub fn write_order(&self, other: &Self) -> Ordering {
        self.key()
            .cmp(&other.key())
            .then(self.stream_seq.cmp(&other.stream_seq))
    }

    /// Returns whether both are the same event: `source`, `id` and `time` are equal.
    pub(crate) fn is_same_event(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// Names the message among those of its stream, also where the stream was deleted and made again.
    pub(super) fn message(&self) -> (i64, Timestamp) {
        (self.stream_seq_i64(), self.published_at)
    }

    pub(super) fn stream_seq_i64(&self) -> i64 {
        // JetStream counts from 1; 2^63 messages take longer than hardware lasts.
        i64::try_from(self.stream_seq).unwrap_or(i64::MAX)
    }

    /// Extensions as a JSON object; `None` when there are none.
    pub(super) fn extensions_json(&self) -> Option<String> {
        let extensions = &self.event.extensions;
        (!extensions.is_empty())
            .then(|| serde_json::to_string(extensions).expect("strings always serialize"))
    }
}
