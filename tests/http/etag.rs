//! `ETag` and `If-None-Match`.

use ganesh::event::Timestamp;
use reqwest::Method;
use reqwest::header::IF_NONE_MATCH;

use super::client::{Answer, get, request, send, store};
use crate::support::reads::{ago, latest_by_cache, of};
use crate::support::{Ganesh, Stack, eventually};

async fn unless(ganesh: &Ganesh, path: &str, tags: &str) -> Answer {
    send(request(ganesh, Method::GET, path).header(IF_NONE_MATCH, tags)).await
}

#[tokio::test]
async fn who_has_the_answer_is_not_sent_it_again() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[of("s", "1", ago(10))]).await;
    for path in ["/v1/events/1", "/v1/subjects/s/latest"] {
        let whole = get(&ganesh, path).await;
        let tag = whole.header("etag").unwrap().to_owned();
        assert_eq!(whole.header("cache-control"), Some("no-cache"), "{path}");
        for tags in [
            tag.as_str(),
            tag.trim_start_matches("W/"),
            "*",
            &format!("\"a,b\", {tag}"),
        ] {
            let known = unless(&ganesh, path, tags).await;
            assert_eq!(
                (known.status, known.body.as_str()),
                (304, ""),
                "{path} {tags}"
            );
            assert_eq!(known.header("etag"), Some(tag.as_str()));
            assert_eq!(known.header("cache-control"), Some("no-cache"));
            assert_eq!(known.header("content-type"), None);
        }
        for tags in ["\"other\"", "W/\"\"", &tag.to_uppercase()] {
            let answer = unless(&ganesh, path, tags).await;
            assert_eq!(
                (answer.status, &answer.body),
                (200, &whole.body),
                "{path} {tags}"
            );
        }
        let head = send(request(&ganesh, Method::HEAD, path)).await;
        assert_eq!(head.header("etag"), Some(tag.as_str()));
    }
    let missing = unless(&ganesh, "/v1/events/2", "*").await;
    missing.problem(404, "Not Found");
}

#[tokio::test]
async fn a_newer_event_has_another_tag_wherever_it_is_read_from() {
    let mut stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let path = "/v1/subjects/s/latest";
    store(&stack, &[of("s", "1", ago(10))]).await;
    latest_by_cache(&ganesh, "s").await;
    let first = get(&ganesh, path).await.header("etag").unwrap().to_owned();
    store(&stack, &[of("s", "2", Timestamp::now())]).await;
    eventually("the newer one is answered", || async {
        unless(&ganesh, path, &first).await.status == 200
    })
    .await;
    let cached = latest_by_cache(&ganesh, "s").await;
    assert_eq!(cached.id.as_deref(), Some("2"));
    let second = get(&ganesh, path).await.header("etag").unwrap().to_owned();
    assert_ne!(first, second);
    stack.cache.kill();
    let bypass = unless(&ganesh, path, &second).await;
    assert_eq!(bypass.status, 304);
    assert_eq!(bypass.header("cache-status"), Some("ganesh; fwd=bypass"));
}
