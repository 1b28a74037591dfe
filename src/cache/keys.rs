//! Keys, and what stands under them. Pure.
//!
//! ```text
//! <database>:<epoch>:latest:<subject>  =  L<token>                         a reader's lease
//!                                      |  V<time><stream seq><written at><event>     the newest state
//!                                      |  N<written at>                    no event has this subject
//! <database>:<epoch>:event:<question>  =  L<token>
//!                                      |  E<written at><others><line feed><event>
//!                                      |  N<written at>                    no such event
//! ```
//! Time (moved to be positive), sequence and milliseconds are decimals of fixed width, so that a
//! script orders two states by comparing strings: its numbers are doubles and too coarse. Digits
//! also compare alike in every locale, by which Lua compares.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;

use crate::event::Timestamp;
use crate::storage::epoch::EpochRow;
use crate::storage::queries::{Alternate, EventKey};

/// Digits of a `u64`.
const WIDTH: usize = 20;
/// `V`, time and sequence: what two values are compared by.
pub(super) const ORDER_BYTES: usize = 1 + 2 * WIDTH;
/// A larger value is not kept: its state is read from Postgres, where few reads run at the same time.
pub(super) const VALUE_MAX_BYTES: usize = 256 * 1024;
/// Where the event of a state begins, and what an answer has behind its time.
const HEAD_BYTES: usize = ORDER_BYTES + WIDTH;
const ANSWER_HEAD_BYTES: usize = 1 + WIDTH;

pub(super) fn key(epoch: &EpochRow, subject: &str) -> String {
    let EpochRow {
        database, epoch, ..
    } = epoch;
    format!("{database}:{epoch}:latest:{subject}")
}

/// The key of a question for one event. Lengths and numbers keep two questions apart.
pub(super) fn event_key(epoch: &EpochRow, asked: &EventKey<'_>) -> String {
    let EpochRow {
        database, epoch, ..
    } = epoch;
    let time = asked.time.map(|time| time.micros().to_string());
    format!(
        "{database}:{epoch}:event:{}:{}:{}:{}",
        time.unwrap_or_default(),
        asked.id.len(),
        asked.id,
        // No source is empty.
        asked.source.unwrap_or_default()
    )
}

/// A lease with a random value.
pub(super) fn lease() -> String {
    format!("L{:032x}", rand::random::<u128>())
}

/// Encodes a state; empty if it is too large to be kept.
pub(super) fn value(time: Timestamp, stream_seq: u64, now: Timestamp, event: &[u8]) -> Vec<u8> {
    if HEAD_BYTES + event.len() > VALUE_MAX_BYTES {
        return Vec::new();
    }
    // Flipping the sign bit keeps the order and leaves no negative numbers.
    let time = time.micros().cast_unsigned() ^ (1 << 63);
    let written_at_ms = millis(now);
    let mut value = Vec::with_capacity(HEAD_BYTES + event.len());
    write!(value, "V{time:020}{stream_seq:020}{written_at_ms:020}")
        .expect("a Vec takes every write");
    value.extend_from_slice(event);
    value
}

/// Encodes the answer that there is no event.
pub(super) fn no_event(now: Timestamp) -> Vec<u8> {
    format!("N{:020}", millis(now)).into_bytes()
}

/// Encodes one event and the others that match; empty if it is too large to be kept.
pub(super) fn event_value(now: Timestamp, event: &[u8], others: &[Alternate]) -> Vec<u8> {
    let others: Vec<(&str, i64)> = others
        .iter()
        .map(|other| (other.source.as_str(), other.time.micros()))
        .collect();
    let others = serde_json::to_string(&others).expect("texts and numbers are JSON");
    let mut value = format!("E{:020}{others}\n", millis(now)).into_bytes();
    if value.len() + event.len() > VALUE_MAX_BYTES {
        return Vec::new();
    }
    value.extend_from_slice(event);
    value
}

