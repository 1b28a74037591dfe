//! Time in Postgres's resolution, and RFC 3339 in both directions.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i128 = 1_000;
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

    /// The wall clock now; the epoch where it is set before 1970, which is as wrong as anything else.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros();
        Self::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn utc(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * NANOS_PER_MICRO)
            .expect("a Timestamp lies in the years 0001 to 9999")
    }

    /// Reads an RFC 3339 `date-time`, strictly: `T` and `Z` in either case, no space in between, an
    /// offset is required and normalised to UTC, any number of fraction digits. The second 60 is
    /// accepted where a leap second can be, the end of a UTC month, and is the instant after it, as
    /// in Postgres. `None` is everything else, and instants outside the years 0001 to 9999.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        // `time` takes any separator.
        if !matches!(text.as_bytes().get(10)?, b'T' | b't') {
            return None;
        }
        let is_leap_second = text.get(17..19)? == "60";
        // `time` drops the fraction of a leap second.
        let text = if is_leap_second {
            Cow::from(format!("{}59{}", &text[..17], &text[19..]))
        } else {
            Cow::from(text)
        };
        let parsed = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
        let seconds = parsed.unix_timestamp() + i64::from(is_leap_second);
        let time = Self(seconds * MICROS_PER_SECOND + i64::from(parsed.microsecond()));
        let is_valid = parsed.year() > 0
            && (Self::MIN..=Self::MAX).contains(&time)
            && (!is_leap_second || time.starts_utc_month());
        is_valid.then_some(time)
    }

    /// Returns whether its second is the first one of a month: what a leap second precedes.
    fn starts_utc_month(self) -> bool {
        let utc = self.utc();
        utc.day() == 1 && utc.to_hms() == (0, 0, 0)
    }
}

/// RFC 3339 in UTC with `Z`; the fraction has only the digits that it needs.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.utc().format(&Rfc3339);
        formatter.pad(&text.expect("RFC 3339 has the years 0001 to 9999"))
    }
}
