//! What the producer can be told.

use ganesh::config::{Group, Reader, SETTINGS};
use ganesh::produce::options::{End, Mode, Options};

fn options(given: &[(&str, &str)]) -> Result<Options, String> {
    let mut reader = Reader::default();
    for (name, value) in given {
        reader.set(name, *value);
    }
    let options = Options::read(&mut reader);
    reader.finish(options).map_err(|errors| errors.to_string())
}

#[test]
fn the_defaults_are_valid() {
    let options = options(&[]).unwrap();
    assert_eq!(options.rate_per_second, 1_000);
    assert_eq!(options.end, End::Never);
    assert_eq!(options.sample, 1_000);
    assert_eq!(options.max_acks_in_flight, 4_096);
    assert_eq!(options.mode, Mode::Binary);
    assert_eq!(options.seed, None);
}

#[test]
fn every_mistake_is_reported_at_once_with_variable_and_expectation() {
    let mistakes = options(&[
        ("GANESH_PRODUCE_RATE", "-1"),
        ("GANESH_PRODUCE_COUNT", "0"),
        ("GANESH_PRODUCE_SUBJECT", "a\"b"),
        ("GANESH_PRODUCE_TYPE", "a\nb"),
        ("GANESH_PRODUCE_DATA", "{"),
        ("GANESH_PRODUCE_SUBJECT_COUNT", "0"),
        ("GANESH_PRODUCE_BYTES", "1GB"),
        ("GANESH_PRODUCE_MODE", "json"),
        ("GANESH_PRODUCE_DUPLICATES", "101"),
        ("GANESH_PRODUCE_INVALID", "NaN"),
        ("GANESH_PRODUCE_SAMPLE", "some"),
        ("GANESH_PRODUCE_SEED", "x"),
        ("GANESH_PRODUCE_MAX_ACKS_IN_FLIGHT", "0"),
        ("GANESH_PRODUCE_DURATION", "10"),
        ("GANESH_PRODUCE_JSON", "yes"),
    ])
    .unwrap_err();
    let options: Vec<_> = SETTINGS
        .iter()
        .filter(|setting| setting.group == Group::Produce)
        .collect();
    assert_eq!(mistakes.lines().count(), options.len(), "{mistakes}");
    for option in options {
        let start = format!("{}=", option.env);
        let line = { mistakes.lines() }.find(|line| line.starts_with(&start));
        assert!(line.unwrap().contains(": expected "), "{mistakes}");
    }
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let refused = |given: &[(&str, &str)], named: &str| {
        let mistakes = options(given).unwrap_err();
        assert!(mistakes.contains(named), "{mistakes}");
    };
    let count = ("GANESH_PRODUCE_COUNT", "5");
    let plain = ("GANESH_PRODUCE_MODE", "plain");
    refused(&[count, ("GANESH_PRODUCE_DURATION", "5s")], "--duration");
    refused(&[plain, ("GANESH_PRODUCE_DUPLICATES", "1")], "--mode plain");
    let shares = [
        ("GANESH_PRODUCE_DUPLICATES", "60"),
        ("GANESH_PRODUCE_INVALID", "50"),
    ];
    refused(&shares, "no more than 100");
}
