//! `/log-level` and `ganesh log-level`: another filter for a while.

use std::net::UdpSocket;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::objects;
use crate::support::ganesh::run;
use crate::support::servers::free_port;
use crate::support::{Ganesh, Stack, eventually};

const CONFIGURED: &str = "info,async_nats=warn,sqlx=warn";
/// Logs the statements of background tasks, several a second.
const MORE: &str = "info,sqlx=debug";

async fn state(ganesh: &Ganesh) -> Value {
    let (status, body) = ganesh.admin("/log-level").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn put(url: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let answer = reqwest::Client::new().put(url).body(body);
    let answer = answer.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

fn statements(ganesh: &Ganesh) -> usize {
    let lines = objects(&ganesh.log());
    let statements = lines.iter().filter(|line| line["target"] == "sqlx::query");
    statements.count()
}

/// The command, its output, and its exit code.
fn log_level(address: &str, arguments: &[&str]) -> (i32, String, String) {
    let arguments = [&["log-level"], arguments].concat();
    let Output {
        status,
        stdout,
        stderr,
    } = run(None, &arguments, &[("GANESH_ADMIN_ADDR", address)]);
    let [said, refused] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    (status.code().unwrap(), said, refused)
}

#[tokio::test]
async fn another_filter_is_in_force_for_its_time_and_then_the_configured_one() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let configured = json!({"filter": CONFIGURED, "until": null, "configured": CONFIGURED});
    assert_eq!(state(&ganesh).await, configured);
    let change = json!({"filter": MORE, "for": "3s"}).to_string();
    let (status, answer) = put(&ganesh.admin_url("/log-level"), change).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["filter"], MORE);
    assert_eq!(answer, state(&ganesh).await);
    let until = answer["until"].as_str().unwrap();
    let until = ganesh::event::Timestamp::parse_rfc3339(until).unwrap();
    let left = until.micros() - ganesh::event::Timestamp::now().micros();
    assert!((1_000_000..=3_000_000).contains(&left), "{left} µs");
    eventually("statements are logged", || async {
        statements(&ganesh) > 0
    })
    .await;
    eventually("the configured filter is back", || async {
        state(&ganesh).await == configured
    })
    .await;
    let late = ganesh::event::Timestamp::now().micros() - until.micros();
    assert!((0..1_000_000).contains(&late), "{late} µs");
    let before = statements(&ganesh);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(
        statements(&ganesh),
        before,
        "the epoch is read every second"
    );
}

