//! `GET /v1/subjects/{subject}/latest`.

use ganesh::event::Timestamp;
use reqwest::Method;

use super::client::{get, request, send, store};
use crate::support::cache_server::keys_of;
use crate::support::reads::{ago, latest_by_cache, of};
use crate::support::{Stack, eventually};

#[tokio::test]
async fn cache_status_and_age_say_where_the_answer_came_from() {
    let mut stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[of("s", "1", ago(10))]).await;
    let miss = latest_by_cache(&ganesh, "s").await;
    assert_eq!(
        (miss.cache.as_str(), miss.age),
        ("ganesh; fwd=miss; stored", None)
    );
    let hit = latest_by_cache(&ganesh, "s").await;
    assert_eq!((hit.cache.as_str(), hit.age), ("ganesh; hit", Some(0)));
    eventually("the age grows", || async {
        latest_by_cache(&ganesh, "s").await.age >= Some(1)
    })
    .await;
    // A write makes it young again.
    store(&stack, &[of("s", "2", Timestamp::now())]).await;
    let hit = latest_by_cache(&ganesh, "s").await;
    assert_eq!((hit.cache.as_str(), hit.age), ("ganesh; hit", Some(0)));
    let unknown = latest_by_cache(&ganesh, "unknown").await;
    assert_eq!(
        (unknown.cache.as_str(), unknown.status),
        ("ganesh; fwd=miss; stored", 404)
    );
    let unknown = latest_by_cache(&ganesh, "unknown").await;
    assert_eq!(
        (unknown.cache.as_str(), unknown.status),
        ("ganesh; hit", 404)
    );
    assert_eq!(unknown.age, Some(0));
    stack.cache.kill();
    let bypass = get(&ganesh, "/v1/subjects/s/latest").await;
    assert_eq!(bypass.header("cache-status"), Some("ganesh; fwd=bypass"));
    assert_eq!(bypass.header("age"), None);
    assert_eq!(bypass.header("cache-control"), Some("no-cache"));
    assert_eq!(
        bypass.header("content-type"),
        Some("application/cloudevents+json")
    );
    assert_eq!(bypass.json()["id"], "2");
}

#[tokio::test]
async fn a_subject_may_hold_any_characters() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let subjects = [
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("ü", "%C3%BC"),
        ("50%", "50%25"),
        ("{subject}", "%7Bsubject%7D"),
        ("?x=1#y", "%3Fx=1%23y"),
        ("..", "%2E%2E"),
    ];
    let events: Vec<_> = subjects.iter().map(|(s, _)| of(s, s, ago(10))).collect();
    store(&stack, &events).await;
    for (subject, encoded) in subjects {
        // A URL library would take %2E%2E for the folder above.
        if subject == ".." {
            continue;
        }
        let answer = get(&ganesh, &format!("/v1/subjects/{encoded}/latest")).await;
        assert_eq!(answer.status, 200, "{encoded}: {answer:?}");
        assert_eq!(answer.json()["subject"], subject);
    }
}

#[tokio::test]
async fn a_head_request_gets_the_headers_of_the_answer_alone() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[of("s", "1", ago(10))]).await;
    for path in ["/v1/subjects/s/latest", "/v1/events/1"] {
        let whole = get(&ganesh, path).await;
        let head = send(request(&ganesh, Method::HEAD, path)).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let length = whole.body.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()));
        assert_eq!(head.header("content-type"), whole.header("content-type"));
    }
    let missing = send(request(&ganesh, Method::HEAD, "/v1/events/2")).await;
    assert_eq!((missing.status, missing.body.as_str()), (404, ""));
}

#[tokio::test]
async fn the_newest_of_a_subject_is_found_in_whichever_partition_it_is() {
    const DAY: i64 = 86_400_000;
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    // The default partition, an old one, the recent ones, and the default one again.
    for (id, millis) in [
        ("years ago", 3_000 * DAY),
        ("days ago", 2 * DAY),
        ("yesterday", DAY),
        ("now", 0),
        ("years ahead", -3_000 * DAY),
    ] {
        store(&stack, &[of("s", id, ago(millis))]).await;
        // Within a second: the cache may not have been there yet.
        eventually(id, || async {
            get(&ganesh, "/v1/subjects/s/latest").await.json()["id"] == id
        })
        .await;
        for key in keys_of(&stack.cache, "s").await {
            crate::support::cache_server::ask::<()>(&stack.cache, &["DEL", &key]).await;
        }
        let answer = get(&ganesh, "/v1/subjects/s/latest").await;
        assert_eq!(answer.json()["id"], id);
    }
}
