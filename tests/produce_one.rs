//! One event that somebody wants to look up afterwards.

use serde_json::Value;

use crate::support::ganesh::run;
use crate::support::{Stack, eventually};

/// The address of the curl command behind this word.
fn address<'a>(said: &'a str, word: &str) -> &'a str {
    let line = said.lines().find(|line| line.starts_with(word));
    line.and_then(|line| line.split("curl ").nth(1))
        .unwrap_or_else(|| panic!("no {word}: {said}"))
}

async fn get(url: &str) -> Option<Value> {
    let answer = reqwest::get(url).await.unwrap();
    answer.error_for_status().ok()?.json().await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_event_is_printed_with_the_commands_that_find_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let arguments = [
        "produce",
        "--count",
        "1",
        "--subject",
        "device 1",
        "--type",
        "com.example.reading",
        "--data",
        r#"{"celsius":21}"#,
        "--http-addr",
        ganesh.api.trim_start_matches("http://"),
    ];
    let output = run(Some(&stack), &arguments, &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 4, "nothing else: {said}");
    for (word, found) in [("by id", "id"), ("newest", "subject")] {
        let url = address(&said, word);
        eventually("the event is found", || async { get(url).await.is_some() }).await;
        let event = get(url).await.unwrap();
        assert_eq!(event["subject"], "device 1", "{found}");
        assert_eq!(event["type"], "com.example.reading");
        assert_eq!(event["data"]["celsius"], 21);
        assert!(said.contains(&format!("event     {}", event["id"].as_str().unwrap())));
    }
    let trace_id = said.lines().last().unwrap().split_whitespace().last();
    assert_eq!(trace_id.unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_events_are_in_the_report_and_can_be_looked_up_in_any_mode() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    for mode in ["structured", "plain"] {
        let arguments = ["produce", "--count", "3", "--mode", mode, "--json"];
        let output = run(Some(&stack), &arguments, &[]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let events = report["events"].as_array().unwrap();
        assert_eq!(events.len(), 3, "{report}");
        for event in events {
            let url = format!("{}/v1/events/{}", ganesh.api, event["id"].as_str().unwrap());
            eventually("the event is found", || async { get(&url).await.is_some() }).await;
            assert_eq!(get(&url).await.unwrap()["type"], event["type"], "{mode}");
        }
    }
    let output = run(Some(&stack), &["produce", "--count", "6", "--json"], &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["events"].is_null(), "{report}");
    let output = run(Some(&stack), &["produce", "--count", "6"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("distinct events  6\npublish latency  p50 "),
        "{said}"
    );
}
