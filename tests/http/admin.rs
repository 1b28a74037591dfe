//! Probes and metrics.

use reqwest::Method;

use super::client::{get, request, send, store};
use crate::support::events::event;
use crate::support::monitoring::{rules_that, word};
use crate::support::{Stack, eventually};

fn series(route: &str, class: &str) -> String {
    format!("ganesh_http_request_seconds_count{{route=\"{route}\",status=\"{class}\"}}")
}

#[tokio::test]
async fn requests_are_timed_by_route_and_class() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[event("e")]).await;
    let (by_id, latest) = ("/v1/events/{id}", "/v1/subjects/{subject}/latest");
    for route in [by_id, latest, "other"] {
        for class in ["2xx", "4xx", "5xx"] {
            let before = ganesh.metric(&series(route, class)).await;
            assert!(before < f64::EPSILON, "{route} {class}");
        }
    }
    for path in [
        "/v1/events/e",
        "/v1/events/unknown",
        "/v1/events/e?x=1",
        "/v1/subjects/subject-1/latest",
        "/v1/subjects/unknown/latest",
        "/unknown",
    ] {
        get(&ganesh, path).await;
    }
    send(request(&ganesh, Method::POST, "/v1/events/e")).await;
    for (route, class, expected) in [
        (by_id, "2xx", 1.0),
        (by_id, "4xx", 3.0),
        (latest, "2xx", 1.0),
        (latest, "4xx", 1.0),
        ("other", "4xx", 1.0),
        ("other", "2xx", 0.0),
        (by_id, "5xx", 0.0),
    ] {
        let counted = ganesh.metric(&series(route, class)).await;
        assert!((counted - expected).abs() < f64::EPSILON, "{route} {class}");
    }
    let time = series(by_id, "2xx").replace("_count", "_sum");
    let seconds = ganesh.metric(&time).await;
    assert!(seconds > 0.0 && seconds < 5.0, "{seconds}");
}

#[tokio::test]
async fn readyz_says_why_not_while_postgres_is_away() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    assert_eq!(ganesh.admin("/livez").await, (200, "ok\n".to_owned()));
    let (status, body) = ganesh.admin("/readyz").await;
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "ready");
    let postgres = stack.postgres.as_mut().unwrap();
    postgres.kill();
    eventually("/readyz says no", || async {
        ganesh.admin("/readyz").await.0 == 503
    })
    .await;
    let (_, body) = ganesh.admin("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "not ready");
    assert_eq!(
        body["reasons"],
        serde_json::json!(["postgres does not answer"])
    );
    // It is alive: a restart would help nobody.
    assert_eq!(ganesh.admin("/livez").await.0, 200);
    let up = "ganesh_dependency_up{dependency=\"postgres\"}";
    assert!(ganesh.metric(up).await < f64::EPSILON);
    postgres.run();
    ganesh.wait_until_ready().await;
    ganesh.wait_for_metric(up, 1.0).await;
}

#[tokio::test]
async fn a_cache_that_is_away_leaves_the_process_ready() {
    let mut stack = Stack::start().await;
    stack.cache.kill();
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[event("e")]).await;
    assert_eq!(get(&ganesh, "/v1/events/e").await.status, 200);
    let latest = get(&ganesh, "/v1/subjects/subject-1/latest").await;
    assert_eq!(latest.header("cache-status"), Some("ganesh; fwd=bypass"));
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn metrics_come_in_prometheus_text_format() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let answer = reqwest::get(ganesh.admin_url("/metrics")).await.unwrap();
    let content_type = answer.headers()["content-type"].to_str().unwrap();
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    let typed = "# TYPE ganesh_http_request_seconds histogram";
    assert!(text.contains(typed), "{text}");
}

#[tokio::test]
async fn the_runbook_is_a_page_that_loads_nothing_and_has_a_section_for_each_alert() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let answer = reqwest::get(ganesh.admin_url("/runbook")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let policy = answer.headers()["content-security-policy"].to_str();
    assert!(policy.unwrap().starts_with("default-src 'none';"));
    let page = answer.text().await.unwrap();
    for alert in rules_that("alert") {
        let anchor = word(&alert["labels"]["runbook"]);
        let heading = format!("<h2 id=\"{anchor}\">");
        assert_eq!(page.matches(&heading).count(), 1, "{anchor}");
    }
    for loaded in ["src=", "<link", "<script", "url(", "@import"] {
        assert!(!page.contains(loaded), "{loaded}");
    }
    // Links lead to sections that are there, or to pages elsewhere: no file is served beside it.
    for link in page.split("href=\"").skip(1) {
        let to = link.split('"').next().unwrap();
        match to.strip_prefix('#') {
            Some(anchor) => assert!(page.contains(&format!(" id=\"{anchor}\">")), "{to}"),
            None => assert!(to.starts_with("https://"), "{to}"),
        }
    }
    // Tables are tables, and commands are blocks that can be copied.
    assert!(page.contains("<td>") && page.contains("<pre>"));
}
