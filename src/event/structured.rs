//! Structured mode: the whole event is one JSON object in the body (`CloudEvents` JSON format).

use std::borrow::Cow;
use std::fmt;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, NATS_MESSAGE_ID};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use strum::VariantArray as _;

use super::attributes::{
    Attribute, Draft, EXTENSIONS_MAX_COUNT, SPECVERSION, is_extension_name, too_many_extensions,
};
use super::headers::{CLOUDEVENTS_MEDIA_TYPE, Headers};
use super::{Data, DecodeError, DecodeReason, Event, Message};
use super::{canonical_json, check_limits, essence, is_json, json_error, json_text, message_id};
use crate::text::quoted;

/// The media type of an event in the JSON format.
const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The start of the media types of batches.
const BATCH_CONTENT_TYPE: &str = "application/cloudevents-batch";
/// Standard base64. It is written with padding, and read without as well.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const NULL: &str = "null";

pub(super) fn decode(message: &Message<'_>, headers: &Headers<'_>) -> Result<Event, DecodeError> {
    check_format(headers.content_type()?.unwrap_or_default())?;
    let text = std::str::from_utf8(message.payload).map_err(|_| {
        DecodeError::new(
            DecodeReason::InvalidEncoding,
            "the structured event is not in UTF-8",
        )
    })?;
    let members: Members<'_> =
        serde_json::from_str(text).map_err(|error| json_error("the structured event", &error))?;
    members.check()?;

    let mut draft = Draft::default();
    for &attribute in Attribute::VARIANTS {
        if let Some(raw) = members.known[attribute as usize] {
            draft.known[attribute as usize] = string(attribute.into_str(), raw)?;
        }
    }
    for (name, raw) in &members.others {
        draft.add_extension(name, &canonical(name, raw)?)?;
    }
    let data = data_of(&members, draft.content_type(), message.payload)?;
    draft.into_event(message.published_at, data)
}

/// Returns whether the content type is the JSON format; without a format it is JSON too, the only
/// one that every receiver must know.
fn check_format(content_type: &str) -> Result<(), DecodeError> {
    let essence = essence(content_type);
    if essence.eq_ignore_ascii_case(CONTENT_TYPE)
        || essence.eq_ignore_ascii_case(CLOUDEVENTS_MEDIA_TYPE)
    {
        return Ok(());
    }
    Err(
        if essence.to_ascii_lowercase().starts_with(BATCH_CONTENT_TYPE) {
            DecodeError::new(
                DecodeReason::UnsupportedBatch,
                "a batch of events in one message: the NATS binding has no batch mode, publish them one by one",
            )
        } else {
            DecodeError::new(
                DecodeReason::UnsupportedFormat,
                format!(
                    "a structured event must be {CONTENT_TYPE}, not {}",
                    quoted(essence)
                ),
            )
        },
    )
}

/// The members of the JSON object, each as its raw text; `null` is as absent, but for `data`.
#[derive(Default)]
struct Members<'a> {
    known: [Option<&'a RawValue>; Attribute::COUNT],
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
    data: Option<&'a RawValue>,
    data_base64: Option<&'a RawValue>,
    problem: Option<DecodeError>,
}

impl<'a> Members<'a> {
    fn take(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        let place = match name.as_ref() {
            "data" => &mut self.data,
            "data_base64" => &mut self.data_base64,
            _ => match Attribute::find(&name) {
                Some(known) => &mut self.known[known as usize],
                None if value.get() == NULL => return,
                None => return self.others.push((name, value)),
            },
        };
        if place.replace(value).is_some() {
            // Parsers differ in which one they believe, so the event's identity would be a matter of taste.
            self.problem = Some(DecodeError::repeated(&name));
        }
    }

    fn is_full(&self) -> bool {
        self.others.len() > EXTENSIONS_MAX_COUNT
    }

    fn check(&self) -> Result<(), DecodeError> {
        match &self.problem {
            Some(problem) => Err(problem.clone()),
            None if self.is_full() => Err(too_many_extensions()),
            None => Ok(()),
        }
    }
}

/// A member's name, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some(Name(name)) = map.next_key()? {
            if members.is_full() {
                map.next_value::<IgnoredAny>()?;
            } else {
                members.take(name, map.next_value()?);
            }
        }
        Ok(members)
    }
}

/// The text of an attribute that must be a string; `None` for `null`.
fn string<'a>(name: &str, raw: &'a RawValue) -> Result<Option<Cow<'a, str>>, DecodeError> {
    if raw.get() == NULL {
        return Ok(None);
    }
    match serde_json::from_str::<Name<'a>>(raw.get()) {
        Ok(Name(text)) => Ok(Some(text)),
        Err(_) => Err(DecodeError::invalid_attribute(
            name,
            "must be a string of Unicode characters",
        )),
    }
}

/// The canonical text of an extension's value. Integers of any size are taken, although the type
/// system ends at 32 bits: times in milliseconds are common, and their digits are all kept.
fn canonical<'a>(name: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, DecodeError> {
    let text = raw.get();
    let is_integer = || {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    match text.as_bytes().first() {
        Some(b'"') => Ok(string(name, raw)?.unwrap_or_default()),
        Some(b't' | b'f') => Ok(Cow::Borrowed(text)),
        Some(b'-' | b'0'..=b'9') if is_integer() => Ok(Cow::Borrowed(text)),
        _ => Err(DecodeError::invalid_attribute(
            name,
            "must be a string, an integer or a boolean",
        )),
    }
}

