//! Why a message is not an event: a closed list of reasons, and one sentence for a human.

#![allow(missing_docs, reason = "strum writes `into_str`")]

use std::borrow::Cow;

use strum::{Display, IntoStaticStr, VariantArray};

use crate::text::quoted;

/// The closed list of reasons for which [`super::decode`] refuses a message: a metric label, and the
/// reason that a dead letter carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum DecodeReason {
    /// A required attribute is not there.
    MissingAttribute,
    /// An attribute's name, type or value breaks the rules of `CloudEvents`.
    InvalidAttribute,
    /// An attribute, or the data, is given more than once.
    RepeatedAttribute,
    /// An attribute, or the NATS subject, is longer than its limit.
    AttributeTooLong,
    /// More extension attributes than the limits allow, by number or by size.
    TooManyExtensions,
    /// `time` is not an RFC 3339 timestamp in the years 0001 to 9999.
    InvalidTime,
    /// The event, or the data that says it is JSON, is not valid JSON.
    InvalidJson,
    /// Not UTF-8 where text is due, or not base64 where base64 is due.
    InvalidEncoding,
    /// Another version of `CloudEvents` than 1.0.
    UnsupportedSpecversion,
    /// A structured event in another format than JSON.
    UnsupportedFormat,
    /// A batch of events in one message.
    UnsupportedBatch,
    /// Not a `CloudEvent`, and plain messages are switched off.
    PlainNotAccepted,
}

/// A message that is not an event. Its display is one sentence that names the attribute and what was
/// expected of it; the payload is never part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct DecodeError {
    reason: DecodeReason,
    sentence: Cow<'static, str>,
}

impl DecodeError {
    pub(super) fn new(reason: DecodeReason, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            sentence: sentence.into(),
        }
    }

    /// The reason from the closed list.
    pub const fn reason(&self) -> DecodeReason {
        self.reason
    }

    pub(super) fn invalid_attribute(name: &str, expected: &str) -> Self {
        Self::new(
            DecodeReason::InvalidAttribute,
            format!("attribute {} {expected}", quoted(name)),
        )
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::new(
            DecodeReason::MissingAttribute,
            format!(
                "attribute {} is missing: every CloudEvent has one",
                quoted(name)
            ),
        )
    }

    pub(super) fn repeated(name: &str) -> Self {
        Self::new(
            DecodeReason::RepeatedAttribute,
            format!("{} is given more than once", quoted(name)),
        )
    }

    pub(super) fn too_long(name: &str, length_bytes: usize, max_bytes: usize) -> Self {
        Self::new(
            DecodeReason::AttributeTooLong,
            format!(
                "attribute {} has {length_bytes} bytes: at most {max_bytes} are accepted",
                quoted(name)
            ),
        )
    }
}
