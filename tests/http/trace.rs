//! A request's span reaches the collector, under the caller's span.

use reqwest::Method;

use super::client::{request, send};
use crate::support::Stack;
use crate::support::collector::Collector;

const SERVER: i32 = 2;

#[tokio::test]
async fn a_request_of_a_sampled_trace_is_a_span_in_that_trace() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let ganesh = stack.serve(&collector.settings()).await;
    for (trace, flags) in [("ab", "01"), ("cd", "00")] {
        let (trace, span) = (trace.repeat(16), "12".repeat(8));
        let traceparent = format!("00-{trace}-{span}-{flags}");
        let request = request(&ganesh, Method::GET, "/v1/events/unknown?source=/x");
        let answer = send(request.header("traceparent", traceparent)).await;
        answer.problem(404, "Not Found");
    }
    // Flushes what is left.
    assert!(ganesh.terminate().await.success());
    let spans = collector.spans();
    // Neither the request that was not sampled, nor what the exporter itself does.
    let [span] = spans.as_slice() else {
        panic!("not one span: {spans:#?}");
    };
    assert_eq!(span.trace_id, "ab".repeat(16), "the caller's trace id");
    assert_eq!(span.parent, "12".repeat(8), "the caller's span");
    assert_eq!(span.name, "GET /v1/events/{id}");
    assert_eq!(span.kind, SERVER);
    assert_eq!(span.attribute("url.path"), "/v1/events/unknown");
    assert_eq!(span.attribute("http.response.status_code"), "404");
}
