//! Defaults, flags, durations and sizes.

use std::time::Duration;

use super::{read, shared_settings};

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
fn flags_are_named_after_their_variables_and_the_help_says_both() {
    let mut command = ganesh::cli::command();
    // Panics on a flag that is there twice, and on other mistakes of ours.
    command.clone().debug_assert();
    let serve = command.find_subcommand_mut("serve").unwrap();
    let help = serve.render_long_help().to_string();
    for setting in shared_settings() {
        let arguments = serve.get_arguments();
        let argument = { arguments }.find(|argument| argument.get_id() == setting.env);
        let argument = argument.expect(setting.env);
        let flag = setting.env.to_lowercase().replace('_', "-");
        let flag = flag.strip_prefix("ganesh-").unwrap_or(&flag);
        assert_eq!(argument.get_long(), Some(flag));
        assert_eq!(argument.get_env(), Some(setting.env.as_ref()));
        let line = help
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("--{flag}")))
            .unwrap_or_else(|| panic!("{flag}: {help}"));
        assert!(line.contains(&format!("[env: {}]", setting.env)), "{line}");
        assert!(line.contains(setting.help), "one line: {line}");
    }
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