/// The data by the rules of the JSON format, section 3.1.2.
fn data_of(
    members: &Members<'_>,
    content_type: Option<&str>,
    payload: &Bytes,
) -> Result<Data, DecodeError> {
    let data_base64 = members.data_base64.filter(|raw| raw.get() != NULL);
    match (members.data, data_base64) {
        (Some(_), Some(_)) => Err(DecodeError::new(
            DecodeReason::RepeatedAttribute,
            "\"data\" and \"data_base64\" are both there: an event has one of them",
        )),
        (None, None) => Ok(Data::None),
        (None, Some(raw)) => base64_data(raw, content_type),
        (Some(raw), None) => inline_data(raw, content_type, payload),
    }
}

/// Inline data: a JSON value, unless the content type is another than JSON. Then a string is the
/// encoded content, `null` is none, and another value (which a deserializer may refuse) counts as
/// content that happens to be written in JSON.
fn inline_data(
    raw: &RawValue,
    content_type: Option<&str>,
    payload: &Bytes,
) -> Result<Data, DecodeError> {
    let text = raw.get();
    if content_type.is_none_or(is_json) {
        check_limits(text)?;
        return Ok(Data::Json(payload.slice_ref(text.as_bytes())));
    }
    if text == NULL {
        return Ok(Data::None);
    }
    if !text.starts_with('"') {
        return Ok(Data::Binary(payload.slice_ref(text.as_bytes())));
    }
    let content = string("data", raw)?.unwrap_or_default();
    Ok(binary(content.into_owned().into_bytes()))
}

/// Base64 data; JSON, when the content type says so, as the same event in binary mode would be.
fn base64_data(raw: &RawValue, content_type: Option<&str>) -> Result<Data, DecodeError> {
    let encoded = string("data_base64", raw)?.unwrap_or_default();
    let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| {
        DecodeError::new(
            DecodeReason::InvalidEncoding,
            "\"data_base64\" is not standard base64 (RFC 4648, section 4)",
        )
    })?;
    match binary(bytes) {
        Data::Binary(bytes) if content_type.is_some_and(is_json) => {
            json_text(&bytes).map(Data::Json)
        }
        data => Ok(data),
    }
}

fn binary(bytes: Vec<u8>) -> Data {
    if bytes.is_empty() {
        Data::None
    } else {
        Data::Binary(bytes.into())
    }
}

/// Writes an event in structured mode, with the `Nats-Msg-Id` of [`message_id`].
pub fn encode_structured(event: &Event) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, message_id(event));
    headers.insert(HeaderName::from_static("content-type"), CONTENT_TYPE);
    (headers, to_json(event))
}

/// An event in the JSON format of `CloudEvents` (`application/cloudevents+json`): JSON data inline, other
/// data as `data_base64`, extension attributes as strings (those under names that `CloudEvents` does not allow are left out).
pub fn to_json(event: &Event) -> Bytes {
    json_with(event, event.data.json().map(Bytes::as_ref))
}

/// The same after the way into Postgres and back, which changes how JSON data is written. `None` where that
/// is not sure, or larger than `max_bytes`.
pub fn to_json_as_stored(event: &Event, max_bytes: usize) -> Option<Bytes> {
    let data = match event.data.json() {
        Some(text) => Some(canonical_json(std::str::from_utf8(text).ok()?, max_bytes)?),
        None => None,
    };
    Some(json_with(event, data.as_deref().map(str::as_bytes)))
}

fn json_with(event: &Event, json_data: Option<&[u8]>) -> Bytes {
    // Attributes are short; base64 takes a third more than its data.
    let mut json = Vec::with_capacity(512 + event.data.len() / 3 * 4);
    json.extend_from_slice(b"{\"specversion\":\"");
    json.extend_from_slice(SPECVERSION.as_bytes());
    json.push(b'"');
    let attributes = [
        (Attribute::Id, Some(&event.id)),
        (Attribute::Source, Some(&event.source)),
        (Attribute::Type, Some(&event.event_type)),
        (Attribute::Time, Some(&event.time.to_string())),
        (Attribute::Subject, event.subject.as_ref()),
        (Attribute::Datacontenttype, event.datacontenttype.as_ref()),
        (Attribute::Dataschema, event.dataschema.as_ref()),
    ];
    for (attribute, value) in attributes {
        if let Some(value) = value {
            put(&mut json, attribute.into_str(), value);
        }
    }
    for (name, value) in &event.extensions {
        if is_extension_name(name) {
            put(&mut json, name, value);
        }
    }
    if let Some(text) = json_data {
        json.extend_from_slice(b",\"data\":");
        json.extend_from_slice(text);
    }
    if let Some(bytes) = event.data.binary() {
        put(&mut json, "data_base64", &BASE64.encode(bytes));
    }
    json.push(b'}');
    json.into()
}

/// The names of attributes need no escapes.
fn put(json: &mut Vec<u8>, name: &str, value: &str) {
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    serde_json::to_writer(&mut *json, value)
        .expect("a str is a JSON string, and a Vec takes every write");
}