fn millis(time: Timestamp) -> u64 {
    time.micros().max(0).cast_unsigned() / 1_000
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CachedEntry {
    Lease,
    /// A state that is too large to read it from here.
    Large,
    Answer {
        /// Since it was written; hosts' clocks differ, so that it is zero rather than negative.
        age: Duration,
        /// The event in the JSON format of `CloudEvents`; `None`: there is none.
        event: Option<Bytes>,
        /// Of a question for one event: the others that match.
        others: Vec<Alternate>,
    },
}

/// Parses a stored value; `None` if ganesh did not write it.
pub(super) fn parse(stored: Vec<u8>, now: Timestamp) -> Option<CachedEntry> {
    let form = *stored.first()?;
    if form == b'L' {
        return Some(CachedEntry::Lease);
    }
    let head = match form {
        b'V' => HEAD_BYTES,
        b'E' | b'N' => ANSWER_HEAD_BYTES,
        _ => return None,
    };
    let written_at_ms = stored.get(head - WIDTH..head)?;
    let written_at_ms: i64 = std::str::from_utf8(written_at_ms).ok()?.parse().ok()?;
    let age_ms = (now.micros() / 1_000).saturating_sub(written_at_ms).max(0);
    let rest = Bytes::from(stored).slice(head..);
    let (event, others) = match form {
        b'V' => (Some(rest), Vec::new()),
        b'E' => {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let others: Vec<(String, i64)> = serde_json::from_slice(&rest[..end]).ok()?;
            let others = others.into_iter().map(|(source, micros)| Alternate {
                source,
                time: Timestamp::from_micros(micros),
            });
            (Some(rest.slice(end + 1..)), others.collect())
        }
        _ => (None, Vec::new()),
    };
    Some(CachedEntry::Answer {
        age: Duration::from_millis(age_ms.cast_unsigned()),
        event,
        others,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(time: i64, stream_seq: u64) -> Vec<u8> {
        let mut value = value(
            Timestamp::from_micros(time),
            stream_seq,
            Timestamp::now(),
            b"{}",
        );
        value.truncate(ORDER_BYTES);
        value
    }

    proptest! {
        #[test]
        fn stored_states_order_as_time_and_sequence_do(
            a in (Timestamp::MIN.micros()..=Timestamp::MAX.micros(), any::<u64>()),
            b in (Timestamp::MIN.micros()..=Timestamp::MAX.micros(), any::<u64>()),
        ) {
            prop_assert_eq!(order(a.0, a.1).cmp(&order(b.0, b.1)), a.cmp(&b));
            prop_assert_eq!(order(a.0, a.1).cmp(&order(a.0, b.1)), a.1.cmp(&b.1));
        }

        #[test]
        fn arbitrary_bytes_are_read_without_panic(stored in any::<Vec<u8>>()) {
            let _ = parse(stored, Timestamp::now());
        }
    }

    #[test]
    fn a_stored_state_is_read_back_with_its_age() {
        let written = Timestamp::from_micros(1_700_000_000_000_000);
        let now = Timestamp::from_micros(written.micros() + 2_500_000);
        let stored = value(Timestamp::MIN, u64::MAX, written, b"{\"id\":\"1\"}");
        let expected = |event: Option<&'static [u8]>, others| CachedEntry::Answer {
            age: Duration::from_millis(2_500),
            event: event.map(Bytes::from_static),
            others,
        };
        let event = b"{\"id\":\"1\"}";
        assert_eq!(parse(stored, now), Some(expected(Some(event), Vec::new())));
        let others = vec![Alternate {
            source: "/\n\u{e9}\"".to_owned(),
            time: Timestamp::MIN,
        }];
        let stored = event_value(written, event, &others);
        assert_eq!(parse(stored, now), Some(expected(Some(event), others)));
        let stored = no_event(written);
        assert_eq!(parse(stored, now), Some(expected(None, Vec::new())));
    }

    #[test]
    fn two_questions_have_two_keys() {
        let epoch = EpochRow {
            database: "d".to_owned(),
            epoch: 1,
            server: None,
            is_read_only: false,
        };
        let time = Some(Timestamp::from_micros(1));
        let questions = [
            ("a", None, None),
            ("a", Some("b"), None),
            ("a:b", None, None),
            ("a:", Some("b"), None),
            ("a", Some(":b"), None),
            ("a", None, time),
            ("1:a", None, None),
        ];
        let keys =
            questions.map(|(id, source, time)| event_key(&epoch, &EventKey { id, source, time }));
        let different: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(different.len(), keys.len(), "{keys:?}");
    }

    #[test]
    fn a_state_from_a_clock_ahead_of_ours_has_no_age() {
        let written = Timestamp::from_micros(1_700_000_000_000_000);
        let stored = value(written, 1, written, b"{}");
        let entry = parse(stored, Timestamp::from_micros(written.micros() - 1_000_000));
        assert!(matches!(entry, Some(CachedEntry::Answer { age, .. }) if age.is_zero()));
    }
}
