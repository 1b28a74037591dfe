//! The rules that hold for attributes in every mode: names, lengths, what must be there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use strum::{EnumString, IntoStaticStr, VariantArray};

use super::{Data, DecodeError, DecodeReason, Event, Timestamp};
use crate::text::quoted;

/// Longest `id`: with `source` and `time` it is the key in Postgres, whose index rows hold 2,704 bytes.
pub const ID_MAX_BYTES: usize = 1_024;
pub(crate) const SOURCE_MAX_BYTES: usize = 1_024;
/// Longest `subject`: it is indexed, and a key in the cache.
pub(crate) const SUBJECT_MAX_BYTES: usize = 1_024;
pub(crate) const TYPE_MAX_BYTES: usize = 1_024;
/// Longest `datacontenttype`: RFC 6838 gives type and subtype 127 characters each; the rest is parameters.
pub(crate) const DATACONTENTTYPE_MAX_BYTES: usize = 512;
/// Longest `dataschema`: what web servers commonly take as a URI.
pub(crate) const DATASCHEMA_MAX_BYTES: usize = 2_048;
/// Longest `time`: a full RFC 3339 timestamp has 35 bytes with nine digits of fraction.
const TIME_MAX_BYTES: usize = 128;
/// Longest `specversion`: an error quotes all of it.
const SPECVERSION_MAX_BYTES: usize = 32;
/// Longest NATS subject of a message, whatever its mode: it is a column of the row, and the type of a plain
/// event. The server takes about four times as much.
pub(crate) const NATS_SUBJECT_MAX_BYTES: usize = 1_024;
/// Longest name of an extension attribute; the specification advises 20.
pub const EXTENSION_NAME_MAX_BYTES: usize = 64;
/// Most extension attributes of an event.
pub const EXTENSIONS_MAX_COUNT: usize = 64;
/// Most bytes in the names and values of an event's extension attributes together.
pub const EXTENSIONS_MAX_BYTES: usize = 16 * 1_024;

pub(super) const SPECVERSION: &str = "1.0";

/// The attributes that the specification itself defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive, const_into_str)]
pub(super) enum Attribute {
    Specversion,
    Id,
    Source,
    Type,
    Subject,
    Time,
    Datacontenttype,
    Dataschema,
}

impl Attribute {
    pub(super) const COUNT: usize = Self::VARIANTS.len();

    /// Refuses a value that is too long, or that Postgres cannot hold.
    pub(super) fn check(self, value: &str) -> Result<(), DecodeError> {
        let max_bytes = match self {
            Self::Specversion => SPECVERSION_MAX_BYTES,
            Self::Id => ID_MAX_BYTES,
            Self::Source => SOURCE_MAX_BYTES,
            Self::Type => TYPE_MAX_BYTES,
            Self::Subject => SUBJECT_MAX_BYTES,
            Self::Time => TIME_MAX_BYTES,
            Self::Datacontenttype => DATACONTENTTYPE_MAX_BYTES,
            Self::Dataschema => DATASCHEMA_MAX_BYTES,
        };
        check_text(self.into_str(), value, max_bytes)
    }

    pub(super) fn find(name: &str) -> Option<Self> {
        Self::find_ignoring_case(name).filter(|known| known.into_str() == name)
    }

