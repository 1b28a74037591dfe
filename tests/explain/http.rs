//! `GET /v1/explain`: the answers of the command, within the limits of the API.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{explain_with, not_asked};
use crate::http::client::get;
use crate::support::events::{event, events, publish, publish_invalid};
use crate::support::{Ganesh, Stack};

async fn explain(ganesh: &Ganesh, query: &str) -> Value {
    let answer = get(ganesh, &format!("/v1/explain?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

#[tokio::test]
async fn the_answer_is_that_of_the_command() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let stored = event("e");
    publish(&jetstream, &[stored.clone(), stored.clone()]).await;
    publish_invalid(&jetstream).await;
    stack.wait_until_drained().await;
    let settled = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
    ganesh.wait_for_metric(settled, 1.0).await;
    let trace = explain(&ganesh, "what=1").await;
    let trace = trace["trace"]["id"].as_str().unwrap();
    let time = stored.time.to_string();
    let admin = ganesh.admin_address();
    let questions: [(&[&str], String, &str); 10] = [
        (&["1"], "what=1".to_owned(), "stored"),
        (
            &["--sequence", "2"],
            "what=2&as=sequence".to_owned(),
            "duplicate",
        ),
        (&["3"], "what=3".to_owned(), "dead_letter"),
        (&["4"], "what=4".to_owned(), "not_in_stream_yet"),
        (&["e"], "what=e".to_owned(), "stored"),
        (&["--id", "e"], "what=e&as=id".to_owned(), "stored"),
        (
            &["e", "--source", "/test", "--time", &time],
            format!("what=e&source=/test&time={time}"),
            "stored",
        ),
        (&[trace], format!("what={trace}"), "stored"),
        (&["subject-1"], "what=subject-1".to_owned(), "stored"),
        (
            &["--subject", "subject-1"],
            "what=subject-1&as=subject".to_owned(),
            "stored",
        ),
    ];
    for (arguments, query, outcome) in questions {
        let by_http = explain(&ganesh, &query).await;
        assert_eq!(by_http["outcome"], outcome, "{query}: {by_http:#}");
        let by_command = explain_with(&stack, arguments, &[("GANESH_ADMIN_ADDR", &admin)]);
        assert_eq!(by_http, by_command, "{query}");
    }
    // The connection of a question is no matter of the service's log.
    let log = ganesh.log();
    let lost = log.lines().filter(|line| line.contains("NATS connection"));
    assert_eq!(lost.count(), 0, "{log}");
}

#[tokio::test]
async fn a_waiting_message_and_its_rate_are_told_within_the_limit() {
    let stack = Stack::start().await;
    // It holds few messages, and its writers wait.
    let few = [
        ("GANESH_MAX_IN_FLIGHT", "16"),
        ("GANESH_BATCH_MAX_EVENTS", "16"),
    ];
    let ganesh = stack.serve(&few).await;
    let lock = stack.lock("events", "SHARE").await;
    publish(&stack.jetstream().await, &events("e", 40)).await;
    stack.wait_until_writers_wait().await;
    ganesh
        .wait_for_metric("ganesh_in_flight_messages", 16.0)
        .await;
    let answer = explain(&ganesh, "what=40").await;
    assert_eq!(answer["outcome"], "waiting", "{answer:#}");
    assert_eq!(answer["waiting"]["rate_per_second"], 0.0, "{answer:#}");
    let answer = explain(&ganesh, "what=1").await;
    assert_eq!(answer["outcome"], "held", "{answer:#}");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn each_place_may_be_silent_and_the_others_answer_in_time() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &[event("e")]).await;
    stack.wait_until_drained().await;
    let in_time = async |query: &str| {
        let began = Instant::now();
        let answer = get(&ganesh, &format!("/v1/explain?{query}")).await;
        let took = began.elapsed();
        assert!(took < Duration::from_millis(4_900), "{query}: {took:?}");
        answer
    };
    stack.nats.pause();
    let answer = in_time("what=e").await.json();
    stack.nats.resume();
    assert_eq!(answer["outcome"], "stored", "{answer:#}");
    assert!(not_asked(&answer).contains(&"stream"), "{answer:#}");
    let postgres = stack.postgres.take().unwrap();
    postgres.pause();
    let answer = in_time("what=1").await.json();
    assert_eq!(answer["outcome"], "not_known", "{answer:#}");
    assert_eq!(answer["stream"]["holds"], true, "{answer:#}");
    // The dead letters come after Postgres, and have their time.
    let gaps = not_asked(&answer);
    assert!(
        gaps.contains(&"postgres") && !gaps.contains(&"dead_letters"),
        "{answer:#}"
    );
    // Nobody answers.
    stack.nats.pause();
    let answer = in_time("what=e").await;
    let status = answer.status;
    assert!([503, 504].contains(&status), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let title = if status == 503 {
        "Service Unavailable"
    } else {
        "Gateway Timeout"
    };
    let detail = answer.problem(status, title);
    assert!(
        detail.contains("Postgres") && detail.contains("the dead letters"),
        "{detail}"
    );
    postgres.resume();
    stack.nats.resume();
}
