//! Defaults, flags, durations and sizes.

use std::time::Duration;

use ganesh::config::Group;

use super::{read, shared_settings};
use crate::support::binary::{command, output};

#[test]
fn every_default_is_valid() {
    read(&[]).unwrap();
    let spelled_out: Vec<_> = shared_settings()
        .filter(|setting| !setting.default.is_empty())
        .map(|setting| (setting.env, setting.default))
        .collect();
    let given = read(&spelled_out).unwrap();
    assert_eq!(format!("{given:?}"), format!("{:?}", read(&[]).unwrap()));
}

#[test]
fn help_lists_flag_variable_and_words_of_each_setting_on_one_line_under_its_group() {
    // Panics on a flag that is there twice, and on other mistakes of ours.
    ganesh::cli::command().debug_assert();
    let help = help(&["serve"]);
    for setting in shared_settings() {
        let flag = setting.env.to_lowercase().replace('_', "-");
        let flag = format!("--{}", flag.strip_prefix("ganesh-").unwrap_or(&flag));
        let heading = format!("\n{}:\n", setting.group.heading());
        let (_, group) = help.split_once(&heading).expect("a heading");
        let group = group.split("\n\n").next().unwrap();
        let line = { group.lines() }.find(|line| line.split([' ', '[']).any(|word| word == flag));
        let line = line.unwrap_or_else(|| panic!("{flag}: {group}"));
        assert!(line.contains(setting.help), "{line}");
        assert!(line.contains(&format!("[env: {}]", setting.env)), "{line}");
    }
}

#[test]
fn a_command_lists_its_own_settings_first_and_only_those_that_it_uses() {
    let headings = |arguments: &[&str]| {
        let help = help(arguments);
        let lines = help.lines().filter(|line| !line.starts_with(' '));
        let headings = lines.filter_map(|line| line.strip_suffix(':'));
        headings.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(headings(&["healthcheck"]), ["Options", "HTTP", "Telemetry"]);
    let links = Group::Links.heading();
    assert_eq!(
        headings(&["migrate"]),
        ["Options", "Servers", "Storage", "Telemetry", links]
    );
    let produce = [
        "Options",
        "Producer",
        "Servers",
        "Stream",
        "HTTP",
        links,
        "Telemetry",
    ];
    assert_eq!(headings(&["produce"]), produce);
    let list = [
        "Options",
        "Dead letters",
        "Servers",
        "Stream",
        "Telemetry",
        links,
    ];
    assert_eq!(headings(&["dlq", "list"]), list);
    assert!(!help(&["healthcheck"]).contains("GANESH_WRITERS"));
}

fn help(words: &[&str]) -> String {
    let output = output(command(&[words, &["--help"]].concat(), &[]));
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn durations_have_a_unit() {
    for (text, millis) in [
        ("1000ms", 1_000),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        (" 2s ", 2_000),
    ] {
        let config = read(&[("GANESH_SHUTDOWN_GRACE", text)]).expect(text);
        assert_eq!(
            config.shutdown_grace,
            Duration::from_millis(millis),
            "{text}"
        );
    }
    let days = read(&[("GANESH_STREAM_MAX_AGE", "7d")]).unwrap();
    assert_eq!(days.nats.stream_max_age, Duration::from_hours(7 * 24));
    for text in [
        "30",
        "s",
        "1.5s",
        "-1s",
        "30S",
        "30 s",
        "30sec",
        "1m30s",
        "99999999999999999999s",
    ] {
        assert!(read(&[("GANESH_SHUTDOWN_GRACE", text)]).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_bytes_or_powers_of_1024() {
    for (text, bytes) in [
        ("1048576", 1 << 20),
        ("1048576B", 1 << 20),
        ("1024KiB", 1 << 20),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("10GiB", 10 << 30),
        ("2TiB", 2 << 40),
    ] {
        let config = read(&[("GANESH_STREAM_MAX_BYTES", text)]).expect(text);
        assert_eq!(config.nats.stream_max_bytes, bytes, "{text}");
    }
    for text in [
        "64MB",
        "64mib",
        "64M",
        "1.5GiB",
        "-1",
        "GiB",
        "99999999999TiB",
    ] {
        assert!(
            read(&[("GANESH_STREAM_MAX_BYTES", text)]).is_err(),
            "{text}"
        );
    }
}

#[test]
fn switches_zeros_and_lists_mean_what_they_say() {
    let config = read(&[
        ("GANESH_ACCEPT_PLAIN", "0"),
        ("GANESH_MIGRATE_ON_START", "False"),
        ("GANESH_RETENTION_DAYS", "0"),
        ("GANESH_SUBJECTS", "a.>, b.*"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "team=blue,where=D%C3%BCsseldorf",
        ),
    ])
    .unwrap();
    assert!(!config.pipeline.accept_plain && !config.postgres.migrate_on_start);
    assert_eq!(config.postgres.retention_days, None);
    assert_eq!(config.nats.subjects, ["a.>", "b.*"]);
    let attributes = config.telemetry.resource_attributes;
    let expected = [("team", "blue"), ("where", "Düsseldorf")];
    assert_eq!(
        attributes,
        expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
}
