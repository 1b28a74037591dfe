//! `GET /v1/stats`: compared with counts of what the test published.

use std::collections::BTreeMap;

use ganesh::event::{Event, Timestamp};
use serde_json::Value;

use super::client::{get, store};
use crate::support::Stack;
use crate::support::events::event;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

fn corpus(now: i64) -> Vec<Event> {
    let of = |i: i64| Event {
        time: Timestamp::from_micros(now - i * i * SECOND - i % 3 * 200 * DAY),
        event_type: format!("t{}", i % 3),
        source: format!("/{}", i % 2),
        subject: (i % 4 != 0).then(|| format!("s{}", i % 5)),
        ..event(&format!("e-{i}"))
    };
    (0..200).map(of).collect()
}

/// By the beginning of the bucket, and the value of an attribute.
type Counts = BTreeMap<(String, Option<String>), i64>;

type Attribute = fn(&Event) -> Option<String>;

fn expected(
    corpus: &[Event],
    (from, to, bucket): (i64, i64, i64),
    value: impl Fn(&Event) -> Option<String>,
) -> Counts {
    let mut counts = Counts::new();
    for event in corpus {
        let micros = event.time.micros();
        if (from..to).contains(&micros) {
            let bucket = Timestamp::from_micros(micros.div_euclid(bucket) * bucket);
            *counts
                .entry((bucket.to_string(), value(event)))
                .or_default() += 1;
        }
    }
    counts
}

fn counted(answer: &Value, group: &str) -> Counts {
    let mut counts = Counts::new();
    for count in answer["counts"].as_array().unwrap() {
        let value = count.get(group).and_then(Value::as_str).map(str::to_owned);
        let time = count["time"].as_str().unwrap().to_owned();
        let before = counts.insert((time, value), count["count"].as_i64().unwrap());
        assert_eq!(before, None, "{count} stands there twice");
    }
    counts
}

#[tokio::test]
async fn counts_are_those_of_what_was_published() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let now = Timestamp::now().micros();
    let corpus = corpus(now);
    store(&stack, &corpus).await;
    let groups: [(&str, Attribute); 4] = [
        ("", |_| None),
        ("type", |event| Some(event.event_type.clone())),
        ("source", |event| Some(event.source.clone())),
        ("subject", |event| event.subject.clone()),
    ];
    for (group, value) in groups {
        for (bucket, micros, from, to) in [
            ("1m", 60 * SECOND, now - HOUR, now),
            ("90s", 90 * SECOND, now - 5 * HOUR, now - HOUR + 1),
            ("1h", HOUR, now - 20 * DAY, now + 1),
            ("7d", 7 * DAY, now - 700 * DAY, now + 7 * DAY),
        ] {
            let [from_text, to_text] = [from, to].map(|t| Timestamp::from_micros(t).to_string());
            let group_by = if group.is_empty() {
                String::new()
            } else {
                format!("&group_by={group}")
            };
            let path = format!("/v1/stats?bucket={bucket}&from={from_text}&to={to_text}{group_by}");
            let answer = get(&ganesh, &path).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            let expected = expected(&corpus, (from, to, micros), value);
            assert!(!expected.is_empty(), "{path}");
            assert_eq!(counted(&answer.json(), group), expected, "{path}");
            assert_eq!(answer.json()["from"], from_text);
        }
    }
}

#[tokio::test]
async fn the_last_hour_by_the_minute_is_what_nobody_needs_to_ask_for() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let before = Timestamp::now().micros() - 10 * SECOND;
    store(&stack, &corpus(before)).await;
    let answer = get(&ganesh, "/v1/stats").await.json();
    assert_eq!(answer["bucket_seconds"], 60.0);
    let time = |name: &str| {
        Timestamp::parse_rfc3339(answer[name].as_str().unwrap())
            .unwrap()
            .micros()
    };
    assert_eq!(time("to") - time("from"), HOUR);
    assert!(time("to") >= before);
    let range = (time("from"), time("to"), 60 * SECOND);
    assert_eq!(
        counted(&answer, ""),
        expected(&corpus(before), range, |_| None)
    );
}

#[tokio::test]
async fn more_counts_than_an_answer_may_have_are_refused() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let insert = "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, \
         published_at, trace_id) \
         SELECT n::text, '/many', now() - interval '1 s', 't' || n, 's', 'events.test', 0, now(), '' \
         FROM generate_series(1, 10001) AS n";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    let answer = get(&ganesh, "/v1/stats?group_by=type").await;
    let detail = answer.problem(400, "Bad Request");
    assert!(detail.contains("more than 10000 counts"), "{detail}");
    assert_eq!(answer.json()["parameter"], "group_by");
    let all = get(&ganesh, "/v1/stats?group_by=subject").await.json();
    let total: i64 = counted(&all, "subject").values().sum();
    assert_eq!(total, 10_001);
}
