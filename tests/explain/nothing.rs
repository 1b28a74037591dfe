//! A message that no place has, by the command and over HTTP.

use serde_json::Value;

use super::{asked, explain_with};
use crate::http::client::get;
use crate::support::Stack;
use crate::support::events::{event, publish};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test]
async fn what_no_place_has_is_said_not_to_be_found() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &[event("there")]).await;
    stack.wait_until_drained().await;
    let neither = "not found: neither a row nor a dead letter has it";
    let questions: [(&[&str], &str, &str, &str); 4] = [
        (
            &["nobody"],
            "nobody",
            neither,
            "the stream is not read through",
        ),
        (
            &["there", "--source", "/other"],
            "there&source=/other",
            neither,
            "the stream is not read through",
        ),
        (
            &[TRACE_ID],
            TRACE_ID,
            neither,
            "the stream is not read through",
        ),
        (
            &["--subject", "nobody"],
            "nobody&as=subject",
            "not found: no row has this subject",
            "a message without a row",
        ),
    ];
    for (arguments, query, summary, open) in questions {
        let output = asked(&stack, arguments, &[]);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} {output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(&format!("{summary}\n")), "{said}");
        assert!(said.contains(open), "{open:?} in {said}");
        let output = asked(&stack, &[&["--json"], arguments].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["outcome"], "not_found", "{answer:#}");
        assert_eq!(answer["sequence"], Value::Null);
        let answer = get(&ganesh, &format!("/v1/explain?what={query}")).await;
        let detail = answer.problem(404, "Not Found");
        assert!(detail.starts_with(summary), "{detail}");
        assert!(detail.contains(open), "{open:?} in {detail}");
    }
}

/// Who could have named it was not asked: that is no answer.
#[tokio::test]
async fn what_was_not_looked_for_everywhere_is_not_known() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let away = [("POSTGRES_URL", "postgresql://127.0.0.1:1/db")];
    let answer = explain_with(&stack, &["nobody"], &away);
    assert_eq!(answer["outcome"], "not_known", "{answer:#}");
    let away = [("JAEGER_URL", "http://127.0.0.1:1")];
    let answer = explain_with(&stack, &[TRACE_ID], &away);
    assert_eq!(answer["outcome"], "not_known", "{answer:#}");
}
