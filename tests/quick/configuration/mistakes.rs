//! Exit code 2, the variable's name, what was expected: for each mistake, and for all at once.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{links, read, shared_settings, stderr};
use crate::support::binary::{command, output};

/// Variable, what the message says was expected, bad values.
pub type Mistake = (&'static str, &'static str, &'static [&'static str]);

const MISTAKES: &[Mistake] = &[
    (
        "NATS_URL",
        "a URL such as nats://localhost:4222",
        &["localhost:4222", "http://localhost:4222", "nats://"],
    ),
    (
        "NATS_URL",
        "several separated by commas",
        &[
            "nats://one:4222,two:4222",
            "nats://one:4222,",
            "nats://one:4222,http://two",
        ],
    ),
    (
        "POSTGRES_URL",
        "one URL such as postgresql://ganesh:ganesh@localhost:5432/ganesh",
        &[
            "localhost",
            "mysql://localhost/db",
            "postgresql://one/db,postgresql://two/db",
            "postgresql://localhost/db?sslmode=perhaps",
        ],
    ),
    (
        "POSTGRES_READ_URL",
        "one URL such as postgresql://ganesh:ganesh@localhost:5432/ganesh",
        &["localhost", "redis://localhost"],
    ),
    (
        "REDIS_URL",
        "one URL such as redis://localhost:6379",
        &[
            "localhost:6379",
            "redis://localhost/first",
            "redis://one,redis://two",
        ],
    ),
    (
        "GANESH_STREAM",
        "a name of 1 to 255 characters without",
        &["EVENTS.EU", "two words"],
    ),
    (
        "GANESH_SUBJECTS",
        "subjects such as events.>",
        &[
            "events.>,",
            "events.>.more",
            "events.a*",
            "events..a",
            "events a",
        ],
    ),
    (
        "GANESH_STREAM_MAX_AGE",
        "1s to 36500d",
        &["7", "0s", "36501d"],
    ),
    ("GANESH_STREAM_MAX_BYTES", "1KiB to 1024TiB", &["10GB", "0"]),
    (
        "GANESH_STREAM_REPLICAS",
        "1 to 5, or empty",
        &["0", "6", "three"],
    ),
    (
        "GANESH_CONSUMER",
        "a name of 1 to 255 characters without",
        &["a>b"],
    ),
    (
        "GANESH_DLQ_STREAM",
        "a name of 1 to 255 characters without",
        &["a/b"],
    ),
    ("GANESH_ACK_WAIT", "1s to 1h", &["30", "999ms", "2h"]),
    ("GANESH_MAX_DELIVERIES", "1 to 1000000", &["0", "many"]),
    ("GANESH_ACCEPT_PLAIN", "one of true, false, 1, 0", &["yes"]),
    (
        "GANESH_BATCH_MAX_EVENTS",
        "1 to 50000",
        &["0", "50001", "2k"],
    ),
    ("GANESH_BATCH_MAX_BYTES", "1 to 64GiB", &["0", "8 MB"]),
    ("GANESH_WRITERS", "1 to 64", &["0", "65"]),
    ("GANESH_MAX_IN_FLIGHT", "1 to 1000000", &["0", "1e6"]),
    (
        "GANESH_MAX_IN_FLIGHT_BYTES",
        "64KiB to 64GiB",
        &["65535", "65GiB"],
    ),
    (
        "GANESH_MIGRATE_ON_START",
        "one of true, false, 1, 0",
        &["on"],
    ),
    (
        "GANESH_POSTGRES_SCHEMA",
        "a name of 1 to 63 letters",
        &["pg_mine", "one.two", "a\"b", "one two", "größe"],
    ),
    ("GANESH_PARTITION_INTERVAL", "one of hour, day", &["week"]),
    ("GANESH_RETENTION_DAYS", "0 to 36500", &["30d"]),
    ("GANESH_CACHE_TTL_SECS", "1 to 2592000", &["0", "1h"]),
    (
        "GANESH_HTTP_ADDR",
        "an address and port such as 127.0.0.1:8080",
        &[":8080", "localhost:8080", "OFF"],
    ),
    (
        "GANESH_HTTP_CLIENT_TIMEOUT",
        "2s to 1h",
        &["30", "1s", "2h"],
    ),
    (
        "GANESH_HTTP_CORS_ORIGINS",
        "origins such as https://app.example.com",
        &[
            "*",
            "app.example.com",
            "https://app.example.com/",
            "https://a,b",
        ],
    ),
    (
        "GANESH_ADMIN_ADDR",
        "an address and port such as 127.0.0.1:8080",
        &["127.0.0.1", "127.0.0.1:99999"],
    ),
    (
        "GANESH_STARTUP_TIMEOUT",
        "1ms to 1d",
        &["soon", "18446744073709551615s"],
    ),
    (
        "GANESH_SHUTDOWN_GRACE",
        "1s to 1h",
        &["25", "18446744073709551615d"],
    ),
    (
        "GANESH_LOG",
        "a level (error, warn, info, debug, trace) or directives",
        &["loud", "info,sqlx=loud"],
    ),
    ("GANESH_LOG_FORMAT", "one of auto, text, json", &["xml"]),
    ("GANESH_TRACE_SLOW_MS", "0 to 86400000", &["250ms", "-1"]),
    (
        "GANESH_TRACE_MAX_PER_SEC",
        "0 to 1000000",
        &["many", "1000001"],
    ),
    ("GANESH_TRACE_BASELINE", "0 to 1000000000", &["0.001"]),
    ("OTEL_SDK_DISABLED", "one of true, false, 1, 0", &["off"]),
    ("OTEL_TRACES_EXPORTER", "one of otlp, none", &["zipkin"]),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "a URL that starts with http:// or https://",
        &["localhost:4317", "grpc://collector:4317"],
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "key=value pairs separated by commas",
        &["team", "team=%FF"],
    ),
    (
        "JAEGER_URL",
        "a URL that starts with http://",
        &["localhost:16686", "https://jaeger:16686"],
    ),
    (
        "JAEGER_UI_URL",
        "a URL that starts with http:// or https://",
        &["localhost:16686", "https://ganesh:secret@jaeger"],
    ),
];

