//! What a replayed message says of its first delivery, so that it makes the same event again.
//!
//! `ganesh dlq replay` sets these headers and the `Nats-Msg-Id` `<first id>~<generation>`. Whoever may
//! publish to the stream may set them too: they choose the id and time of a plain message, which
//! `ce-id` and `ce-time` let the same producer choose anyway, so they give nobody a right that it had
//! not. What is not whole, or does not agree, is refused: guessing would make another event.

use async_nats::HeaderMap;

use super::headers::Headers;
use super::{DecodeError, DecodeReason, Timestamp};

/// How often the message was replayed. Letters carry it too; 0 is none.
pub(crate) const GENERATION: &str = "ganesh-dlq-generation";
/// When the stream stored the message first.
pub(crate) const FIRST_SEEN: &str = "ganesh-dlq-first-seen";
/// Its sequence in the stream then.
pub(crate) const FIRST_SEQUENCE: &str = "ganesh-dlq-first-sequence";
/// Stands between the first id and the generation in the `Nats-Msg-Id` of a replay.
pub(crate) const GENERATION_MARK: char = '~';

const PREFIX: &str = "ganesh-dlq-";
const NAMES: [&str; 3] = [GENERATION, FIRST_SEEN, FIRST_SEQUENCE];

/// The first delivery of a message that was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstDelivery<'a> {
    /// How often it was replayed since; not 0.
    pub(crate) generation: u32,
    /// Its `Nats-Msg-Id`, or `<stream>:<sequence>` if it had none: the id of a plain message.
    pub(crate) id: &'a str,
    pub(crate) seen: Timestamp,
    pub(crate) sequence: u64,
}

/// The headers of a replay that one pass over a message's headers finds.
#[derive(Default)]
pub(super) struct ReplayHeaders<'a> {
    values: [Option<&'a str>; NAMES.len()],
    repeated: Option<&'static str>,
}

impl<'a> ReplayHeaders<'a> {
    pub(super) fn take(&mut self, name: &str, value: &'a str) {
        // Nearly every header is another one.
        let prefix = name.get(..PREFIX.len());
        if !prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX)) {
            return;
        }
        let known = NAMES
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name));
        if let Some(place) = known
            && self.values[place].replace(value).is_some()
        {
            self.repeated = Some(NAMES[place]);
        }
    }
}

/// The first delivery of a message that was replayed; `None` is a message that was not, or one whose
/// headers do not agree, which [`super::decode`] refuses.
pub(crate) fn first_delivery(
    headers: Option<&HeaderMap>,
    published_at: Timestamp,
) -> Option<FirstDelivery<'_>> {
    read(&Headers::scan(headers), published_at).ok().flatten()
}

/// The first delivery, if the message is a replay; only then its `Nats-Msg-Id` counts.
pub(super) fn read<'a>(
    headers: &Headers<'a>,
    published_at: Timestamp,
) -> Result<Option<FirstDelivery<'a>>, DecodeError> {
    let [generation, seen, sequence] = headers.replay.values;
    // A letter that somebody published again as it was has generation 0.
    let Some(generation) = generation.filter(|text| *text != "0") else {
        return Ok(None);
    };
    if let Some(name) = headers.replay.repeated {
        return Err(DecodeError::repeated(name));
    }
    let number = generation
        .parse()
        .map_err(|_| broken(GENERATION, "must be a whole number"))?;
    let id = headers
        .message_id()?
        .and_then(|id| id.strip_suffix(generation)?.strip_suffix(GENERATION_MARK))
        .filter(|id| !id.is_empty())
        .ok_or_else(|| {
            broken(
                GENERATION,
                "must stand at the end of Nats-Msg-Id, after a ~",
            )
        })?;
    let seen = seen
        .and_then(Timestamp::parse_rfc3339)
        .filter(|seen| *seen <= published_at)
        .ok_or_else(|| {
            broken(
                FIRST_SEEN,
                "must be an RFC 3339 timestamp, not after the time at which the stream stored the replay",
            )
        })?;
    let sequence = sequence
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| broken(FIRST_SEQUENCE, "must be a whole number"))?;
    Ok(Some(FirstDelivery {
        generation: number,
        id,
        seen,
        sequence,
    }))
}

fn broken(name: &'static str, expected: &str) -> DecodeError {
    DecodeError::new(
        DecodeReason::InvalidAttribute,
        format!("header \"{name}\" of a replayed message {expected}"),
    )
}
