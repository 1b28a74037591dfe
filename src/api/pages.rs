//! Pages: what a request says of them, and how an answer names the next one.

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use utoipa::IntoParams;

use super::parameters;
use super::problem::Problem;

const DEFAULT: usize = 100;
const MAX: usize = 1_000;
/// Percent-encoded where the client did not.
const IN_LINK: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\');

/// What the document says of pages.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are read elsewhere")]
pub(super) struct PageParameters {
    /// Entries of a page, at most; 100 by default
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where a page begins: copy it from `Link`
    #[param(min_length = 1, max_length = 3072, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
}

/// How much a page has at most.
///
/// # Errors
/// 400 when `limit` is no such number.
pub(super) fn limit(given: Option<&str>) -> Result<usize, Problem> {
    given.map_or(Ok(DEFAULT), |given| parameters::count("limit", given, MAX))
}

/// The parameters as the client wrote them, but for the cursor.
pub(super) fn query_without_cursor(query: Option<&str>) -> String {
    let pairs = query.unwrap_or_default().split('&');
    // A cursor under another spelling, such as %63ursor, is one, too.
    let is_cursor = |pair: &str| {
        let mut read = parameters::pairs(Some(pair));
        matches!(read.next(), Some(Ok((name, _))) if name == "cursor")
    };
    let others = pairs.filter(|pair| !pair.is_empty() && !is_cursor(pair));
    let others = others.map(|pair| utf8_percent_encode(pair, IN_LINK).to_string() + "&");
    others.collect()
}

/// RFC 8288: the page of this route that begins at a cursor; `query` as [`query_without_cursor`] has it.
pub(super) fn next_link(path: &str, query: &str, cursor: &str) -> HeaderValue {
    let link = format!("<{path}?{query}cursor={cursor}>; rel=\"next\"");
    HeaderValue::try_from(link).expect("percent-encoding leaves visible ASCII")
}