    pub(super) fn find_ignoring_case(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

/// The attributes of an event as text, before the rules are applied.
#[derive(Default)]
pub(super) struct Draft<'a> {
    /// The specification's own, by [`Attribute`].
    pub(super) known: [Option<Cow<'a, str>>; Attribute::COUNT],
    extensions: BTreeMap<String, String>,
    extension_bytes: usize,
}

impl Draft<'_> {
    /// Adds an extension attribute under a name that must have the form of one.
    pub(super) fn add_extension(&mut self, name: &str, value: &str) -> Result<(), DecodeError> {
        check_extension_name(name)?;
        check_text(name, value, EXTENSIONS_MAX_BYTES)?;
        self.extension_bytes += name.len() + value.len();
        if self.extension_bytes > EXTENSIONS_MAX_BYTES {
            return Err(DecodeError::new(
                DecodeReason::TooManyExtensions,
                format!(
                    "the extension attributes have more than {EXTENSIONS_MAX_BYTES} bytes together"
                ),
            ));
        }
        let previous = self.extensions.insert(name.to_owned(), value.to_owned());
        if previous.is_some() {
            return Err(DecodeError::repeated(name));
        }
        if self.extensions.len() > EXTENSIONS_MAX_COUNT {
            return Err(too_many_extensions());
        }
        Ok(())
    }

    /// The media type of the data; empty is as absent.
    pub(super) fn content_type(&self) -> Option<&str> {
        self.known[Attribute::Datacontenttype as usize]
            .as_deref()
            .filter(|value| !value.is_empty())
    }

    /// Applies the rules and makes the event; without `time`, it gets the time at which its message was
    /// stored.
    pub(super) fn into_event(
        mut self,
        published_at: Timestamp,
        data: Data,
    ) -> Result<Event, DecodeError> {
        check_specversion(self.known[Attribute::Specversion as usize].as_deref())?;
        Ok(Event {
            id: self.required(Attribute::Id)?,
            source: self.required(Attribute::Source)?,
            event_type: self.required(Attribute::Type)?,
            subject: self.optional(Attribute::Subject)?,
            time: self.time(published_at)?,
            datacontenttype: self.optional(Attribute::Datacontenttype)?,
            dataschema: self.optional(Attribute::Dataschema)?,
            extensions: self.extensions,
            data,
        })
    }

    fn required(&mut self, attribute: Attribute) -> Result<String, DecodeError> {
        let name = attribute.into_str();
        let value = self.known[attribute as usize]
            .take()
            .ok_or_else(|| DecodeError::missing(name))?;
        if value.is_empty() {
            return Err(DecodeError::invalid_attribute(name, "must not be empty"));
        }
        attribute.check(&value)?;
        Ok(value.into_owned())
    }

    /// An optional attribute that is empty breaks the specification, but says the same as its absence,
    /// and some SDKs write it so: it is no reason to refuse an event.
    fn optional(&mut self, attribute: Attribute) -> Result<Option<String>, DecodeError> {
        let value = self.known[attribute as usize].take();
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        attribute.check(&value)?;
        Ok(Some(value.into_owned()))
    }

    /// Unlike other optional attributes an empty `time` is refused: it is part of what makes an event
    /// the same as another, so a guess could store it twice.
    fn time(&mut self, published_at: Timestamp) -> Result<Timestamp, DecodeError> {
        let Some(text) = self.known[Attribute::Time as usize].take() else {
            return Ok(published_at);
        };
        Attribute::Time.check(&text)?;
        Timestamp::parse_rfc3339(&text).ok_or_else(|| {
            DecodeError::new(
                DecodeReason::InvalidTime,
                "attribute \"time\" must be an RFC 3339 timestamp with an offset, such as \
                 2018-04-05T17:31:00Z, in the years 0001 to 9999",
            )
        })
    }
}

pub(super) fn too_many_extensions() -> DecodeError {
    DecodeError::new(
        DecodeReason::TooManyExtensions,
        format!("more than {EXTENSIONS_MAX_COUNT} extension attributes"),
    )
}

fn check_specversion(specversion: Option<&str>) -> Result<(), DecodeError> {
    let name = Attribute::Specversion.into_str();
    match specversion {
        Some(SPECVERSION) => Ok(()),
        None => Err(DecodeError::missing(name)),
        Some(other) => {
            Attribute::Specversion.check(other)?;
            Err(DecodeError::new(
                DecodeReason::UnsupportedSpecversion,
                format!(
                    "attribute \"{name}\" must be \"{SPECVERSION}\", not {}",
                    quoted(other)
                ),
            ))
        }
    }
}

/// The subject is no attribute, but a message has it in every mode.
pub(super) fn check_nats_subject(subject: &str) -> Result<(), DecodeError> {
    if subject.len() <= NATS_SUBJECT_MAX_BYTES {
        return Ok(());
    }
    Err(DecodeError::new(
        DecodeReason::AttributeTooLong,
        format!(
            "the NATS subject has {} bytes: at most {NATS_SUBJECT_MAX_BYTES} are accepted",
            subject.len()
        ),
    ))
}

/// Text that Postgres can hold, within its limit. Other control characters break the specification
/// too, but do no harm: they are stored, and percent-encoded when written.
fn check_text(name: &str, value: &str, max_bytes: usize) -> Result<(), DecodeError> {
    if value.len() > max_bytes {
        return Err(DecodeError::too_long(name, value.len(), max_bytes));
    }
    if value.contains('\0') {
        return Err(DecodeError::invalid_attribute(
            name,
            "must not contain U+0000: Postgres cannot store it",
        ));
    }
    Ok(())
}

/// Names are `a` to `z` and `0` to `9`, and `data` is taken. Any other name is rejected: it would
/// be lost, or become another attribute than the producer meant (`dataContentType`).
fn check_extension_name(name: &str) -> Result<(), DecodeError> {
    if name.len() > EXTENSION_NAME_MAX_BYTES {
        return Err(DecodeError::new(
            DecodeReason::AttributeTooLong,
            format!(
                "the name of the attribute {} has {} bytes: at most {EXTENSION_NAME_MAX_BYTES} are accepted",
                quoted(name),
                name.len()
            ),
        ));
    }
    if !is_extension_name(name) {
        return Err(DecodeError::invalid_attribute(
            name,
            "has a name that CloudEvents does not allow: lowercase letters and digits, and not \"data\"",
        ));
    }
    Ok(())
}

/// Returns whether an extension attribute may have this name: the form of one, and not taken.
pub(super) fn is_extension_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty()
        && name.bytes().all(allowed)
        && name != "data"
        && Attribute::find(name).is_none()
}