/// Any text is one. Whether a folder can be used is seen later, and not by every subcommand.
const NEVER_WRONG: &[&str] = &[
    "GANESH_API_TOKEN",
    "GANESH_LOG_DIR",
    "NATS_PASSWORD",
    "NATS_TOKEN",
    "NATS_USER",
    // Their values are not shown: tests/quick/configuration/links.rs.
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_SERVICE_NAME",
];

/// Those of the links stand with what else is tested of them.
fn table() -> impl Iterator<Item = &'static Mistake> {
    MISTAKES.iter().chain(links::MISTAKES)
}

#[test]
fn each_mistake_ends_with_2_and_names_the_variable_and_what_was_expected() {
    let each = |(variable, expected, values): &(&'static str, &'static str, &[&'static str])| {
        values
            .iter()
            .map(|value| (*variable, *value, *expected))
            .collect::<Vec<_>>()
    };
    for (variable, value, expected) in table().flat_map(each) {
        let output = output(command(&["healthcheck"], &[(variable, value)]));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{variable}={value}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 1, "one mistake, one line: {said}");
        let named = lines[0].starts_with(&format!("ganesh: {variable}="));
        assert!(
            named && lines[0].contains(": expected ") && lines[0].contains(expected),
            "{said}"
        );
    }
}

#[test]
fn every_setting_that_can_be_wrong_has_its_mistake_here() {
    let covered: HashSet<&str> = table().map(|(variable, ..)| *variable).collect();
    for setting in shared_settings() {
        let never = NEVER_WRONG.contains(&setting.env);
        assert_ne!(covered.contains(setting.env), never, "{}", setting.env);
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let mut mistakes: Vec<(&str, &str)> = Vec::new();
    for (variable, _, values) in table() {
        if mistakes.iter().all(|(known, _)| known != variable) {
            mistakes.push((variable, values[0]));
        }
    }
    mistakes.push(("GANESH_API_TOKEN_FILE", "/nowhere/token"));
    let output = output(command(&["healthcheck"], &mistakes));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), mistakes.len(), "{said}");
    for (variable, _) in mistakes {
        assert!(
            said.contains(&format!("ganesh: {variable}=")),
            "{variable}: {said}"
        );
    }
}

#[test]
fn every_subcommand_refuses_a_bad_configuration() {
    for name in ["serve", "produce", "migrate", "doctor", "healthcheck"] {
        let output = output(command(&[name], &[("GANESH_WRITERS", "none")]));
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains("GANESH_WRITERS=none"), "{name}");
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let conflicts: [(&[(&'static str, &str)], &str); 7] = [
        (
            &[
                ("GANESH_BATCH_MAX_EVENTS", "2001"),
                ("GANESH_MAX_IN_FLIGHT", "2000"),
            ],
            "GANESH_BATCH_MAX_EVENTS=2001: expected at most GANESH_MAX_IN_FLIGHT",
        ),
        (
            &[
                ("GANESH_BATCH_MAX_BYTES", "2MiB"),
                ("GANESH_MAX_IN_FLIGHT_BYTES", "1MiB"),
            ],
            "GANESH_BATCH_MAX_BYTES=2MiB: expected at most GANESH_MAX_IN_FLIGHT_BYTES",
        ),
        (
            &[("GANESH_STREAM", "SAME"), ("GANESH_DLQ_STREAM", "SAME")],
            "GANESH_DLQ_STREAM=SAME: expected a stream other than GANESH_STREAM",
        ),
        (
            &[
                ("GANESH_HTTP_ADDR", "127.0.0.1:80"),
                ("GANESH_ADMIN_ADDR", "127.0.0.1:80"),
            ],
            "GANESH_ADMIN_ADDR=127.0.0.1:80: expected an address other than GANESH_HTTP_ADDR",
        ),
        (
            &[("GANESH_SUBJECTS", ">")],
            "GANESH_SUBJECTS=>: expected subjects that overlap neither",
        ),
        (
            &[("GANESH_SUBJECTS", "a.b,*.letters")],
            "expected subjects that overlap neither",
        ),
        (
            &[("GANESH_SUBJECTS", "a.>,a.*.c")],
            "expected subjects that overlap neither",
        ),
    ];
    for (values, expected) in conflicts {
        let said = read(values).expect_err(expected).to_string();
        assert!(
            said.starts_with("GANESH_") && said.contains(expected),
            "{said}"
        );
    }
    for subjects in ["a.b,a.c,a.*.d", "events.>,orders.*", "dlq"] {
        assert!(read(&[("GANESH_SUBJECTS", subjects)]).is_ok(), "{subjects}");
    }
}

#[test]
fn what_is_wrong_by_itself_is_in_no_conflict() {
    let values = [
        ("GANESH_MAX_IN_FLIGHT", "x"),
        ("GANESH_BATCH_MAX_EVENTS", "50000"),
    ];
    let said = read(&values).unwrap_err().to_string();
    assert!(
        said.starts_with("GANESH_MAX_IN_FLIGHT=x") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn what_is_not_utf_8_is_refused_by_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(&["healthcheck"], &[])
        .env("GANESH_STREAM", OsStr::from_bytes(b"\xff"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "ganesh: GANESH_STREAM: expected UTF-8 text\n"
    );
}
