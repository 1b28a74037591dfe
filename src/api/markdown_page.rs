//! A page from Markdown that loads nothing: it opens wherever its address answers.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use pulldown_cmark::{Event, Options, Parser, Tag, html};

const STYLE: &str = "\
    :root{color-scheme:light dark}\
    body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}\
    h2{margin-top:2.5em;border-bottom:1px solid #8888}\
    :target{background:#fd06}\
    code{font-size:.9em;background:#8882;padding:.1em .2em}\
    pre{background:#8882;padding:.8em;overflow-x:auto}\
    pre code{background:none;padding:0}\
    table{border-collapse:collapse}\
    td,th{border:1px solid #8888;padding:.2em .6em;text-align:left;vertical-align:top}";
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// The page. Each heading has the anchor that GitHub gives it.
pub(super) fn render(title: &str, markdown: &str) -> Bytes {
    let mut events: Vec<_> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    add_anchors(&mut events);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
    );
    html::push_html(&mut page, events.into_iter());
    page.push_str("</body></html>\n");
    page.into()
}

pub(super) fn response(page: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        // The next release may have another text.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, page).into_response()
}

/// A heading is plain words without punctuation.
fn add_anchors(events: &mut [Event<'_>]) {
    for at in 1..events.len() {
        if let [Event::Start(Tag::Heading { id, .. }), Event::Text(words)] =
            &mut events[at - 1..=at]
        {
            *id = Some(words.to_lowercase().replace(' ', "-").into());
        }
    }
}