#[tokio::test]
async fn a_later_change_replaces_an_earlier_one_and_its_end() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let url = ganesh.admin_url("/log-level");
    put(&url, json!({"filter": "warn", "for": "1s"}).to_string()).await;
    put(&url, json!({"filter": MORE, "for": "1h"}).to_string()).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(state(&ganesh).await["filter"], MORE);
    let before = statements(&ganesh);
    eventually("statements are logged", || async {
        statements(&ganesh) > before
    })
    .await;
    // And a shorter one ends before the longer one would have.
    put(&url, json!({"filter": "warn", "for": "1s"}).to_string()).await;
    eventually("the configured filter is back", || async {
        state(&ganesh).await["until"].is_null()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_a_change_is_a_400_that_says_what_was_expected() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let url = ganesh.admin_url("/log-level");
    let long = format!("{{\"filter\": \"{}\"}}", "info,".repeat(1_000));
    let (filter, lasting) = (
        ["filter: expected a level", "ganesh=debug,info"],
        ["for: expected", "1s to 1d"],
    );
    let body_is = ["expected {", "\"for\": \"15m\""];
    // Nothing of it is said again: it may have been a secret.
    for (body, words) in [
        (r#"{"filter": "loud"}"#, filter),
        (r#"{"filter": ""}"#, filter),
        (r#"{"filter": "ganesh=loud"}"#, filter),
        (r#"{"filter": "info,loud"}"#, filter),
        (r#"{"filter": "nats://u:loud@h"}"#, filter),
        (r#"{"filter": "info", "for": "15loud"}"#, lasting),
        (r#"{"filter": "info", "for": "0s"}"#, lasting),
        (r#"{"filter": "info", "for": "2d"}"#, lasting),
        (r#"{"filter": "info", "loud": "2s"}"#, body_is),
        (r#"{"filter": ["loud"]}"#, body_is),
        (r#"["loud", "loud", "loud"]"#, body_is),
        (r#""loud""#, body_is),
        (r#"{"for": "2s"}"#, body_is),
        ("loud", body_is),
        ("", body_is),
        (long.as_str(), ["4096 bytes", ""]),
    ] {
        let (status, problem) = put(&url, body.to_owned()).await;
        assert_eq!(status, 400, "{body}: {problem}");
        assert_eq!(problem["instance"], "/log-level");
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.contains("loud"), "{detail}");
        for word in words {
            assert!(detail.contains(word), "{word}: {detail}");
        }
    }
    assert_eq!(state(&ganesh).await["filter"], CONFIGURED);
    // A quarter of an hour when nothing is said.
    let (_, answer) = put(&url, r#"{"filter": "warn"}"#).await;
    let until = answer["until"].as_str().unwrap();
    let until = ganesh::event::Timestamp::parse_rfc3339(until).unwrap();
    let left = until.micros() - ganesh::event::Timestamp::now().micros();
    assert!((890_000_000..=900_000_000).contains(&left), "{left} µs");
}

/// Headers of a change that is refused, and what the refusal names.
const FOREIGN: [(&[&str], &str); 14] = [
    (&["Host: ganesh.example:9464"], "Host"),
    (&["Host: 10.0.0.1"], "Host"),
    (&["Host: localhost.ganesh.example"], "Host"),
    (&["Host: localhost", "Host: ganesh.example"], "Host"),
    (&["Host: "], "Host"),
    (
        &["Host: localhost", "Origin: http://ganesh.example"],
        "Origin",
    ),
    (
        &["Host: localhost", "Origin: http://localhost:3000"],
        "Origin",
    ),
    (&["Host: localhost", "Origin: null"], "Origin"),
    (&["Host: localhost", "Forwarded: for=10.0.0.1"], "forwarded"),
    (
        &["Host: localhost", "X-Forwarded-For: 127.0.0.1"],
        "x-forwarded-for",
    ),
    (
        &["Host: localhost", "X-Forwarded-Host: localhost"],
        "x-forwarded-host",
    ),
    (&["Host: localhost", "X-Real-IP: 127.0.0.1"], "x-real-ip"),
    (&["Host: localhost", "Via: 1.1 proxy"], "via"),
    (&["Host: [::2]:9464"], "Host"),
];

#[tokio::test]
async fn a_change_that_came_through_a_proxy_or_a_foreign_page_is_refused() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let address = ganesh.admin_address();
    let cases = FOREIGN.map(|(headers, refused)| ("PUT /log-level", headers, refused));
    let others: [(&str, &[&str], &str); 2] = [
        (
            "PUT http://ganesh.example/log-level",
            &["Host: localhost"],
            "Host",
        ),
        ("DELETE /log-level", &["Host: ganesh.example"], "Host"),
    ];
    for (line, headers, refused) in cases.into_iter().chain(others) {
        let answer = raw(&address, line, headers).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{headers:?}: {answer}");
        assert!(answer.contains(refused), "{headers:?}: {answer}");
    }
    assert_eq!(state(&ganesh).await["filter"], CONFIGURED);
    let (host, origin) = (
        format!("Host: {address}"),
        format!("Origin: http://{address}"),
    );
    let own: [&[&str]; 5] = [
        &["Host: LOCALHOST"],
        &["Host: localhost:9464"],
        &["Host: 127.0.0.2:1"],
        &["Host: [::1]:9464"],
        &[&host, &origin],
    ];
    for headers in own {
        let answer = raw(&address, "PUT /log-level", headers).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{headers:?}: {answer}");
    }
}

/// A request as it is written, with a change as its body.
async fn raw(address: &str, line: &str, headers: &[&str]) -> String {
    let body = json!({"filter": "warn", "for": "1h"}).to_string();
    let headers = headers.join("\r\n");
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\n{headers}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_filter_with_a_pattern_of_fields_is_refused_at_once() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let url = ganesh.admin_url("/log-level");
    let heavy = "[{message=~(((a{100}){100}){20})}]=debug";
    for filter in [heavy, "[request{route=x}]=debug", "info,ganesh[{id}]=trace"] {
        let began = Instant::now();
        let (status, problem) = put(&url, json!({"filter": filter}).to_string()).await;
        assert_eq!(status, 400, "{filter}: {problem}");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{filter}: {:?}",
            began.elapsed()
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("without patterns of fields"), "{detail}");
    }
    let change = json!({"filter": "warn,[request]=debug"}).to_string();
    assert_eq!(put(&url, change).await.0, 200);
}

/// An address of this machine that is not loopback. Sends nothing.
fn outer_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Kept for documentation (RFC 5737): no such host, and a route to it mostly.
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

#[tokio::test]
async fn who_is_not_on_the_host_may_look_and_not_change() {
    let Some(outer) = outer_address() else {
        eprintln!("not tested: this machine has loopback addresses only");
        return;
    };
    let stack = Stack::start().await;
    let port = free_port();
    let everywhere = format!("0.0.0.0:{port}");
    let ganesh = Ganesh::serve(&stack, &[("GANESH_ADMIN_ADDR", &everywhere)]);
    let outer = format!("http://{outer}:{port}/log-level");
    let inner = format!("http://127.0.0.1:{port}/log-level");
    eventually("it listens", || async {
        reqwest::get(&outer)
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let change = json!({"filter": "warn", "for": "1h"}).to_string();
    let (status, problem) = put(&outer, change.clone()).await;
    assert_eq!(status, 403, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("loopback"));
    let looked: Value = reqwest::get(&outer).await.unwrap().json().await.unwrap();
    assert_eq!(looked["filter"], CONFIGURED);
    assert_eq!(put(&inner, change).await.0, 200);
    // An address of all is asked on loopback.
    let (code, said, refused) = log_level(&everywhere, &["error"]);
    assert_eq!(code, 0, "{refused}");
    assert!(said.starts_with("error until "), "{said}");
    drop(ganesh);
}

#[tokio::test]
async fn the_command_shows_and_changes_and_says_what_is_wrong() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let address = ganesh.admin_address();
    let shown = log_level(&address, &[]);
    assert_eq!(shown, (0, format!("{CONFIGURED}\n"), String::new()));
    let (code, said, refused) = log_level(&address, &[MORE, "--for", "1h"]);
    assert_eq!(code, 0, "{refused}");
    let until = state(&ganesh).await["until"].as_str().unwrap().to_owned();
    assert_eq!(said, format!("{MORE} until {until}, then {CONFIGURED}\n"));
    assert_eq!(log_level(&address, &[]).1, said);
    eventually("statements are logged", || async {
        statements(&ganesh) > 0
    })
    .await;
    for (arguments, words) in [
        (&["loud"][..], ["filter: expected", "a level"]),
        (
            &["info", "--for", "1"],
            ["--for=1 (GANESH_LOG_LEVEL_FOR)", "expected 1s to 1d"],
        ),
    ] {
        let (code, _, refused) = log_level(&address, arguments);
        assert_eq!(code, 2, "{refused}");
        assert!(!refused.contains("loud"), "{refused}");
        for word in words {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
    assert_eq!(log_level(&address, &[]).1, said, "nothing has changed");
    assert!(ganesh.terminate().await.success());
    let (code, _, refused) = log_level(&address, &[]);
    assert_eq!(code, 1);
    assert!(refused.contains("does not answer"), "{refused}");
}
