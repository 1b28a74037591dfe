//! What ganesh can live with, and an operator should know: said by `serve` and `doctor`.

use ganesh::event::Timestamp;
use serde_json::json;

use super::{ask, doctor};
use crate::support::events::{events, publish};
use crate::support::{Ganesh, Stack, eventually};

const PAUSE: &str = "CONSUMER.PAUSE.EVENTS.ganesh";

async fn said_once(ganesh: &Ganesh, words: &str) {
    eventually(words, || async { ganesh.log().contains(words) }).await;
    assert_eq!(ganesh.log().matches(words).count(), 1, "{}", ganesh.log());
}

fn assert_doctor_warns(stack: &Stack, settings: &[(&str, &str)], words: &[&str]) {
    let (code, said) = doctor(stack, settings);
    let fits = |line: &str| line.starts_with("warning") && words.iter().all(|w| line.contains(w));
    assert!(
        code == Some(0) && said.lines().any(fits),
        "{words:?}: {said}"
    );
}

#[tokio::test]
async fn a_paused_consumer_is_said_at_start_and_while_ganesh_runs_and_waited_for() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    let in_an_hour = Timestamp::from_micros(Timestamp::now().micros() + 3_600_000_000);
    let pause = json!({ "pause_until": in_an_hour.to_string() });
    ask(&jetstream, PAUSE, &pause).await;
    let words = "consumer ganesh: it is paused";
    assert_doctor_warns(&stack, &[], &[words, "unless somebody resumes it"]);
    let ganesh = stack.serve(&[]).await;
    said_once(&ganesh, words).await;
    publish(&jetstream, &events("e", 10)).await;
    ask(&jetstream, PAUSE, &json!({})).await;
    stack.wait_for_rows(10).await;
    ganesh.terminate().await;

    let ganesh = stack.serve(&[]).await;
    ask(&jetstream, PAUSE, &pause).await;
    said_once(&ganesh, words).await;
    assert!(ganesh.terminate().await.success());
}

#[tokio::test]
async fn settings_that_differ_from_the_stream_that_exists_are_said() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let settings = [
        ("GANESH_STREAM_MAX_AGE", "2d"),
        ("GANESH_STREAM_MAX_BYTES", "5GiB"),
        ("GANESH_SUBJECTS", "events.a,events.b"),
    ];
    let words = [
        "stream EVENTS: it exists",
        "max_age is 604800s (GANESH_STREAM_MAX_AGE is 172800s)",
        "max_bytes is 10737418240 (GANESH_STREAM_MAX_BYTES is 5368709120)",
        "subjects are events.> (GANESH_SUBJECTS is events.a,events.b)",
    ];
    assert_doctor_warns(&stack, &settings, &words);
    let ganesh = stack.serve(&settings).await;
    said_once(&ganesh, words[0]).await;
    for word in words {
        assert!(ganesh.log().contains(word), "{word}: {}", ganesh.log());
    }
    ganesh.terminate().await;
    let equal = stack.serve(&[]).await;
    assert!(!equal.log().contains(words[0]), "{}", equal.log());
}
