//! `GET /v1/docs`: the API as a page that loads nothing from anywhere.

use serde_json::Value;

use super::client::get;
use crate::support::Stack;

/// The values of an attribute, wherever it stands in the page.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    let found = page.split(begin.as_str()).skip(1);
    found.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn the_page_of_the_api_needs_no_token_and_no_other_host() {
    let stack = Stack::start().await;
    let open = stack.serve(&[]).await;
    let document: Value = get(&open, "/v1/openapi.json").await.json();
    let ganesh = stack.serve(&[("GANESH_API_TOKEN", "s3cret")]).await;
    get(&ganesh, "/v1/openapi.json")
        .await
        .problem(401, "Unauthorized");
    let answer = get(&ganesh, "/v1/docs").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("script-src"), "{policy}");
    assert!(answer.header("x-request-id").is_some());
    let page = answer.body;
    // Nothing is loaded, and no link leaves the host.
    for never in [
        "<script", "<link", "<img", "<iframe", "http:", "https:", "url(", "@import",
    ] {
        assert!(!page.contains(never), "{never}");
    }
    assert_eq!(values(&page, "src"), Vec::<&str>::new());
    let ids = values(&page, "id");
    for link in values(&page, "href") {
        let anchor = link.strip_prefix('#');
        let leads = anchor.map_or(link == "/v1/openapi.json", |anchor| ids.contains(&anchor));
        assert!(leads, "{link} in {ids:?}");
    }
    // All of the document is there.
    for (path, operations) in document["paths"].as_object().unwrap() {
        assert!(
            page.contains(&format!("<h2 id=\"get-{path}\">GET {path}</h2>")),
            "{path}"
        );
        for parameter in operations["get"]["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            assert!(
                page.contains(&format!("<code>{name}</code>")),
                "{path} {name}"
            );
        }
    }
    for name in document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
    {
        assert!(page.contains(&format!(">{name}</h3>")), "{name}");
    }
}
