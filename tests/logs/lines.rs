//! The ids on a line.

use async_nats::jetstream::consumer::pull;
use futures::StreamExt;

use super::{objects, with_message};
use crate::support::events::publish_invalid;
use crate::support::{Ganesh, Stack, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A request that no cache can answer, in a trace of the caller's.
async fn ask(ganesh: &Ganesh, flags: &str) {
    let request = reqwest::Client::new()
        .get(format!(
            "{}/v1/events/unknown-{flags}?source=/x",
            ganesh.api
        ))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}"));
    assert_eq!(request.send().await.unwrap().status(), 404);
}

/// Logs each statement, within the request or the background task that it belongs to. Spans are
/// made and cannot be exported: nobody listens on port 1.
fn statements(format: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("GANESH_LOG", "info,sqlx=debug"),
        ("GANESH_LOG_FORMAT", format),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ]
}

#[tokio::test]
async fn a_line_within_a_request_carries_the_callers_trace_and_the_requests_span() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&statements("auto")).await;
    // Not sampled, it is as good to find lines by.
    for flags in ["01", "00"] {
        ask(&ganesh, flags).await;
    }
    let lines = objects(&ganesh.log());
    let within: Vec<_> = lines
        .iter()
        .filter(|line| line["trace_id"] == TRACE)
        .collect();
    assert!(within.len() >= 2, "{}", ganesh.log());
    let mut spans: Vec<&str> = within
        .iter()
        .map(|line| line["span_id"].as_str().unwrap())
        .collect();
    for span in &spans {
        assert_eq!(span.len(), 16, "{span}");
        assert_ne!(*span, CALLER);
        assert!(u64::from_str_radix(span, 16).unwrap() != 0);
    }
    spans.dedup();
    assert_eq!(spans.len(), 2, "two requests, two spans");
    // Statements of no request are logged too, and have no ids.
    let outside = lines
        .iter()
        .filter(|line| line["target"] == "sqlx::query" && line.get("trace_id").is_none());
    assert!(outside.count() > 0, "{}", ganesh.log());
}

#[tokio::test]
async fn a_line_of_text_carries_them_too() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&statements("text")).await;
    ask(&ganesh, "01").await;
    let log = ganesh.log();
    let line = log.lines().find(|line| line.contains(TRACE)).unwrap();
    let (_, ids) = line.rsplit_once(" trace_id=").unwrap();
    let (trace, span) = ids.split_once(" span_id=").unwrap();
    assert_eq!(trace, TRACE);
    assert_eq!(span.len(), 16, "{line}");
    assert!(!log.contains('\x1b'), "a file shows no colours: {log}");
}

#[tokio::test]
async fn a_line_about_a_message_carries_that_messages_trace_id() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&statements("json")).await;
    let jetstream = stack.jetstream().await;
    publish_invalid(&jetstream).await;
    eventually("the letter is stored", || async {
        stack.dead_letters().await == 1
    })
    .await;
    let lines = with_message(&ganesh.log(), "dead letter");
    assert_eq!(lines.len(), 1, "{}", ganesh.log());
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let config = pull::Config::default();
    let consumer = letters.create_consumer(config).await.unwrap();
    let mut letters = consumer.messages().await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    let headers = letter.headers.as_ref().unwrap();
    let trace = headers.get("ganesh-dlq-trace-id").unwrap().as_str();
    assert_eq!(lines[0]["trace_id"], trace);
    assert!(lines[0].get("span_id").is_none(), "{}", lines[0]);
}

#[tokio::test]
async fn a_flood_of_dead_letters_is_a_few_lines_that_say_how_many_there_were() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let publish = async |count: usize| {
        for _ in 0..count {
            publish_invalid(&jetstream).await;
        }
    };
    publish(300).await;
    eventually("the letters are stored", || async {
        stack.dead_letters().await == 300
    })
    .await;
    // The next window.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    publish(1).await;
    eventually("the last letter is stored", || async {
        stack.dead_letters().await == 301
    })
    .await;
    let lines = with_message(&ganesh.log(), "dead letter");
    let suppressed: u64 = lines
        .iter()
        .map(|line| line["suppressed"].as_u64().unwrap())
        .sum();
    assert_eq!(lines.len() as u64 + suppressed, 301, "{}", ganesh.log());
    assert!(suppressed > 0, "{}", ganesh.log());
}

#[tokio::test]
async fn a_cache_that_refuses_for_long_is_one_line_now_and_then() {
    let mut stack = Stack::start().await;
    stack.cache.kill();
    let ganesh = stack.serve(&[]).await;
    let errors = "ganesh_dependency_errors_total{dependency=\"cache\",code=\"connection\"}";
    ganesh.wait_for_metric(errors, 4.0).await;
    let lines = with_message(
        &ganesh.log(),
        "the cache fails; reads go to Postgres where they must",
    );
    assert_eq!(lines.len(), 1, "{}", ganesh.log());
}
