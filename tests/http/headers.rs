//! What HTTP has beside the answer itself: request ids, compression, other sites' pages.

use std::io::Read;

use bytes::Bytes;
use ganesh::event::{Data, Event};
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, ORIGIN};

use super::client::{get, request, send, store};
use crate::support::events::{event, events};
use crate::support::{Stack, eventually};

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let with = async |id: &str| {
        let asked = request(&ganesh, Method::GET, "/v1/events").header("x-request-id", id);
        send(asked).await.header("x-request-id").unwrap().to_owned()
    };
    for id in [
        "a",
        "0b1e1a8e-6f0f-4d0b-9f57-1d2e3f4a5b6c",
        &"x".repeat(128),
    ] {
        assert_eq!(with(id).await, id);
    }
    let is_made = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    for id in ["", "two words", "ü", &"x".repeat(129)] {
        let made = with(id).await;
        assert!(is_made(&made), "{id}: {made}");
    }
    let mut made = std::collections::BTreeSet::new();
    for path in [
        "/v1/events",
        "/v1/events/unknown",
        "/v1/events?limit=0",
        "/unknown",
    ] {
        let answer = get(&ganesh, path).await;
        let id = answer.header("x-request-id").unwrap();
        assert!(is_made(id) && made.insert(id.to_owned()), "{path}: {id}");
    }
}

#[tokio::test]
async fn answers_are_compressed_for_who_takes_that() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &events("e", 200)).await;
    let plain = get(&ganesh, "/v1/events?limit=200").await;
    assert_eq!(plain.header("content-encoding"), None);
    let asked = request(&ganesh, Method::GET, "/v1/events?limit=200");
    let answer = asked.header(ACCEPT_ENCODING, "gzip").send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert!(
        answer.headers()["vary"]
            .to_str()
            .unwrap()
            .contains("accept-encoding")
    );
    let bytes = answer.bytes().await.unwrap();
    assert!(
        bytes.len() * 4 < plain.body.len(),
        "{} of {}",
        bytes.len(),
        plain.body.len()
    );
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, plain.body);
}

#[tokio::test]
async fn an_event_is_compressed_only_if_it_is_large_and_has_the_same_tag_either_way() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let large = Event {
        data: Data::Json(Bytes::from(format!("\"{}\"", "x".repeat(1_024)))),
        ..event("large")
    };
    store(&stack, &[event("small"), large]).await;
    for (id, encoding) in [("small", None), ("large", Some("gzip"))] {
        let path = format!("/v1/events/{id}");
        let asked = request(&ganesh, Method::GET, &path).header(ACCEPT_ENCODING, "gzip");
        let answer = asked.send().await.unwrap();
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap());
        assert_eq!(header("content-encoding"), encoding, "{id}");
        assert_eq!(get(&ganesh, &path).await.header("etag"), header("etag"));
    }
}

#[tokio::test]
async fn pages_of_other_sites_may_read_only_where_they_are_named() {
    const GOOD: &str = "https://app.example.com";
    let stack = Stack::start().await;
    let closed = stack.serve(&[]).await;
    let settings = [
        (
            "GANESH_HTTP_CORS_ORIGINS",
            "https://app.example.com, http://localhost:5173",
        ),
        ("GANESH_API_TOKEN", "s3cret"),
    ];
    let open = stack.serve(&settings).await;
    for (ganesh, origin, allowed) in [
        (&closed, GOOD, None),
        (&open, GOOD, Some(GOOD)),
        (
            &open,
            "http://localhost:5173",
            Some("http://localhost:5173"),
        ),
        (&open, "https://app.example.com.evil.org", None),
        (&open, "null", None),
    ] {
        let asked = request(ganesh, Method::GET, "/v1/events").header(ORIGIN, origin);
        let answer = send(asked.bearer_auth("s3cret")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            allowed,
            "{origin}"
        );
    }
    // A browser asks first, without the token.
    let asked = request(&open, Method::OPTIONS, "/v1/events").header(ORIGIN, GOOD);
    let asked = asked.header("access-control-request-method", "GET");
    let answer = send(asked.header("access-control-request-headers", "authorization")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some(GOOD));
    assert_eq!(
        answer.header("access-control-allow-methods"),
        Some("GET,HEAD")
    );
    assert!(
        answer
            .header("access-control-allow-headers")
            .unwrap()
            .contains("authorization")
    );
    let refused = send(request(&closed, Method::OPTIONS, "/v1/events").header(ORIGIN, GOOD)).await;
    refused.problem(405, "Method Not Allowed");
}

#[tokio::test]
async fn without_an_address_there_is_no_api_and_all_else_works() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_HTTP_ADDR", "off")]).await;
    store(&stack, &events("e", 10)).await;
    assert_eq!(stack.rows().await, 10);
    assert!(
        reqwest::get(format!("{}/v1/events", ganesh.api))
            .await
            .is_err()
    );
    eventually("it is ready", || async {
        ganesh.admin("/readyz").await.0 == 200
    })
    .await;
    assert!(ganesh.terminate().await.success());
}
