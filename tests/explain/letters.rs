//! A message that is a dead letter, was replayed, or whose letter is gone.

use bytes::Bytes;
use ganesh::event::Data;
use serde_json::Value;

use super::{explain, in_words, told};
use crate::support::Stack;
use crate::support::events::{event, publish, publish_invalid};
use crate::support::ganesh::run;
use crate::support::ledger::letters;

const STRICT: [(&str, &str); 1] = [("GANESH_ACCEPT_PLAIN", "false")];

async fn publish_plain(stack: &Stack) {
    let jetstream = stack.jetstream().await;
    let sent = jetstream.publish("events.test", "{}".into());
    sent.await.unwrap().await.unwrap();
    stack.wait_until_drained().await;
}

fn dlq(stack: &Stack, arguments: &[&str]) {
    let output = run(Some(stack), &[&["dlq"], arguments].concat(), &[]);
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_dead_letter_says_why_and_where_it_is() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    publish_invalid(&jetstream).await;
    let mut poison = event("poison");
    poison.data = Data::Json(Bytes::from_static(br#"{"a":"\u0000"}"#));
    publish(&jetstream, &[poison]).await;
    stack.wait_until_drained().await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "dead_letter", "{answer:#}");
    let letter = &answer["dead_letter"];
    assert_eq!(letter["reason"], "missing_attribute", "{answer:#}");
    assert_eq!(letter["stream_sequence"], 1);
    assert_eq!(letter["generation"], 0);
    assert_eq!(letter["deliveries"], 1);
    assert_eq!(answer["stream"]["holds"], true);
    let trace_id = answer["trace"]["id"].as_str().unwrap();
    // By the trace id that the letter carries, and by the event's id.
    let by_trace = explain(&stack, &[trace_id]);
    assert_eq!(by_trace["dead_letter"], *letter, "{by_trace:#}");
    for question in [&["poison"][..], &["--id", "poison", "--source", "/test"]] {
        let answer = explain(&stack, question);
        assert_eq!(answer["outcome"], "dead_letter", "{answer:#}");
        assert_eq!(answer["sequence"], 2);
        assert_eq!(answer["dead_letter"]["reason"], "rejected_row");
        assert_eq!(answer["fate"]["fate"], "rejected_row");
    }
    let words = in_words(&stack, &["1"]);
    for expected in [
        "message 1 of EVENTS is a dead letter: missing_attribute\n",
        "the stream        took message 1 under events.test\n",
        "the dead letters  have it as letter ",
        "attribute \"id\" is missing",
        "it was never replayed\n",
    ] {
        assert!(words.contains(expected), "{expected:?} in {words}");
    }
}

#[tokio::test]
async fn a_replayed_message_names_its_replay_and_a_replay_its_first_message() {
    let stack = Stack::start().await;
    let strict = stack.serve(&STRICT).await;
    publish_plain(&stack).await;
    // It fails again: the letter is of the next generation, and still of this message.
    dlq(&stack, &["replay"]);
    stack.wait_until_drained().await;
    assert_eq!(letters(&stack).await.len(), 1);
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "dead_letter", "{answer:#}");
    assert_eq!(answer["dead_letter"]["generation"], 1);
    assert_eq!(answer["dead_letter"]["stream_sequence"], 2);
    let told_of_it = told(&answer);
    assert!(
        told_of_it.contains("it failed again after each replay (1)"),
        "{told_of_it}"
    );
    strict.terminate().await;
    let _ganesh = stack.serve(&[]).await;
    dlq(&stack, &["replay"]);
    stack.wait_until_drained().await;
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "replayed", "{answer:#}");
    assert_eq!(answer["replayed_as"], 3);
    assert_eq!(answer["dead_letter"], Value::Null);
    let answer = explain(&stack, &["3"]);
    assert_eq!(answer["outcome"], "stored", "{answer:#}");
    assert_eq!(answer["replay_of"]["first_sequence"], 1);
    assert_eq!(answer["replay_of"]["generation"], 2);
}

#[tokio::test]
async fn a_letter_that_is_gone_is_not_guessed_at() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let mut poison = event("poison");
    poison.data = Data::Json(Bytes::from_static(br#"{"a":"\u0000"}"#));
    publish(&stack.jetstream().await, &[poison]).await;
    stack.wait_until_drained().await;
    dlq(&stack, &["purge", "--yes"]);
    let answer = explain(&stack, &["1"]);
    assert_eq!(answer["outcome"], "dead_letter", "{answer:#}");
    assert_eq!(answer["dead_letter"], Value::Null);
    assert_eq!(answer["fate"]["fate"], "rejected_row");
    let told = told(&answer);
    assert!(
        told.contains("it was replayed or purged; which is not known"),
        "{told}"
    );
}
