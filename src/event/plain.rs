//! Plain messages: from producers that know nothing of `CloudEvents`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::attributes::Attribute;
use super::headers::Headers;
use super::{Data, DecodeError, Event, Message};

/// Makes an event of any message: `Nats-Msg-Id` or its place in the stream is the id, the stream the
/// source, its subject the type. A replay has the id of its first delivery, `first_id`.
pub(super) fn decode(
    message: &Message<'_>,
    headers: &Headers<'_>,
    first_id: Option<&str>,
) -> Result<Event, DecodeError> {
    let id = match first_id.or(headers.message_id()?) {
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(format!("{}:{}", message.stream, message.stream_sequence)),
    };
    Attribute::Id.check(&id)?;
    Attribute::Type.check(message.subject)?;
    let content_type = headers.content_type()?;
    if let Some(content_type) = content_type {
        Attribute::Datacontenttype.check(content_type)?;
    }
    Ok(Event {
        id: id.into_owned(),
        source: format!("nats://{}", message.stream),
        event_type: message.subject.to_owned(),
        subject: None,
        time: message.published_at,
        datacontenttype: content_type.map(str::to_owned),
        dataschema: None,
        extensions: BTreeMap::new(),
        data: Data::of_body(message.payload, content_type)?,
    })
}
