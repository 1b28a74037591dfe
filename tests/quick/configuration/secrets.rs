//! No secret is printed: not by `Debug`, not in the log, not in the words about a mistake.

use super::{in_folder_with, read, started_with, stderr};

/// No part of any secret below lacks one of these.
const GIVEAWAYS: [&str; 2] = ["hunter", "swordfish"];

fn assert_keeps_secrets(shown: &str, secret: &str) {
    for giveaway in GIVEAWAYS {
        assert!(!shown.contains(giveaway), "{secret} shows in {shown}");
    }
}

/// Passwords that cut a URL in places where a naive reader does not expect it.
fn passwords() -> Vec<String> {
    let mut passwords = vec!["hunter".to_owned(), "hunter%40swordfish".to_owned()];
    for between in [
        "@", ",", "?", "/", "#", ":", "\\", " ", "://", "@1/", "1?", "[",
    ] {
        passwords.push(format!("hunter{between}swordfish"));
        // What begins with a number passes for a port.
        passwords.push(format!("1{between}hunter"));
        passwords.push(format!("{between}hunter"));
        passwords.push(format!("hunter{between}"));
    }
    passwords
}

fn urls(password: &str) -> Vec<String> {
    let mut urls = vec![
        format!("u:{password}@h"),
        format!("host=h user=u password={password}"),
        format!("nats://a:{password}@one:1,nats://b:{password}@two:2"),
        format!("nats://one:1,u:{password}@two:2"),
    ];
    // By itself it is no URL, unless it looks like one.
    if !password.contains("://") {
        urls.push(password.to_owned());
    }
    for scheme in ["nats", "postgresql", "postgrsql", "redis", "http", ""] {
        urls.push(format!("{scheme}://u:{password}@h:1/db"));
        urls.push(format!("{scheme}://{password}@h:1"));
        urls.push(format!("{scheme}://:{password}@h:1"));
        urls.push(format!("{scheme}://u:{password}@h:1/db?a=b"));
        urls.push(format!("{scheme}:/u:{password}@h:1/db"));
        if !password.contains('/') {
            urls.push(format!("{scheme}://h:1/db?password={password}"));
        }
    }
    urls
}

#[test]
fn neither_a_configuration_nor_its_mistakes_show_a_part_of_a_password() {
    let variables = [
        "NATS_URL",
        "POSTGRES_URL",
        "REDIS_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let (mut accepted, mut refused) = (0, 0);
    for password in passwords() {
        for url in urls(&password) {
            for variable in variables {
                match read(&[(variable, &url)]) {
                    Ok(config) => {
                        accepted += 1;
                        assert_keeps_secrets(&format!("{config:?} {config:#?}"), &url);
                    }
                    Err(mistakes) => {
                        refused += 1;
                        assert_keeps_secrets(&mistakes.to_string(), &url);
                    }
                }
            }
        }
    }
    // Both ways were walked.
    assert!(accepted > 100 && refused > 100, "{accepted} {refused}");
}

#[test]
fn a_url_in_the_wrong_variable_shows_no_password_either() {
    let said = read(&[("GANESH_STREAM", "nats://u:hunter@h:4222")])
        .unwrap_err()
        .to_string();
    assert_keeps_secrets(&said, "GANESH_STREAM");
    let said = read(&[("GANESH_HTTP_ADDR", "u:hunter@h")])
        .unwrap_err()
        .to_string();
    assert_keeps_secrets(&said, "GANESH_HTTP_ADDR");
}

#[test]
fn what_is_no_secret_is_shown() {
    let config = read(&[
        ("NATS_URL", "nats://u:hunter,swordfish@one:1, nats://two:2"),
        (
            "POSTGRES_URL",
            "postgresql://u:hunter@db.example:5433/name?sslmode=require",
        ),
        ("GANESH_API_TOKEN", "swordfish"),
    ])
    .unwrap();
    let shown = format!("{config:?}");
    assert!(
        shown.contains("nats://[redacted]@one:1,nats://two:2"),
        "{shown}"
    );
    let postgres = "postgresql://[redacted]@db.example:5433/name?[redacted]";
    assert!(shown.contains(postgres), "{shown}");
    assert!(shown.contains("redis://localhost:6379"), "{shown}");
    assert!(shown.contains("Some([redacted])"), "{shown}");
    assert_keeps_secrets(&shown, "the configuration");
}

#[test]
fn the_log_of_a_start_shows_the_configuration_without_its_secrets() {
    let settings = [
        ("GANESH_LOG", "trace"),
        ("NATS_URL", "nats://u:hunter@127.0.0.1:1"),
        ("POSTGRES_URL", "postgresql://u:hunter@127.0.0.1:1/db"),
        ("REDIS_URL", "redis://u:hunter@127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter@127.0.0.1:1"),
        ("GANESH_API_TOKEN", "swordfish"),
    ];
    let log = started_with(&[], &settings, "");
    assert!(
        log.contains("postgresql://[redacted]@127.0.0.1:1/db"),
        "{log}"
    );
    assert_keeps_secrets(&log, "the start");
}

#[test]
fn neither_help_nor_refusals_of_the_binary_show_what_is_set() {
    let url = [("POSTGRES_URL", "postgrsql://u:hunter@h/db")];
    for arguments in [
        &["serve"][..],
        &["serve", "--help"],
        &["serve", "--no-such-flag"],
    ] {
        let output = in_folder_with("", arguments, &url);
        assert_keeps_secrets(&stderr(&output), "POSTGRES_URL");
        assert_keeps_secrets(&String::from_utf8_lossy(&output.stdout), "POSTGRES_URL");
    }
}
