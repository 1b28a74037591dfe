//! `ETag` and `If-None-Match` (RFC 9110): who has an answer already is not sent it again.

use axum::http::header::IF_NONE_MATCH;
use axum::http::{HeaderMap, HeaderValue};
use xxhash_rust::xxh3::xxh3_128;

/// Weak: compression changes the bytes, and not the event.
pub(super) fn of(body: &[u8]) -> HeaderValue {
    let tag = format!("W/\"{:032x}\"", xxh3_128(body));
    HeaderValue::try_from(tag).expect("hexadecimal digits are visible ASCII")
}

/// Whether the client has what this tag names.
pub(super) fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let ours = opaque(tag.as_bytes());
    // Tags of others may hold commas. None of their parts is one of ours.
    let given = headers.get_all(IF_NONE_MATCH).iter();
    let mut given = given.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    given.any(|given| {
        let given = given.trim_ascii();
        given == b"*" || opaque(given) == ours
    })
}
