//! Which message is asked about.

use serde::Serialize;
use utoipa::ToSchema;

use crate::event::Timestamp;
use crate::text::as_text;

const TRACE_ID_DIGITS: usize = 32;

/// What is known of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Question {
    /// Its sequence in the stream.
    Sequence {
        sequence: u64,
    },
    /// Attributes of its event. Without all three several can match: the newest counts.
    Id {
        id: String,
        source: Option<String>,
        #[serde(serialize_with = "optional")]
        #[schema(value_type = Option<String>, format = DateTime)]
        time: Option<Timestamp>,
    },
    TraceId {
        trace_id: String,
    },
    /// The newest event of a subject.
    Subject {
        subject: String,
    },
    /// The id of an event, or else a subject.
    IdOrSubject {
        text: String,
    },
}

#[expect(clippy::ref_option, reason = "serde hands it in like this")]
/// A time that may be missing, as people read it.
fn optional<S: serde::Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_text(time, serializer),
        None => serializer.serialize_none(),
    }
}

impl Question {
    /// Tells from its form what a text is: digits are a sequence, 32 hexadecimal digits a trace id.
    /// Anything else is an event's id, or else a subject.
    pub(crate) fn of(text: &str) -> Self {
        if let Ok(sequence) = text.parse::<u64>()
            && text.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Self::Sequence { sequence };
        }
        match trace_id(text) {
            Some(trace_id) => Self::TraceId { trace_id },
            None => Self::IdOrSubject {
                text: text.to_owned(),
            },
        }
    }
}

/// The sequence of a message, from 1 on; `None` for another text.
pub(crate) fn sequence(text: &str) -> Option<u64> {
    text.parse().ok().filter(|sequence| *sequence > 0)
}

/// 32 hexadecimal digits, in lower case; `None` for another text.
pub(crate) fn trace_id(text: &str) -> Option<String> {
    let is_trace_id =
        text.len() == TRACE_ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_trace_id.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_about_is_told_from_its_form() {
        let trace_id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(Question::of("42"), Question::Sequence { sequence: 42 });
        for text in [trace_id, &trace_id.to_uppercase()] {
            let trace_id = trace_id.to_owned();
            assert_eq!(Question::of(text), Question::TraceId { trace_id });
        }
        let digits = "12345678901234567890123456789012";
        assert!(matches!(Question::of(digits), Question::TraceId { .. }));
        for text in [
            "+42",
            "kitchen",
            "99999999999999999999",
            "4 2",
            "",
            &trace_id[1..],
        ] {
            let expected = Question::IdOrSubject {
                text: text.to_owned(),
            };
            assert_eq!(Question::of(text), expected);
        }
    }
}
