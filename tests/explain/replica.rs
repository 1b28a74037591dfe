//! The stages of a message that a replica remembers.

use std::time::Duration;

use serde_json::Value;

use super::{asked, explain_with, not_asked, told};
use crate::http::client::get;
use crate::support::Stack;
use crate::support::events::{event, publish};

/// The last member of a chain of names.
fn member<'a>(answer: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(answer, |value, name| &value[*name])
}

#[tokio::test]
async fn the_replica_that_is_asked_tells_the_stages_of_what_it_remembers() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let lock = stack.lock("events", "SHARE").await;
    publish(&stack.jetstream().await, &[event("slow")]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    let settled = "ganesh_messages_settled_total{outcome=\"stored\"}";
    ganesh.wait_for_metric(settled, 1.0).await;
    let address = ganesh.admin_address();
    let by_command = explain_with(&stack, &["1"], &[("GANESH_ADMIN_ADDR", &address)]);
    let by_http = get(&ganesh, "/v1/explain?what=1").await.json();
    for answer in [by_command, by_http] {
        let remembered = &answer["remembered"];
        assert_eq!(remembered["outcome"], "stored", "{answer:#}");
        assert_eq!(remembered["deliveries"], 1, "{answer:#}");
        let stages = remembered["stages"].as_array().unwrap();
        let names: Vec<_> = stages.iter().map(|stage| &stage["stage"]).collect();
        let all = ["stream", "decode", "queue", "store", "cache", "settle"];
        assert_eq!(names, all, "{answer:#}");
        let of_store = stages[3]["milliseconds"].as_f64().unwrap();
        assert!(of_store > 100.0, "{answer:#}");
        let total = remembered["total_ms"].as_f64().unwrap();
        assert!(total >= of_store, "{answer:#}");
        let told = told(&answer);
        assert!(
            told.contains("the replica says: settled it as stored"),
            "{told}"
        );
        assert!(!not_asked(&answer).contains(&"replica"), "{answer:#}");
        // By its trace alone, which neither Jaeger nor a row tells.
        let id = member(&answer, &["trace", "id"]).as_str().unwrap();
        let by_trace = get(&ganesh, &format!("/v1/explain?what={id}")).await.json();
        assert_eq!(by_trace["sequence"], 1, "{by_trace:#}");
    }
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_named() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("OTEL_SDK_DISABLED", "true")]).await;
    publish(&stack.jetstream().await, &[event("e")]).await;
    stack.wait_until_drained().await;
    let words = |admin: &str| {
        let output = asked(&stack, &["1"], &[("GANESH_ADMIN_ADDR", admin)]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = words("127.0.0.1:1");
    let expected =
        "not asked         the replica: http://127.0.0.1:1 (GANESH_ADMIN_ADDR) does not answer\n";
    assert!(said.contains(expected), "{said}");
    let said = words(&ganesh.admin_address());
    assert!(said.contains("telemetry is off"), "{said}");
    let answer = get(&ganesh, "/v1/explain?what=1").await.json();
    assert_eq!(answer["remembered"], Value::Null, "{answer:#}");
    assert!(not_asked(&answer).contains(&"replica"), "{answer:#}");
}
