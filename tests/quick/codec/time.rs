//! Timestamps: RFC 3339 in Postgres's resolution.

use ganesh::event::{DecodeReason, Timestamp};
use proptest::prelude::*;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::{decode_binary, decode_structured, micros};

#[test]
fn rfc_3339_is_read_in_all_its_forms() {
    for (text, utc) in [
        ("2018-04-05T17:31:00Z", "2018-04-05T17:31:00Z"),
        ("2018-04-05t17:31:00z", "2018-04-05T17:31:00Z"),
        ("2018-04-05T17:31:00.5+02:00", "2018-04-05T15:31:00.5Z"),
        ("2018-04-05T17:31:00-00:00", "2018-04-05T17:31:00Z"),
        ("2018-01-01T00:00:00+23:59", "2017-12-31T00:01:00Z"),
        (
            "2018-04-05T17:31:00.123456789Z",
            "2018-04-05T17:31:00.123456Z",
        ),
        ("2018-04-05T17:31:00.1000Z", "2018-04-05T17:31:00.1Z"),
        (
            "1969-12-31T23:59:59.9999999Z",
            "1969-12-31T23:59:59.999999Z",
        ),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2017-01-01T00:59:60.5+01:00", "2017-01-01T00:00:00.5Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ] {
        assert_eq!(micros(text).to_string(), utc, "{text}");
    }
    assert_eq!(micros("1970-01-01T00:00:01Z").micros(), 1_000_000);
}

#[test]
fn what_is_not_rfc_3339_is_refused() {
    for text in [
        "",
        "2018-04-05",
        "2018-04-05T17:31:00",
        "2018-04-05 17:31:00Z",
        "2018-04-05T17:31Z",
        "2018-04-05T17:31:00.Z",
        "2018-04-05T17:31:00,5Z",
        "2018-04-05T17:31:00+0200",
        "2018-04-05T17:31:00+02",
        "2018-04-05T17:31:00+24:00",
        "2018-04-05T17:31:00Z ",
        "2018-04-05T24:00:00Z",
        "2018-04-05T17:60:00Z",
        "2018-02-29T00:00:00Z",
        "2018-13-01T00:00:00Z",
        "2018-00-01T00:00:00Z",
        "2018-04-05T17:31:61Z",
        "2018-04-05T17:31:60Z",
        "2018-04-05T23:59:60Z",
        "2016-12-31T23:59:60+01:00",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-00:01",
        "0001-01-01T00:00:00+00:01",
        "0000-01-01T00:00:00Z",
        "+2018-04-05T17:31:00Z",
        "1522949460",
        "２018-04-05T17:31:00Z",
    ] {
        assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        let refused = decode_structured(&json!({"time": text})).unwrap_err();
        assert_eq!(refused.reason(), DecodeReason::InvalidTime, "{text}");
    }
    // Absence would make it the time of storage, another at every publication.
    let refused = decode_binary(&[("ce-time", "")], "").unwrap_err();
    assert_eq!(refused.reason(), DecodeReason::InvalidTime);
}

#[test]
fn finer_times_are_truncated_toward_negative_infinity() {
    assert_eq!(Timestamp::from_nanos(1_999).micros(), 1);
    assert_eq!(Timestamp::from_nanos(-1).micros(), -1);
    assert_eq!(Timestamp::from_nanos(-1_001).micros(), -2);
}

#[test]
fn instants_beyond_four_digit_years_become_the_nearest_inside() {
    assert_eq!(Timestamp::from_micros(i64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::from_nanos(i128::MIN), Timestamp::MIN);
    assert_eq!(Timestamp::MIN.to_string(), "0001-01-01T00:00:00Z");
    assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
}

proptest! {
    #[test]
    fn a_displayed_time_reads_back(value in Timestamp::MIN.micros()..=Timestamp::MAX.micros()) {
        let time = Timestamp::from_micros(value);
        prop_assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time));
    }

    /// Against another implementation.
    #[test]
    fn offsets_are_normalised(
        // The years 0002 to 9998: with no offset outside.
        value in -62_104_060_800_000_000_i64..253_370_764_800_000_000,
        offset_minutes in -1_439_i32..1_440,
    ) {
        let offset = UtcOffset::from_whole_seconds(offset_minutes * 60).unwrap();
        let utc = OffsetDateTime::from_unix_timestamp_nanos(i128::from(value) * 1_000).unwrap();
        let text = utc.to_offset(offset).format(&Rfc3339).unwrap();
        prop_assert_eq!(Timestamp::parse_rfc3339(&text), Some(Timestamp::from_micros(value)));
    }

    #[test]
    fn arbitrary_text_is_no_panic(text in "[0-9TtZz:.+ -]{0,40}|\\PC{0,40}") {
        let _ = Timestamp::parse_rfc3339(&text);
    }
}
