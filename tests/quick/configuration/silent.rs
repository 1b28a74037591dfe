//! A setting that would do nothing is refused, or at least said.

use std::path::Path;

use super::{in_folder_with, read, started_with, stderr};
use crate::support::binary::objects;

#[test]
fn white_space_is_no_value_and_does_not_open_the_api() {
    for (variable, value) in [
        ("GANESH_API_TOKEN", " "),
        ("GANESH_API_TOKEN", "\t\n"),
        ("GANESH_WRITERS", "  "),
        ("POSTGRES_URL", " "),
    ] {
        let output = in_folder_with("", &["serve"], &[(variable, value)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let expected = format!("ganesh: {variable} is white space: expected a value, or none");
        assert!(said.starts_with(&expected), "{said}");
    }
    let output = in_folder_with("", &["serve", "--api-token", " "], &[]);
    assert_eq!(output.status.code(), Some(2));
    // Compose passes a variable that is not set like this.
    assert!(read(&[("GANESH_API_TOKEN", "")]).is_ok());
}

#[test]
fn a_token_that_no_client_can_send_is_refused() {
    for token in ["two words", "ü", "a\u{7}b", "tab\tbed"] {
        let said = read(&[("GANESH_API_TOKEN", token)])
            .unwrap_err()
            .to_string();
        assert!(
            said.starts_with("GANESH_API_TOKEN: expected visible ASCII"),
            "{said}"
        );
        assert!(!said.contains(token), "{said}");
    }
    assert!(read(&[("GANESH_API_TOKEN", " a-token== \n")]).is_ok());
}

#[test]
fn a_variable_of_opentelemetry_that_is_not_read_is_named_once_logging_works() {
    let settings = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=swordfish"),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "swordfish"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_BSP_SCHEDULE_DELAY", ""),
        ("OTEL_SERVICE_NAME", "mine"),
    ];
    let log = started_with(&[], &settings, "OTEL_METRICS_EXPORTER=otlp\n");
    assert!(!log.contains("swordfish"), "{log}");
    let (lines, _) = log.trim_end().rsplit_once('\n').unwrap();
    let lines = objects(lines);
    let warnings = lines.iter().filter(|line| line["level"] == "WARN");
    let warnings = warnings.filter(|line| line["message"] == "ganesh does not read this variable");
    let named: Vec<&str> = warnings
        .map(|line| line["variable"].as_str().unwrap())
        .collect();
    let expected = [
        "OTEL_EXPORTER_OTLP_INSECURE",
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        "OTEL_METRICS_EXPORTER",
        "OTEL_TRACES_SAMPLER",
    ];
    assert_eq!(named, expected);
    // It is the answer of a command that looks.
    let output = in_folder_with("", &["doctor"], &settings);
    let said = String::from_utf8_lossy(&output.stdout);
    let finding = "warning  telemetry ganesh does not read OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE";
    assert!(said.contains(finding), "{said}");
}

#[test]
fn the_service_name_among_the_resource_attributes_beats_a_default_and_no_setting() {
    let attributes = (
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=by%20attribute,a=b",
    );
    let name = |settings: &[(&'static str, &str)]| {
        let config = read(settings).unwrap();
        let attributes = &config.telemetry.resource_attributes;
        assert!(attributes.iter().all(|(key, _)| key != "service.name"));
        config.telemetry.service_name
    };
    assert_eq!(name(&[attributes]), "by attribute");
    assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "set")]), "set");
    assert_eq!(
        name(&[attributes, ("OTEL_SERVICE_NAME", "")]),
        "by attribute"
    );
    assert_eq!(name(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b")]), "ganesh");
    assert_eq!(
        name(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=")]),
        "ganesh"
    );
}

#[test]
fn a_line_of_dotenv_that_compose_reads_otherwise_is_refused() {
    for (dotenv, line, words) in [
        (
            "GANESH_WRITERS=1\n\nGANESH_WRITERS=2\n",
            3,
            "GANESH_WRITERS is in line 1, too",
        ),
        ("export GANESH_WRITERS=1\nGANESH_WRITERS=2\n", 2, "line 1"),
        ("PORT=1\nA=b\nPORT=2\n", 3, "PORT is in line 1, too"),
        ("GANESH_WRITERS=${WRITERS:-3}\n", 1, "'single quotes'"),
        (
            "# c\nPOSTGRES_URL=postgresql://u:hunter$2@h/db\n",
            2,
            "'single quotes'",
        ),
        (
            "POSTGRES_URL=\"postgresql://u:hunter$2@h/db\"\n",
            1,
            "'single quotes'",
        ),
        (
            "POSTGRES_URL=postgresql://u:hunter$$2@h/db\n",
            1,
            "'single quotes'",
        ),
        (
            "POSTGRES_URL='postgresql://u:p@h/db'$X\n",
            1,
            "'single quotes'",
        ),
    ] {
        let output = in_folder_with(dotenv, &["healthcheck"], &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{dotenv}: {said}");
        assert!(
            said.starts_with(&format!("ganesh: .env line {line}: ")),
            "{said}"
        );
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("hunter"), "{said}");
    }
    let dotenv = "# costs $5\nGANESH_CONSUMER='a$b'\nGANESH_STREAM=s # $5\n\n# GANESH_CONSUMER=c\n";
    let log = started_with(&[], &[], dotenv);
    assert!(log.contains("consumer: \\\"a$b\\\""), "{log}");
    // The environment wins, as it does with compose.
    let log = started_with(&[], &[("GANESH_CONSUMER", "by-env")], dotenv);
    assert!(log.contains("consumer: \\\"by-env\\\""), "{log}");
}

#[test]
fn the_example_is_read_as_it_is() {
    let example =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example"));
    started_with(&[], &[], &example.unwrap());
}
