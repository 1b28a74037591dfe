//! Time in Postgres's resolution, and RFC 3339 in both directions.

use std::fmt;
use std::time::SystemTime;

use time::{Date, Month, OffsetDateTime};

const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i128 = 1_000;
const SECONDS_PER_MINUTE: i64 = 60;
const SECONDS_PER_DAY: i64 = 86_400;
/// The Julian day of 1970-01-01.
const UNIX_EPOCH_JULIAN_DAY: i64 = 2_440_588;
/// 0001-01-01T00:00:00Z: RFC 3339 has no year before 0000, and the Gregorian calendar has no 0000.
const MIN_MICROS: i64 = -62_135_596_800 * MICROS_PER_SECOND;
/// 9999-12-31T23:59:59.999999Z: RFC 3339 has four digits for the year. Postgres ends much later.
const MAX_MICROS: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

/// Microseconds since the Unix epoch, the resolution of Postgres's `timestamptz`; finer input is
/// truncated toward negative infinity. Always in the years 0001 to 9999, which RFC 3339 can write
/// and Postgres can hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The first instant of the year 0001.
    pub const MIN: Self = Self(MIN_MICROS);
    /// The last microsecond of the year 9999.
    pub const MAX: Self = Self(MAX_MICROS);

    /// From microseconds since the Unix epoch; what lies outside the years 0001 to 9999 becomes the
    /// nearest instant inside.
    pub const fn from_micros(micros: i64) -> Self {
        if micros < MIN_MICROS {
            Self::MIN
        } else if micros > MAX_MICROS {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// From nanoseconds since the Unix epoch, truncated toward negative infinity, bounded as
    /// [`Self::from_micros`] does.
    pub fn from_nanos(nanos: i128) -> Self {
        let micros = nanos.div_euclid(NANOS_PER_MICRO);
        let bounded = micros.clamp(i128::from(MIN_MICROS), i128::from(MAX_MICROS));
        Self(i64::try_from(bounded).expect("clamped to two i64 bounds"))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The wall clock now.
    pub fn now() -> Self {
        let now = SystemTime::now();
        match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)),
            // A clock set before 1970: the epoch is as wrong as anything else.
            Err(_) => Self(0),
        }
    }

    /// Reads an RFC 3339 `date-time`, strictly: `T` and `Z` in either case, no space in between, an
    /// offset is required and normalised to UTC, any number of fraction digits. The second 60 is
    /// accepted where a leap second can be, the end of a UTC month, and is the instant after it, as
    /// in Postgres. `None` is everything else, and instants outside the years 0001 to 9999.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (date_time, rest) = bytes.split_at_checked(19)?;
        let punctuated = date_time[4] == b'-'
            && date_time[7] == b'-'
            && matches!(date_time[10], b'T' | b't')
            && date_time[13] == b':'
            && date_time[16] == b':';
        if !punctuated {
            return None;
        }
        let days = days_since_epoch(
            number(&date_time[0..4])?,
            number(&date_time[5..7])?,
            number(&date_time[8..10])?,
        )?;
        let hour = number(&date_time[11..13]).filter(|hour| *hour < 24)?;
        let minute = number(&date_time[14..16]).filter(|minute| *minute < 60)?;
        let second = number(&date_time[17..19]).filter(|second| *second <= 60)?;
        let (fraction_micros, offset) = split_fraction(rest)?;
        let offset_minutes = offset_minutes(offset)?;

        let minutes = hour * 60 + minute - offset_minutes;
        let seconds = days * SECONDS_PER_DAY + minutes * SECONDS_PER_MINUTE + second;
        if second == 60 && !starts_utc_month(seconds) {
            return None;
        }
        let micros = seconds * MICROS_PER_SECOND + fraction_micros;
        (MIN_MICROS..=MAX_MICROS)
            .contains(&micros)
            .then_some(Self(micros))
    }
}

/// RFC 3339 in UTC with `Z`; the fraction has only the digits that it needs.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let micros = self.0.rem_euclid(MICROS_PER_SECOND);
        let utc = OffsetDateTime::from_unix_timestamp(seconds)
            .expect("a Timestamp lies in the years 0001 to 9999");
        let (hour, minute, second) = utc.to_hms();

        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut text[0..4], i64::from(utc.year()));
        put_digits(&mut text[5..7], i64::from(u8::from(utc.month())));
        put_digits(&mut text[8..10], i64::from(utc.day()));
        put_digits(&mut text[11..13], i64::from(hour));
        put_digits(&mut text[14..16], i64::from(minute));
        put_digits(&mut text[17..19], i64::from(second));
        put_digits(&mut text[20..26], micros);
        let mut end = if micros == 0 { 19 } else { 26 };
        while end > 19 && text[end - 1] == b'0' {
            end -= 1;
        }
        text[end] = b'Z';
        let shown = std::str::from_utf8(&text[..=end]).expect("ASCII digits and punctuation");
        formatter.pad(shown)
    }
}

/// Writes `value` right-aligned into `place`, over the zeros that stand there.
fn put_digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("one digit of a positive number");
        value /= 10;
    }
}

/// Reads ASCII digits, at most a handful; nothing but digits is a number.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    let year = i32::try_from(year).ok().filter(|year| *year > 0)?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, u8::try_from(day).ok()?).ok()?;
    Some(i64::from(date.to_julian_day()) - UNIX_EPOCH_JULIAN_DAY)
}

/// Splits what follows the seconds into microseconds (further digits are dropped) and the offset.
fn split_fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(fraction) = rest.strip_prefix(b".") else {
        return Some((0, rest));
    };
    let length = fraction
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if length == 0 {
        return None;
    }
    let (digits, offset) = fraction.split_at(length);
    let micros = (0..6).fold(0, |value, place| {
        value * 10 + digits.get(place).map_or(0, |digit| i64::from(digit - b'0'))
    });
    Some((micros, offset))
}

/// Minutes east of UTC.
fn offset_minutes(offset: &[u8]) -> Option<i64> {
    let (sign, rest) = match offset {
        [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let &[h1, h2, b':', m1, m2] = rest else {
        return None;
    };
    let hours = number(&[h1, h2]).filter(|hours| *hours < 24)?;
    let minutes = number(&[m1, m2]).filter(|minutes| *minutes < 60)?;
    Some(sign * (hours * 60 + minutes))
}

/// Returns whether the instant is midnight UTC of the first day of a month: what a leap second
/// precedes.
fn starts_utc_month(seconds: i64) -> bool {
    seconds.rem_euclid(SECONDS_PER_DAY) == 0
        && OffsetDateTime::from_unix_timestamp(seconds).is_ok_and(|instant| instant.day() == 1)
}
