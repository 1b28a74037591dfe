//! Where a page ends, as text that clients need not understand.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

use super::problem::Problem;
use crate::event::Timestamp;
use crate::storage::search::PageEnd;

/// The first byte of a cursor: of pages of events that end with one or at a time, and of subjects.
const OF_EVENTS: u8 = 1;
const OF_SUBJECTS: u8 = 2;
const OF_TIMES: u8 = 3;
const PART_MAX_BYTES: usize = 1_024;

/// Time in microseconds; of an event also length of the source, source, id.
pub(super) fn of_events(end: &PageEnd) -> String {
    let bytes = match end {
        PageEnd::Time(time) => [&[OF_TIMES][..], &time.micros().to_be_bytes()].concat(),
        PageEnd::Event { time, source, id } => {
            let length =
                u16::try_from(source.len()).expect("sources of pages have at most 1,024 bytes");
            let (time, length) = (time.micros().to_be_bytes(), length.to_be_bytes());
            let texts = [source.as_bytes(), id.as_bytes()].concat();
            [&[OF_EVENTS][..], &time, &length, &texts].concat()
        }
    };
    BASE64.encode(bytes)
}

pub(super) fn of_subject(subject: &str) -> String {
    BASE64.encode([&[OF_SUBJECTS], subject.as_bytes()].concat())
}

/// # Errors
/// 400 for what no page of events gave out.
pub(super) fn events(text: &str) -> Result<PageEnd, Problem> {
    let time = || Some(PageEnd::Time(instant(&of_form(OF_TIMES, text)?)?));
    let end = parse_event(text).or_else(time);
    end.ok_or_else(|| foreign(text))
}

/// # Errors
/// 400 for what no page of subjects gave out.
pub(super) fn subject(text: &str) -> Result<String, Problem> {
    let parse = || part(&of_form(OF_SUBJECTS, text)?);
    parse().ok_or_else(|| foreign(text))
}

fn foreign(text: &str) -> Problem {
    let expected = "the cursor of a Link that this route gave, unchanged";
    Problem::parameter("cursor", text, expected)
}

/// The bytes after the first one.
fn of_form(form: u8, text: &str) -> Option<Vec<u8>> {
    let mut bytes = BASE64.decode(text).ok()?;
    (!bytes.is_empty() && bytes.remove(0) == form).then_some(bytes)
}

fn parse_event(text: &str) -> Option<PageEnd> {
    let bytes = of_form(OF_EVENTS, text)?;
    let (micros, rest) = bytes.split_at_checked(size_of::<i64>())?;
    let (length, rest) = rest.split_first_chunk()?;
    let (source, id) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some(PageEnd::Event {
        time: instant(micros)?,
        source: part(source)?,
        id: part(id)?,
    })
}

fn instant(bytes: &[u8]) -> Option<Timestamp> {
    let micros = i64::from_be_bytes(bytes.try_into().ok()?);
    let time = Timestamp::from_micros(micros);
    (time.micros() == micros).then_some(time)
}

fn part(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.len() <= PART_MAX_BYTES && !text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(
            micros in any::<i64>(),
            source in "[^\0]{0,200}",
            id in "[^\0]{0,200}",
        ) {
            prop_assert_eq!(subject(&of_subject(&id)), Ok(id.clone()));
            let time = Timestamp::from_micros(micros);
            for end in [PageEnd::Event { time, source, id }, PageEnd::Time(time)] {
                prop_assert_eq!(events(&of_events(&end)), Ok(end));
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in "A[A-Za-z0-9_-]{0,60}") {
            if let Ok(end) = events(&text) {
                prop_assert_eq!(of_events(&end), text.clone());
            }
            if let Ok(name) = subject(&text) {
                prop_assert_eq!(of_subject(&name), text);
            }
        }
    }
}
