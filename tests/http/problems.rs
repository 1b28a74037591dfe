//! Errors: RFC 9457, one sentence, and nothing of what is behind us.

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{get, request, send, store};
use crate::support::events::event;
use crate::support::{Ganesh, Stack};

#[tokio::test]
async fn what_is_not_there_is_a_404_that_says_what() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let cases = [
        ("/v1/events/unknown", "no such event"),
        ("/v1/subjects/unknown/latest", "no event has this subject"),
        ("/", "no such route"),
        ("/v1/events/", "no such route"),
        ("/v1/events/a/b", "no such route"),
        ("/v1/subjects//latest", "subject is empty"),
    ];
    for (path, detail) in cases {
        let answer = get(&ganesh, path).await;
        let (status, title) = if path.contains("//") {
            (400, "Bad Request")
        } else {
            (404, "Not Found")
        };
        assert_eq!(answer.problem(status, title), detail, "{path}");
        assert_eq!(answer.json()["instance"], path);
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_a_400_that_names_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let long = "x".repeat(1_025);
    let cases = [
        ("/v1/events/e?sources=/x", "unknown parameter \"sources\""),
        ("/v1/events/e?source=a&source=b", "\"source\""),
        ("/v1/events/e?source=", "\"source\" is empty"),
        ("/v1/events/e?source=%ff", "\"source\" is not UTF-8"),
        ("/v1/events/e?source=%2", "\"source\" is not UTF-8"),
        (
            "/v1/events/e?time=yesterday",
            "time=yesterday: expected an RFC 3339",
        ),
        ("/v1/events/e?time=2023-11-14T22:13:20+01:00", "%2B"),
        ("/v1/events/%ff", "id is not UTF-8"),
        ("/v1/events/%00", "id contains U+0000"),
        ("/v1/events/e?source=a%00", "\"source\" contains U+0000"),
        ("/v1/subjects/a%00/latest", "subject contains U+0000"),
        ("/v1/subjects/%ff/latest", "subject is not UTF-8"),
        (
            "/v1/subjects/s/latest?x=1",
            "unknown parameter \"x\"; this route knows: none",
        ),
        (&format!("/v1/events/{long}"), "id has 1025 bytes"),
        (
            &format!("/v1/events/e?source={long}"),
            "\"source\" has 1025 bytes",
        ),
        (
            &format!("/v1/subjects/{long}/latest"),
            "subject has 1025 bytes",
        ),
    ];
    for (path, expected) in cases {
        let detail = get(&ganesh, path).await.problem(400, "Bad Request");
        assert!(detail.contains(expected), "{path}: {detail}");
    }
    // 1,024 bytes are possible, percent-encoded as well.
    let longest = "%C3%BC".repeat(512);
    let path = format!("/v1/events/{longest}?source={longest}&time=2023-11-14T22:13:20Z");
    get(&ganesh, &path).await.problem(404, "Not Found");
}

#[tokio::test]
async fn a_target_of_more_than_8_kib_is_a_414() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let path = format!("/v1/events/{}", "x".repeat(8 * 1_024));
    let detail = get(&ganesh, &path).await.problem(414, "URI Too Long");
    assert!(detail.contains("8192"), "{detail}");
}

#[tokio::test]
async fn other_methods_are_a_405_that_says_which_are_allowed() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    for path in ["/v1/events/e", "/v1/subjects/s/latest"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = send(request(&ganesh, method, path)).await;
            answer.problem(405, "Method Not Allowed");
            assert_eq!(answer.header("allow"), Some("GET,HEAD"));
        }
    }
}

/// The status line of the answer to a head that no HTTP library would send.
async fn status_line(ganesh: &Ganesh, head: &[u8]) -> String {
    let address = ganesh.api.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn targets_that_no_library_sends_are_answered_too() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[event("e")]).await;
    let end = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    // Not percent-encoded, and cut for `instance` within a character.
    for subject in ["ü".repeat(600), "aü".repeat(600), "€".repeat(600)] {
        let head = format!("GET /v1/subjects/{subject}/latest{end}");
        let status = status_line(&ganesh, head.as_bytes()).await;
        assert_eq!(status, "HTTP/1.1 400 Bad Request");
    }
    let cases: [(&[u8], &str); 4] = [
        (b"GET /v1/events/../../latest", "404 Not Found"),
        (b"GET http://x/v1/events/e", "200 OK"),
        (b"GET /v1/events/%65", "200 OK"),
        (b"get /v1/events/e", "405 Method Not Allowed"),
    ];
    for (start, expected) in cases {
        let head = [start, end.as_bytes()].concat();
        let status = status_line(&ganesh, &head).await;
        assert_eq!(status, format!("HTTP/1.1 {expected}"));
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_a_504_in_time() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    let postgres = stack.postgres.as_mut().unwrap();
    postgres.pause();
    let started = std::time::Instant::now();
    let (event, latest) = tokio::join!(
        get(&ganesh, "/v1/events/e"),
        get(&ganesh, "/v1/subjects/s/latest"),
    );
    postgres.resume();
    postgres.kill();
    let gone = get(&ganesh, "/v1/events/e").await;
    assert!(started.elapsed().as_secs() < 12);
    for answer in [event, latest, gone] {
        let detail = answer.problem(504, "Gateway Timeout");
        assert_eq!(detail, "the database did not answer in time");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    postgres.run();
    crate::support::eventually("reads are answered again", || async {
        get(&ganesh, "/v1/events/e").await.status == 404
    })
    .await;
}
