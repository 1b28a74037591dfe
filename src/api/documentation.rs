//! `GET /v1/docs`: Swagger UI. Its files are part of the binary, so the page loads nothing from another host.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get};
use bytes::Bytes;
use utoipa_swagger_ui::Config;

use super::problem::Problem;
use super::{Api, etag};
use crate::labels::HttpRoute;

/// The page, and what it loads.
const INDEX: &str = "index.html";
const FILES: [&str; 7] = [
    "swagger-ui.css",
    "index.css",
    "favicon-32x32.png",
    "favicon-16x16.png",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
];
/// Swagger UI gives elements styles of their own, and has pictures in its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document, the page, and its files.
pub(super) fn routes(document: &serde_json::Value) -> Router<Api> {
    let document = Bytes::from(document.to_string());
    let document = async move |headers: HeaderMap| {
        file_response(&headers, "application/json", document.clone())
    };
    // Relative addresses hold behind a proxy that adds a prefix, too.
    let config = Config::from("openapi.json").use_base_layout();
    // Else the page asks a validator on the internet.
    let config = Arc::new(config.validator_url("none"));
    let page = read(INDEX, &config).1;
    let page = String::from_utf8_lossy(&page)
        .replace("=\"./", "=\"")
        .replace("src=\"", "src=\"docs/")
        .replace("href=\"", "href=\"docs/");
    let page = Bytes::from(page);
    let page = async move |headers: HeaderMap| {
        let mut response = file_response(&headers, "text/html; charset=utf-8", page.clone());
        let policy = HeaderValue::from_static(POLICY);
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy);
        response
    };
    let file = async move |Path(name): Path<String>, headers: HeaderMap| {
        if !FILES.contains(&name.as_str()) {
            return Err(Problem::not_found("no such file"));
        }
        let (content_type, bytes) = read(&name, &config);
        Ok(file_response(&headers, &content_type, bytes))
    };
    Router::new()
        .route(HttpRoute::Document.into(), get(document))
        .route(HttpRoute::Docs.into(), get(page))
        .route(HttpRoute::DocsFile.into(), get(file))
}

/// The next release may have another one under the same name: a client asks again each time.
fn file_response(asked: &HeaderMap, content_type: &str, bytes: Bytes) -> Response {
    let tag = etag::of(&bytes);
    let caching = [
        (ETAG, tag.clone()),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if etag::is_known(asked, &tag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, content_type)], bytes).into_response()
}

/// A file of Swagger UI, and its media type.
fn read(name: &str, config: &Arc<Config<'static>>) -> (String, Bytes) {
    let file = utoipa_swagger_ui::serve(name, config.clone());
    let file = file
        .expect("its settings are JSON")
        .expect("Swagger UI has the files of its page");
    (file.content_type, Bytes::from(file.bytes.into_owned()))
}
