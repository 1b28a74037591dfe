//! A `GANESH_` variable that nothing reads is a typing mistake, and would mean a default.

use super::{in_folder_with, stderr};

/// How `healthcheck` ends with these variables, and what it says.
fn ended(settings: &[(&str, &str)], dotenv: &str) -> (Option<i32>, String) {
    // Nobody listens there, so that it ends with 1 where nothing is wrong.
    let here = [("GANESH_ADMIN_ADDR", "127.0.0.1:1")];
    let output = in_folder_with(dotenv, &["healthcheck"], &[&here[..], settings].concat());
    (output.status.code(), stderr(&output))
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_one_and_without_its_value() {
    for (name, nearest) in [
        ("GANESH_WRITER", "GANESH_WRITERS"),
        ("GANESH_MAX_INFLIGHT", "GANESH_MAX_IN_FLIGHT"),
        ("GANESH_API_TOKN_FILE", "GANESH_API_TOKEN_FILE"),
        ("GANESH_PRODUCE_RAET", "GANESH_PRODUCE_RATE"),
        ("GANESH_PORT", "GANESH_"),
    ] {
        let (code, said) = ended(&[(name, "hunter2")], "");
        assert_eq!(code, Some(2), "{said}");
        let expected = format!("ganesh: {name}: no command reads it; did you mean {nearest}");
        assert!(said.starts_with(&expected), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn dotenv_is_looked_through_too_and_every_unknown_variable_is_named_beside_other_mistakes() {
    let (code, said) = ended(
        &[("GANESH_STREEM", "S")],
        "GANESH_WRITERS=0\nGANESH_LGO=debug\n",
    );
    assert_eq!(code, Some(2));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    for word in ["GANESH_STREEM: ", "GANESH_LGO: ", "GANESH_WRITERS=0: "] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn settings_of_other_commands_files_empty_ones_and_other_programs_variables_are_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "token\n").unwrap();
    let (code, said) = ended(
        &[
            ("GANESH_PRODUCE_RATE", "5"),
            ("GANESH_DLQ_REASON", "whatever"),
            ("GANESH_API_TOKEN_FILE", file.path().to_str().unwrap()),
            ("GANESH_CLIENT_WAS_LOST", "true"),
            ("GANESH_NOTHING", ""),
            ("GRAFANA_PORT", "3000"),
        ],
        "",
    );
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn what_kubernetes_says_of_a_service_that_is_named_ganesh_is_no_mistake() {
    let (code, said) = ended(
        &[
            ("GANESH_SERVICE_HOST", "10.0.0.7"),
            ("GANESH_SERVICE_PORT", "8080"),
            ("GANESH_SERVICE_PORT_HTTP", "8080"),
            ("GANESH_PORT", "tcp://10.0.0.7:8080"),
            ("GANESH_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("GANESH_PORT_8080_TCP_ADDR", "10.0.0.7"),
            ("GANESH_METRICS_SERVICE_HOST", "10.0.0.8"),
            ("GANESH_METRICS_PORT_9464_TCP_PROTO", "tcp"),
        ],
        "",
    );
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn nothing_that_compose_or_scripts_read_looks_like_a_setting() {
    let (_, compose) = super::example::parts();
    for line in super::example::settable(&compose) {
        assert!(!line.starts_with("GANESH_"), "{line}");
    }
    let up = include_str!("../../../scripts/up");
    let documented = up.split("\"\"\"").nth(1).unwrap();
    for word in documented.split(|c: char| !c.is_ascii_uppercase() && c != '_') {
        let known = super::shared_settings().any(|setting| setting.env == word);
        assert!(!word.starts_with("GANESH_") || known, "{word}");
    }
}
