//! Places that are away, Jaeger, and bad usage.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{asked, explain_with, not_asked, told};
use crate::support::Stack;
use crate::support::collector::{Collector, Seen};
use crate::support::events::{event, publish};
use crate::support::eventually;

/// Nobody listens there.
const NOWHERE: [(&str, &str); 3] = [
    ("NATS_URL", "nats://127.0.0.1:1"),
    ("POSTGRES_URL", "postgresql://127.0.0.1:1/db"),
    ("REDIS_URL", "redis://127.0.0.1:1"),
];

async fn stack_with_one_row() -> Stack {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &[event("e")]).await;
    stack.wait_until_drained().await;
    ganesh.terminate().await;
    stack
}

#[tokio::test]
async fn each_place_may_be_away_and_the_others_answer() {
    let stack = stack_with_one_row().await;
    let away: [(usize, &[&str], &str); 3] = [
        (0, &["stream", "jaeger", "replica"], "stored"),
        // The cache cannot be asked without the epoch that Postgres has.
        (1, &["postgres", "cache", "jaeger", "replica"], "not_known"),
        (2, &["cache", "jaeger", "replica"], "stored"),
    ];
    for (place, expected, outcome) in away {
        let answer = explain_with(&stack, &["1"], &NOWHERE[place..=place]);
        assert_eq!(answer["outcome"], outcome, "{answer:#}");
        let mut gaps = not_asked(&answer);
        gaps.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(gaps, expected, "{answer:#}");
        assert!(
            !answer["story"].as_array().unwrap().is_empty(),
            "{answer:#}"
        );
    }
}

#[tokio::test]
async fn when_no_place_answers_the_exit_code_is_1_and_each_is_named() {
    let stack = Stack::start().await;
    let output = asked(&stack, &["1"], &NOWHERE);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    for place in ["the stream: ", "Postgres: "] {
        assert!(said.contains(place), "{said}");
    }
}

#[tokio::test]
async fn bad_usage_says_what_was_expected() {
    let stack = Stack::start().await;
    let mistakes: [(&[&str], &str); 7] = [
        (&[], "nothing is asked about"),
        (&["0"], "sequence 0"),
        (&["1", "--subject", "s"], "more than one"),
        (&["--id", "e", "--sequence", "1"], "more than one"),
        (
            &["--subject", "s", "--source", "/test"],
            "--source and --time",
        ),
        (&["--trace-id", "abc"], "32 hexadecimal digits"),
        (&["e", "--time", "yesterday"], "RFC 3339"),
    ];
    for (arguments, expected) in mistakes {
        let output = asked(&stack, arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
}

/// Answers as `GET /api/traces/{id}` of Jaeger does, with the spans that a collector was given. No package
/// registry has Jaeger; its form is that of jaegertracing/jaeger, `model/json`.
async fn jaeger(spans: Vec<Seen>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::new(spans);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let spans = spans.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4_096];
                let length = connection.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let answer = answer_of_jaeger(&request, &spans);
                connection.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    url
}

fn answer_of_jaeger(request: &str, spans: &[Seen]) -> String {
    let path = request.split(' ').nth(1).unwrap();
    let id = path.strip_prefix("/api/traces/").unwrap();
    let of_trace: Vec<Value> = spans
        .iter()
        .filter(|span| span.trace_id == id)
        .map(span_of_jaeger)
        .collect();
    let (status, body) = if of_trace.is_empty() {
        let error = json!({"code": 404, "msg": "trace not found"});
        ("404 Not Found", json!({"data": null, "errors": [error]}))
    } else {
        let trace = json!({"traceID": id, "spans": of_trace, "processes": {}});
        ("200 OK", json!({"data": [trace], "errors": null}))
    };
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

fn span_of_jaeger(span: &Seen) -> Value {
    let tags: Vec<Value> = span
        .attributes
        .iter()
        .map(|(key, value)| match value.parse::<i64>() {
            Ok(number) => json!({"key": key, "type": "int64", "value": number}),
            Err(_) => json!({"key": key, "type": "string", "value": value}),
        })
        .collect();
    let references = if span.parent.is_empty() {
        json!([])
    } else {
        json!([{"refType": "CHILD_OF", "traceID": span.trace_id, "spanID": span.parent}])
    };
    json!({
        "traceID": span.trace_id, "spanID": span.id, "operationName": span.name,
        "references": references, "startTime": span.start / 1_000, "duration": span.duration() / 1_000,
        "tags": tags, "logs": [], "processID": "p1",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn jaeger_tells_the_stages_and_why_the_trace_was_kept() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let slow = collector.settings_with(&[("GANESH_TRACE_SLOW_MS", "100")]);
    let _ganesh = stack.serve(&slow).await;
    let jetstream = stack.jetstream().await;
    let lock = stack.lock("events", "SHARE").await;
    publish(&jetstream, &[event("slow")]).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    publish(&jetstream, &[event("fast")]).await;
    stack.wait_until_drained().await;
    eventually("the trace is exported", || async {
        !collector.named("process events.>").is_empty()
    })
    .await;
    let url = jaeger(collector.spans()).await;
    let settings = [("JAEGER_URL", url.as_str())];
    let answer = explain_with(&stack, &["1"], &settings);
    let trace = &answer["trace"];
    let id = trace["id"].as_str().unwrap();
    assert_eq!(trace["kept"]["keep_reason"], "slow", "{answer:#}");
    assert_eq!(trace["link"], format!("{url}/trace/{id}"));
    let stages = trace["kept"]["stages"].as_array().unwrap();
    let names: Vec<_> = stages.iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(
        names,
        ["stream", "decode", "queue", "store", "cache", "settle"]
    );
    assert!(
        stages[3]["milliseconds"].as_f64().unwrap() > 100.0,
        "{answer:#}"
    );
    assert_eq!(not_asked(&answer), ["replica"], "{answer:#}");
    // Jaeger names the message, before anything else is asked. Its page can have another address.
    let page = "https://traces.example.com/jaeger";
    let by_trace = explain_with(&stack, &[id], &[settings[0], ("JAEGER_UI_URL", page)]);
    assert_eq!(by_trace["trace"]["link"], format!("{page}/trace/{id}"));
    assert_eq!(by_trace["sequence"], 1, "{by_trace:#}");
    assert_eq!(by_trace["outcome"], "stored", "{by_trace:#}");
    let answer = explain_with(&stack, &["2"], &settings);
    assert_eq!(answer["trace"]["kept"], Value::Null, "{answer:#}");
    assert!(
        told(&answer).contains("it was not kept, or is gone"),
        "{answer:#}"
    );
    assert!(answer["trace"]["stored_after_ms"].is_number(), "{answer:#}");
}
