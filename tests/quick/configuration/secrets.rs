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
        "POSTGRES_READ_URL",
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

/// URLs with the mark in one part of each, which is named first.
fn marked(scheme: &str) -> [(&'static str, String); 9] {
    let host = "127.0.0.1:1";
    [
        ("user", format!("{scheme}://swordfish@{host}")),
        ("password", format!("{scheme}://u:swordfish@{host}")),
        ("path", format!("{scheme}://{host}/swordfish")),
        (
            "known parameter",
            format!("{scheme}://{host}/1?password=swordfish"),
        ),
        (
            "known parameter",
            format!("{scheme}://{host}/1?sslrootcert=/swordfish"),
        ),
        (
            "bad parameter",
            format!("{scheme}://{host}/1?sslmode=swordfish"),
        ),
        (
            "unknown parameter",
            format!("{scheme}://{host}/1?sslpassword=swordfish"),
        ),
        (
            "name of a parameter",
            format!("{scheme}://{host}/1?swordfish=1"),
        ),
        ("fragment", format!("{scheme}://{host}/1#swordfish")),
    ]
}

/// What a command prints.
fn printed(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let all = [&[("GANESH_LOG", "trace")], settings].concat();
    let output = in_folder_with("", arguments, &all);
    stderr(&output) + &String::from_utf8_lossy(&output.stdout)
}

const COMMANDS: [&[&str]; 7] = [
    &["serve"],
    &["doctor"],
    &["migrate"],
    &["produce", "--count", "1"],
    &["dlq", "list"],
    &["healthcheck"],
    &["log-level"],
];

#[test]
fn no_command_prints_a_part_of_a_url() {
    for (variable, scheme) in [
        ("POSTGRES_URL", "postgresql"),
        ("POSTGRES_READ_URL", "postgresql"),
        ("NATS_URL", "nats"),
        ("REDIS_URL", "redis"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http"),
    ] {
        for (part, url) in marked(scheme) {
            for arguments in COMMANDS {
                let said = printed(arguments, &[(variable, &url)]);
                assert_keeps_secrets(&said, &format!("{arguments:?}: {part} of {variable}"));
            }
        }
    }
}

#[test]
fn a_url_where_none_belongs_is_not_printed() {
    let url = "postgresql://u:swordfish@127.0.0.1:1/swordfish?swordfish=swordfish#swordfish";
    for arguments in COMMANDS {
        for stray in [url, "swordfish", "-swordfish"] {
            let said = printed(&[arguments, &[stray]].concat(), &[]);
            assert_keeps_secrets(&said.replace("'-s'", ""), &format!("{arguments:?} {stray}"));
        }
        let flag = format!("--no-such-flag={url}");
        let said = printed(&[arguments, &[&flag]].concat(), &[]);
        assert!(said.contains("--no-such-flag"), "{said}");
        assert_keeps_secrets(&said, &format!("{arguments:?} {flag}"));
    }
    for arguments in [
        &[url][..],
        &["dlq", url],
        &["dlq", "show", url],
        &["dlq", "show", "1", "--raw", url],
        &["dlq", "list", "--since", url],
        &["dlq", "show", "swordfish"],
        &["dlq", "show", "1", "swordfish"],
        &["dlq", "list", "swordfish"],
        &["dlq", "replay", "swordfish"],
        &["dlq", "purge", "swordfish"],
        &["log-level", url],
        &["log-level", "redis://:swordfish@127.0.0.1:1=debug"],
        &["log-level", "swordfish,debug"],
        &["log-level", "debug,swordfish=swordfish"],
        &["log-level", "ganesh=debug,[{swordfish}]"],
        &["log-level", "debug", "swordfish"],
        &["produce", "--count", url],
        &["serve", "--writers", url],
        &["serve", "--log-dir", url],
    ] {
        assert_keeps_secrets(&printed(arguments, &[]), &format!("{arguments:?}"));
    }
    for setting in super::shared_settings() {
        let file = format!("{}_FILE", setting.env);
        assert_keeps_secrets(&printed(&["doctor"], &[(&file, url)]), &file);
    }
}

#[test]
fn a_mistyped_command_is_still_explained() {
    let said = printed(&["srve"], &[]);
    assert!(
        said.contains("a similar subcommand exists: 'serve'"),
        "{said}"
    );
    let said = printed(&["serve", "--writer", "1"], &[]);
    assert!(said.contains("unexpected argument '--writer'"), "{said}");
    assert!(
        said.contains("a similar argument exists: '--writers'"),
        "{said}"
    );
    let said = printed(&["serve", "x"], &[]);
    assert!(said.contains("unexpected argument"), "{said}");
}

#[test]
fn what_a_url_says_in_vain_is_refused() {
    for (variable, url, expected) in [
        ("POSTGRES_URL", "postgresql://h/db?sslpassword=x", "sslmode"),
        ("POSTGRES_URL", "postgresql://h/db#x", "fragment"),
        ("POSTGRES_READ_URL", "redis://h/db", "postgresql://ganesh"),
        ("NATS_URL", "nats://h/path", "path"),
        ("NATS_URL", "nats://h?tls=true", "parameters"),
        ("NATS_URL", "nats://h#x", "fragment"),
        ("REDIS_URL", "redis://h/0?timeout=1", "protocol"),
        ("REDIS_URL", "redis://h/0#insecure", "fragment"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:x@h:1", "user"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://h:1/v1/traces",
            "path",
        ),
    ] {
        let said = read(&[(variable, url)]).unwrap_err().to_string();
        assert!(
            said.starts_with(variable) && said.contains(expected),
            "{said}"
        );
    }
    for (variable, url) in [
        (
            "POSTGRES_URL",
            "postgresql://h/db?sslmode=require&options[work_mem]=1MB&host=/run",
        ),
        ("NATS_URL", "nats://h/,tls://h:1"),
        ("REDIS_URL", "redis://h/1?protocol=resp3"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1/"),
    ] {
        assert!(read(&[(variable, url)]).is_ok(), "{url}");
    }
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
    let postgres = "postgresql://[redacted]@db.example:5433/[redacted]?[redacted]";
    assert!(shown.contains(postgres), "{shown}");
    assert!(shown.contains("redis://localhost:6379"), "{shown}");
    assert!(shown.contains("tokens: [[redacted]]"), "{shown}");
    assert_keeps_secrets(&shown, "the configuration");
}

#[test]
fn the_log_of_a_start_shows_the_configuration_without_its_secrets() {
    let settings = [
        ("GANESH_LOG", "trace"),
        ("NATS_URL", "nats://u:hunter@127.0.0.1:1"),
        ("POSTGRES_URL", "postgresql://u:hunter@127.0.0.1:1/db"),
        ("REDIS_URL", "redis://u:hunter@127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("GANESH_API_TOKEN", "swordfish"),
    ];
    let log = started_with(&[], &settings, "");
    assert!(
        log.contains("postgresql://[redacted]@127.0.0.1:1/[redacted]"),
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
