//! `GET /v1/docs`: Swagger UI, which loads nothing from another host.

use reqwest::Method;
use serde_json::Value;

use super::client::{get, request, send};
use crate::support::{Ganesh, Stack};

/// What a browser lets the page load, by its policy.
const ALLOWED: [&str; 4] = ["'none'", "'self'", "'unsafe-inline'", "data:"];

/// The values of an attribute, wherever it stands in the page.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    let found = page.split(begin.as_str()).skip(1);
    found.map(|rest| rest.split('"').next().unwrap()).collect()
}

fn media_type(file: &str) -> &'static str {
    match file.rsplit('.').next().unwrap() {
        "css" => "text/css",
        "js" => "text/javascript",
        "png" => "image/png",
        other => panic!("a file {other}"),
    }
}

/// Loads what the page names, as a browser at `/v1/docs` does.
async fn check_files(ganesh: &Ganesh, page: &str) {
    let files = [values(page, "src"), values(page, "href")].concat();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert!(file.starts_with("docs/"), "{file}");
        let path = format!("/v1/{file}");
        let answer = get(ganesh, &path).await;
        assert_eq!(answer.status, 200, "{file}");
        let content_type = answer.header("content-type");
        assert_eq!(content_type, Some(media_type(file)), "{file}");
        assert!(answer.body.len() > 100, "{file}");
        let tag = answer.header("etag").unwrap();
        let again = request(ganesh, Method::GET, &path).header("if-none-match", tag);
        assert_eq!(send(again).await.status, 304, "{file}");
        if content_type == Some("text/css") {
            assert!(!answer.body.contains("@import") && !answer.body.contains("url(http"));
        }
    }
}

#[tokio::test]
async fn the_page_of_the_api_needs_no_token_and_no_other_host() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_API_TOKEN", "s3cret")]).await;
    get(&ganesh, "/v1/events")
        .await
        .problem(401, "Unauthorized");
    let answer = get(&ganesh, "/v1/docs").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("text/html; charset=utf-8"));
    assert!(answer.header("x-request-id").is_some());
    // A browser loads nothing from another host, whatever a script asks for.
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    for directive in policy.split(';') {
        let mut sources = directive.split_whitespace().skip(1);
        assert!(sources.all(|source| ALLOWED.contains(&source)), "{policy}");
    }
    let page = answer.body;
    assert!(!page.contains("//"), "{page}");
    assert!(!page.contains("<script>"), "{page}");
    check_files(&ganesh, &page).await;
    // It shows our document, by an address beside its own.
    let settings = get(&ganesh, "/v1/docs/swagger-initializer.js").await.body;
    assert!(settings.contains("\"url\": \"openapi.json\""), "{settings}");
    assert!(!settings.contains("http"), "{settings}");
    assert!(
        settings.contains("\"validatorUrl\": \"none\""),
        "{settings}"
    );
    let document: Value = get(&ganesh, "/v1/openapi.json").await.json();
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    // Its own address is the only one that the page has.
    for file in ["index.html", "none.js", "..%2Fopenapi.json"] {
        let answer = get(&ganesh, &format!("/v1/docs/{file}")).await;
        answer.problem(404, "Not Found");
    }
}
