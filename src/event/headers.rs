//! A message's headers, as far as an event is made of them.

use async_nats::HeaderMap;

use super::DecodeError;
use super::attributes::Attribute;
use super::replay::ReplayHeaders;

const PREFIX: &str = "ce-";

/// The headers of a message that matter, collected in one pass, in any spelling of their names.
#[derive(Default)]
pub(super) struct Headers<'a> {
    content_type: Option<&'a str>,
    nats_msg_id: Option<&'a str>,
    /// The `ce-` headers of known attributes, as sent.
    pub(super) known: [Option<&'a str>; Attribute::COUNT],
    /// The other `ce-` headers, without the prefix, as sent.
    pub(super) others: Vec<(&'a str, &'a str)>,
    /// A header for an attribute that came more than once. Which one to believe would depend on the
    /// order of a hash map, differently at the next delivery.
    repeated_attribute: Option<&'a str>,
    repeated_content_type: bool,
    repeated_nats_msg_id: bool,
    pub(super) replay: ReplayHeaders<'a>,
}

impl<'a> Headers<'a> {
    pub(super) fn scan(headers: Option<&'a HeaderMap>) -> Self {
        let mut found = Self::default();
        for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
            let name: &str = name.as_ref();
            for value in values {
                found.take(name, trim(value.as_str()));
            }
        }
        found
    }

    fn take(&mut self, name: &'a str, value: &'a str) {
        match name.split_at_checked(PREFIX.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => {
                self.take_attribute(rest, value);
            }
            _ if name.eq_ignore_ascii_case("content-type") => self.take_content_type(value),
            _ if name.eq_ignore_ascii_case("nats-msg-id") => {
                self.repeated_nats_msg_id |= self.nats_msg_id.replace(value).is_some();
            }
            _ => self.replay.take(name, value),
        }
    }

    fn take_attribute(&mut self, name: &'a str, value: &'a str) {
        let Some(known) = Attribute::find_ignoring_case(name) else {
            self.others.push((name, value));
            return;
        };
        if self.known[known as usize].replace(value).is_some() {
            self.repeated_attribute = Some(name);
        }
    }

    /// A message with two content types is refused, but by the same mode at every delivery, whichever
    /// of the two the hash map shows first.
    fn take_content_type(&mut self, value: &'a str) {
        self.repeated_content_type |= self.content_type.is_some();
        if !self.content_type.is_some_and(is_cloudevents) {
            self.content_type = Some(value);
        }
    }

    pub(super) fn is_structured(&self) -> bool {
        self.content_type.is_some_and(is_cloudevents)
    }

    pub(super) fn is_binary(&self) -> bool {
        self.known[Attribute::Specversion as usize].is_some()
    }

    /// Refuses repeated `ce-` headers; a structured event has none that count.
    pub(super) fn refuse_repeated_attributes(&self) -> Result<(), DecodeError> {
        self.repeated_attribute.map_or(Ok(()), |name| {
            Err(DecodeError::repeated(&name.to_ascii_lowercase()))
        })
    }

    pub(super) fn content_type(&self) -> Result<Option<&'a str>, DecodeError> {
        if self.repeated_content_type {
            return Err(DecodeError::repeated("content-type"));
        }
        Ok(self.content_type.filter(|value| !value.is_empty()))
    }

    pub(super) fn message_id(&self) -> Result<Option<&'a str>, DecodeError> {
        if self.repeated_nats_msg_id {
            return Err(DecodeError::repeated("Nats-Msg-Id"));
        }
        Ok(self.nats_msg_id.filter(|value| !value.is_empty()))
    }
}

/// The value without the blanks and tabs that may stand around it. They are rare, and a look at both
/// ends is cheaper than a search.
fn trim(value: &str) -> &str {
    match value.as_bytes() {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => value.trim_matches([' ', '\t']),
        _ => value,
    }
}

/// The start of every content type that makes a message a structured event, or a batch of them.
pub(super) const CLOUDEVENTS_MEDIA_TYPE: &str = "application/cloudevents";

fn is_cloudevents(content_type: &str) -> bool {
    content_type
        .split_at_checked(CLOUDEVENTS_MEDIA_TYPE.len())
        .is_some_and(|(start, _)| start.eq_ignore_ascii_case(CLOUDEVENTS_MEDIA_TYPE))
}
