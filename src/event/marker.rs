//! NATS's own markers: what a stream leaves in the place of a subject's last message when that expires
//! (`subject_delete_marker_ttl`; NATS ADR-43). They are no events.
//!
//! The server takes the same headers from a producer, so a message is an event as soon as it says
//! anything that a marker does not: a body, an id, an attribute.

use async_nats::HeaderMap;

use super::Message;

const REASON: &str = "Nats-Marker-Reason";
const REASONS: [&str; 3] = ["MaxAge", "Purge", "Remove"];
const TIME_TO_LIVE: &str = "Nats-TTL";
const ROLLUP: &str = "Nats-Rollup";
/// The server's own headers. It compares names with their case, and so do we.
const PREFIX: &str = "Nats-";
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// Returns whether the message is one: no body, the three headers that the server writes, and no others
/// than the server's. A stream accepts them from a producer only if it makes markers itself.
pub(crate) fn is_marker(message: &Message<'_>) -> bool {
    message.payload.is_empty() && message.headers.is_some_and(is_of_marker)
}

fn is_of_marker(headers: &HeaderMap) -> bool {
    let only = |name: &'static str| {
        let mut values = headers.get_all(name);
        let value = values.next()?.as_str();
        values.next().is_none().then_some(value)
    };
    let is_of_server = |name: &str| name.starts_with(PREFIX) && name != MESSAGE_ID;
    only(REASON).is_some_and(|reason| REASONS.contains(&reason))
        && only(ROLLUP) == Some("sub")
        && only(TIME_TO_LIVE).is_some()
        && headers.iter().all(|(name, _)| is_of_server(name.as_ref()))
}
