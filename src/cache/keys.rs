//! Keys, and what stands under them. Pure.
//!
//! ```text
//! <database>:<epoch>:latest:<subject>  =  L<token>                         a reader's lease
//!                                      |  V<time><stream seq><written at><event>     the newest state
//! ```
//! Time (moved to be positive), sequence and milliseconds are decimals of fixed width, so that a
//! script orders two states by comparing strings: its numbers are doubles and too coarse. Digits
//! also compare alike in every locale, by which Lua compares.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;

use crate::event::Timestamp;
use crate::storage::epoch::EpochRow;

/// Digits of a `u64`.
const WIDTH: usize = 20;
/// `V`, time and sequence: what two values are compared by.
pub(super) const ORDER_BYTES: usize = 1 + 2 * WIDTH;
/// A larger value is not kept: its state is read from Postgres, where few reads run at the same time.
pub(super) const VALUE_MAX_BYTES: usize = 256 * 1024;
/// Where the event begins.
const HEAD_BYTES: usize = ORDER_BYTES + WIDTH;

pub(super) fn key(epoch: &EpochRow, subject: &str) -> String {
    let EpochRow {
        database, epoch, ..
    } = epoch;
    format!("{database}:{epoch}:latest:{subject}")
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
    let written_at_ms = now.micros().max(0).cast_unsigned() / 1_000;
    let mut value = Vec::with_capacity(HEAD_BYTES + event.len());
    write!(value, "V{time:020}{stream_seq:020}{written_at_ms:020}")
        .expect("a Vec takes every write");
    value.extend_from_slice(event);
    value
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CachedEntry {
    Lease,
    /// A state that is too large to read it from here.
    Large,
    NewestState {
        /// Since it was written; hosts' clocks differ, so that it is zero rather than negative.
        age: Duration,
        /// The event in the JSON format of `CloudEvents`.
        event: Bytes,
    },
}

/// Parses a stored value; `None` if ganesh did not write it.
pub(super) fn parse(stored: Vec<u8>, now: Timestamp) -> Option<CachedEntry> {
    match stored.first()? {
        b'L' => Some(CachedEntry::Lease),
        b'V' => {
            let written_at_ms = stored.get(ORDER_BYTES..HEAD_BYTES)?;
            let written_at_ms: i64 = std::str::from_utf8(written_at_ms).ok()?.parse().ok()?;
            let age_ms = (now.micros() / 1_000).saturating_sub(written_at_ms).max(0);
            Some(CachedEntry::NewestState {
                age: Duration::from_millis(age_ms.cast_unsigned()),
                event: Bytes::from(stored).slice(HEAD_BYTES..),
            })
        }
        _ => None,
    }
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
        let expected = CachedEntry::NewestState {
            age: Duration::from_millis(2_500),
            event: Bytes::from_static(b"{\"id\":\"1\"}"),
        };
        assert_eq!(parse(stored, now), Some(expected));
    }

    #[test]
    fn a_state_from_a_clock_ahead_of_ours_has_no_age() {
        let written = Timestamp::from_micros(1_700_000_000_000_000);
        let stored = value(written, 1, written, b"{}");
        let entry = parse(stored, Timestamp::from_micros(written.micros() - 1_000_000));
        assert!(matches!(entry, Some(CachedEntry::NewestState { age, .. }) if age.is_zero()));
    }
}
