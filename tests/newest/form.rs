//! A state has one form, whether the cache was given it after a write or after it was read back.

use ganesh::event::{Data, Event, canonical_json};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::served::{serve, store};
use crate::support::Stack;
use crate::support::cache_server::ask;
use crate::support::reads::{ago, latest_by_cache, of};

/// Each is stored in another form than it came in.
const TEXTS: [&str; 8] = [
    "-0",
    "[1e2, 1.50E1, 1E-3, -0.0, 0e5]",
    r#"{"bb":1,"a":2}"#,
    r#"{"a":1,"b":2,"a":3}"#,
    r#""\u0041\/\u00e9\u0007""#,
    "[ ]",
    r#"{ "nested" : { "é" : [ true , null ] , "z" : { } } }"#,
    "[123456789012345678901234567890.10, 1e300]",
];

#[tokio::test]
async fn a_state_has_one_form_after_a_write_and_after_a_fill() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, &[]).await;
    let subjects: Vec<String> = (0..TEXTS.len()).map(|i| format!("s{i}")).collect();
    for subject in &subjects {
        store(
            &stack,
            &[of(subject, &format!("{subject}-old"), ago(1_000))],
        )
        .await;
        latest_by_cache(&ganesh, subject).await;
    }
    let states: Vec<Event> = subjects
        .iter()
        .zip(TEXTS)
        .map(|(subject, text)| Event {
            data: Data::Json(text.into()),
            ..of(subject, &format!("{subject}-new"), ago(0))
        })
        .collect();
    store(&stack, &states).await;
    let body = async |path: &str| {
        let answer = reqwest::get(format!("{}/v1/{path}", ganesh.api)).await;
        answer.unwrap().text().await.unwrap()
    };
    let mut written = Vec::new();
    for subject in &subjects {
        assert!(
            latest_by_cache(&ganesh, subject)
                .await
                .cache
                .contains("hit")
        );
        written.push(body(&format!("subjects/{subject}/latest")).await);
    }
    ask::<()>(&stack.cache, &["FLUSHALL"]).await;
    for (subject, written) in subjects.iter().zip(&written) {
        let stored: String = sqlx::query_scalar("SELECT data::text FROM events WHERE id = $1")
            .bind(format!("{subject}-new"))
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        assert!(
            written.contains(&format!("\"data\":{stored}}}")),
            "{written} {stored}"
        );
        let filled = body(&format!("subjects/{subject}/latest")).await;
        assert_eq!(*written, filled);
        assert_eq!(filled, body(&format!("subjects/{subject}/latest")).await);
        assert_eq!(filled, body(&format!("events/{subject}-new")).await);
    }
}

/// JSON in any way of writing it.
fn json() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        select(vec![
            "a",
            "é",
            "😀",
            "\u{7f}",
            "\\n",
            "\\u0041",
            "\\ud83d\\ude00",
            "\\/",
            "\\\"",
            "\\\\",
            "\\u0007",
            "\\u001F",
            "\\b",
            "\\f",
            "\\r",
            "\\t",
            "1e9",
            "{",
            "]",
        ])
        .prop_map(str::to_owned),
        any::<char>()
            .prop_filter("needs no escape", |c| !c.is_control()
                && *c != '"'
                && *c != '\\')
            .prop_map(String::from),
    ];
    let text = vec(part, 0..6).prop_map(|parts| format!("\"{}\"", parts.concat()));
    // Few, so that some are there twice.
    let name = select(vec!["a", "b", "\\u0061", "aa", "é", "B", ""]);
    let name = name.prop_map(|name| format!("\"{name}\""));
    let blank = || select(vec!["", " ", "\n\t", "\r "]);
    let number = "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?";
    let leaf = prop_oneof![
        3 => number,
        2 => text,
        1 => select(vec!["null", "true", "false", "[]", "{ }", "-0", "1E+1000", "0e-1000"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        let value = (blank(), inner, blank())
            .prop_map(|(before, value, behind)| format!("{before}{value}{behind}"));
        let member = (blank(), name.clone(), blank(), value.clone())
            .prop_map(|(before, name, behind, value)| format!("{before}{name}{behind}:{value}"));
        prop_oneof![
            vec(value, 1..5).prop_map(|values| format!("[{}]", values.join(","))),
            vec(member, 1..5).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

#[tokio::test]
async fn the_form_of_a_state_is_that_of_postgres() {
    let stack = Stack::start().await;
    let mut runner = TestRunner::default();
    let texts: Vec<String> = (0..2_000)
        .map(|_| json().new_tree(&mut runner).unwrap().current())
        .collect();
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT text::jsonb::text FROM unnest($1::text[]) AS text")
            .bind(&texts)
            .fetch_all(&stack.pool)
            .await
            .unwrap();
    for (text, stored) in texts.iter().zip(stored) {
        let limit = stored.len();
        assert_eq!(
            canonical_json(text, limit).as_ref(),
            Some(&stored),
            "{text}"
        );
        assert_eq!(canonical_json(&stored, limit).as_ref(), Some(&stored));
        assert_eq!(canonical_json(text, limit - 1), None, "{text}");
    }
    // What Postgres refuses has no form.
    for text in [
        r#""\ud800""#,
        r#"{"a":"\u0000"}"#,
        "1e1001",
        "[1",
        "",
        "nul",
        "1 2",
    ] {
        assert_eq!(canonical_json(text, 1_000), None, "{text}");
    }
}
