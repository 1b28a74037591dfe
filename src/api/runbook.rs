//! `/runbook`: docs/RUNBOOK.md as a page. The alerts link to its headings. The text is part of the
//! binary and the page loads nothing, so it opens while every dependency is down.

use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;

use super::markdown_page;

const MARKDOWN: &str = include_str!("../../docs/RUNBOOK.md");

static PAGE: LazyLock<Bytes> = LazyLock::new(|| markdown_page::render("ganesh: runbook", MARKDOWN));

pub(super) async fn show() -> Response {
    markdown_page::response(PAGE.clone())
}
