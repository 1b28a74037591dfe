//! Binary mode: attributes in `ce-` headers, percent-encoded; the body is the data
//! (`CloudEvents` NATS binding, section 3.1).

use std::borrow::Cow;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, NATS_MESSAGE_ID};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use strum::VariantArray as _;

use super::attributes::{Attribute, Draft, SPECVERSION, is_extension_name};
use super::headers::Headers;
use super::{Data, DecodeError, DecodeReason, Event, Message, message_id};

/// Characters to encode besides non-ASCII: everything outside U+0021 to U+007E, and `"` and `%`.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

pub(super) fn decode(message: &Message<'_>, headers: &Headers<'_>) -> Result<Event, DecodeError> {
    headers.refuse_repeated_attributes()?;
    let mut draft = Draft::default();
    for &attribute in Attribute::VARIANTS {
        if let Some(value) = headers.known[attribute as usize] {
            draft.known[attribute as usize] = Some(header_text(attribute.into_str(), value)?);
        }
    }
    for (name, value) in &headers.others {
        let name = name.to_ascii_lowercase();
        let value = header_text(&name, value)?;
        draft.add_extension(&name, &value)?;
    }
    if draft.content_type().is_none() {
        // Where the Go and Java SDKs write it; a media type has nothing to percent-decode.
        draft.known[Attribute::Datacontenttype as usize] =
            headers.content_type()?.map(Cow::Borrowed);
    }
    let data = Data::of_body(message.payload, draft.content_type())?;
    draft.into_event(message.published_at, data)
}

/// The text of a header's value: a quoted string is unquoted, then one round of percent-decoding.
/// A `%` without two hexadecimal digits stands for itself, as from SDKs that do not encode.
fn header_text<'a>(name: &str, value: &'a str) -> Result<Cow<'a, str>, DecodeError> {
    let unquoted = unquote(value).map_or(Cow::Borrowed(value), Cow::Owned);
    if !unquoted.contains('%') {
        return Ok(unquoted);
    }
    match percent_decode_str(&unquoted).decode_utf8() {
        Ok(text) => Ok(Cow::Owned(text.into_owned())),
        Err(_) => Err(DecodeError::new(
            DecodeReason::InvalidEncoding,
            format!("attribute \"{name}\" is not UTF-8 once percent-decoded"),
        )),
    }
}

/// The content of an RFC 7230 quoted string, with its backslash escapes resolved; `None` for a value
/// that is not one from its first to its last character.
fn unquote(value: &str) -> Option<String> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next()?),
            '"' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}

/// Writes an event in binary mode, with the `Nats-Msg-Id` of [`message_id`]; its data's type is always
/// stated. Extensions under names that `CloudEvents` does not allow are left out; a decoded event has
/// none.
pub fn encode_binary(event: &Event) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, message_id(event));
    headers.insert(HeaderName::from_static("ce-specversion"), SPECVERSION);
    put(&mut headers, "ce-id", &event.id);
    put(&mut headers, "ce-source", &event.source);
    put(&mut headers, "ce-type", &event.event_type);
    headers.insert(HeaderName::from_static("ce-time"), event.time.to_string());
    if let Some(subject) = &event.subject {
        put(&mut headers, "ce-subject", subject);
    }
    if let Some(content_type) = event.stated_content_type() {
        put(&mut headers, "ce-datacontenttype", content_type);
    }
    if let Some(dataschema) = &event.dataschema {
        put(&mut headers, "ce-dataschema", dataschema);
    }
    for (name, value) in &event.extensions {
        if is_extension_name(name) {
            headers.insert(format!("ce-{name}"), encoded(value));
        }
    }
    let body = match &event.data {
        Data::None => Bytes::new(),
        Data::Json(bytes) | Data::Binary(bytes) => bytes.clone(),
    };
    (headers, body)
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    headers.insert(HeaderName::from_static(name), encoded(value));
}

/// Percent-encoded, so without the line breaks at which a header value would panic.
fn encoded(value: &str) -> String {
    Cow::from(utf8_percent_encode(value, ENCODED)).into_owned()
}
