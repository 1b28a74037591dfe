//! Where a page or a tail ends, as text that clients need not understand.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

use super::problem::Problem;
use crate::event::Timestamp;
use crate::storage::search::PageEnd;
use crate::storage::tail::{TailKey, TailPosition};

/// The first byte of a cursor: of pages of events that end with one or at a time, of subjects, and of a tail after
/// an event, before a transaction or after an older event.
const OF_EVENTS: u8 = 1;
const OF_SUBJECTS: u8 = 2;
const OF_TIMES: u8 = 3;
const OF_TAIL_EVENTS: u8 = 4;
const OF_TAIL: u8 = 5;
const OF_TAIL_OLDER: u8 = 6;
const PART_MAX_BYTES: usize = 1_024;

/// A place in the tail of a database, reached under a marking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TailPlace {
    pub(super) database: u64,
    pub(super) marking: u64,
    pub(super) position: TailPosition,
}

/// Time in microseconds; of an event also length of the source, source, id.
pub(super) fn of_events(end: &PageEnd) -> String {
    let bytes = match end {
        PageEnd::Time(time) => [&[OF_TIMES][..], &time.micros().to_be_bytes()].concat(),
        PageEnd::Event { time, source, id } => {
            [&[OF_EVENTS][..], &event_key(*time, source, id)].concat()
        }
    };
    BASE64.encode(bytes)
}

/// The database, the marking, the transaction, and the key of an event.
pub(super) fn of_tail(place: &TailPlace) -> String {
    let TailPlace {
        database,
        marking,
        position,
    } = place;
    let numbers = [*database, *marking, position.transaction()];
    let (form, key) = match position {
        TailPosition::After(key) => (OF_TAIL_EVENTS, Some(key)),
        TailPosition::Before(_) => (OF_TAIL, None),
        TailPosition::Older(key) => (OF_TAIL_OLDER, Some(key)),
    };
    let key = key.map(|key| event_key(key.time, &key.source, &key.id));
    let numbers = numbers.map(u64::to_be_bytes).concat();
    BASE64.encode([&[form][..], &numbers, &key.unwrap_or_default()].concat())
}

fn event_key(time: Timestamp, source: &str, id: &str) -> Vec<u8> {
    let length = u16::try_from(source.len()).expect("sources of pages have at most 1,024 bytes");
    let (time, length) = (time.micros().to_be_bytes(), length.to_be_bytes());
    [&time[..], &length, source.as_bytes(), id.as_bytes()].concat()
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

/// `None`: no tail gave it out.
pub(super) fn tail(text: &str) -> Option<TailPlace> {
    let bytes = BASE64.decode(text).ok()?;
    let (form, rest) = bytes.split_first()?;
    let (database, rest) = number(rest)?;
    let (marking, rest) = number(rest)?;
    let (stored_in, rest) = number(rest)?;
    let key = || {
        let (time, source, id) = parse_event_key(rest)?;
        Some(TailKey {
            stored_in,
            time,
            source,
            id,
        })
    };
    let position = match *form {
        OF_TAIL_EVENTS => TailPosition::After(key()?),
        OF_TAIL_OLDER => TailPosition::Older(key()?),
        OF_TAIL if rest.is_empty() => TailPosition::Before(stored_in),
        _ => return None,
    };
    Some(TailPlace {
        database,
        marking,
        position,
    })
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
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
    let (time, source, id) = parse_event_key(&bytes)?;
    Some(PageEnd::Event { time, source, id })
}

fn parse_event_key(bytes: &[u8]) -> Option<(Timestamp, String, String)> {
    let (micros, rest) = bytes.split_at_checked(size_of::<i64>())?;
    let (length, rest) = rest.split_first_chunk()?;
    let (source, id) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((instant(micros)?, part(source)?, part(id)?))
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
            numbers in any::<[u64; 3]>(),
        ) {
            prop_assert_eq!(subject(&of_subject(&id)), Ok(id.clone()));
            let time = Timestamp::from_micros(micros);
            let [database, marking, stored_in] = numbers;
            let key = TailKey { stored_in, time, source: source.clone(), id: id.clone() };
            for position in [
                TailPosition::After(key.clone()),
                TailPosition::Before(stored_in),
                TailPosition::Older(key),
            ] {
                let place = TailPlace { database, marking, position };
                prop_assert_eq!(tail(&of_tail(&place)), Some(place));
            }
            for end in [PageEnd::Event { time, source, id }, PageEnd::Time(time)] {
                prop_assert_eq!(events(&of_events(&end)), Ok(end));
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[AB][A-Za-z0-9_-]{0,60}") {
            if let Ok(end) = events(&text) {
                prop_assert_eq!(of_events(&end), text.clone());
            }
            if let Some(place) = tail(&text) {
                prop_assert_eq!(of_tail(&place), text.clone());
            }
            if let Ok(name) = subject(&text) {
                prop_assert_eq!(of_subject(&name), text);
            }
        }
    }
}
