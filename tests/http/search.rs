//! `GET /v1/events`: each search is compared with the same one over what the test published.

use std::collections::BTreeSet;

use ganesh::event::{Data, Event, Timestamp};
use serde_json::{Value, json};

use super::client::{Answer, get, store};
use crate::support::events::event;
use crate::support::{Ganesh, Stack};

const DAY: i64 = 86_400_000_000;

/// The path of the next page.
pub fn next_of(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let (path, relation) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert_eq!(relation, "; rel=\"next\"");
    Some(path.to_owned())
}

/// A page's events.
pub fn events_of(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/cloudevents-batch+json")
    );
    answer.json().as_array().unwrap().clone()
}

/// All events of a search, page by page.
pub async fn walk(ganesh: &Ganesh, query: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut path = Some(format!("/v1/events?{query}"));
    while let Some(asked) = path {
        let page = get(ganesh, &asked).await;
        found.extend(events_of(&page));
        path = next_of(&page);
    }
    found
}

/// Whether a member equals a number.
fn is_number(value: &Value, number: f64) -> bool {
    value
        .as_f64()
        .is_some_and(|n| (n - number).abs() < f64::EPSILON)
}

pub fn data(event: &Event) -> Value {
    match &event.data {
        Data::Json(text) => serde_json::from_slice(text).unwrap(),
        _ => Value::Null,
    }
}

/// Events of several types, sources, subjects and partitions; groups of seven have the same time.
pub fn corpus(now: i64) -> Vec<Event> {
    let of = |i: i64| {
        let days = [0, 0, -1, -2, -400, 0, 0, 900][usize::try_from(i / 7 % 8).unwrap()];
        let subject = match i % 6 {
            0 => None,
            1 => Some(format!("device_{}", i % 10)),
            2 => Some(format!("device%{}", i % 10)),
            _ => Some(format!("device-{}", i % 10)),
        };
        let number = i % 20 - 5;
        let json = match i % 9 {
            0 => {
                json!({"n": number, "text": format!("a.{i}"), "flag": true, "a.b": {"c": i / 9 % 3}})
            }
            1 => json!({"n": number.to_string(), "text": "50% off", "flag": false}),
            2 => json!({"n": 7.5, "text": null, "list": [i % 4, "x"]}),
            3 => json!([number, {"n": 1}]),
            4 => json!({"n": {"n": 1}, "text": "Zürich"}),
            _ => json!({"n": number, "text": format!("text-{}", i % 5), "list": ["y", i % 4]}),
        };
        Event {
            source: ["/a", "/b c", "/ü"][usize::try_from(i % 3).unwrap()].to_owned(),
            event_type: format!("com.example.{}", i % 4),
            subject,
            time: Timestamp::from_micros(now + days * DAY - i / 7 * 1_000_000),
            data: match i % 13 {
                12 => Data::Binary("\u{1}bytes".into()),
                _ => Data::Json(json.to_string().into()),
            },
            datacontenttype: Some(
                if i % 13 == 12 {
                    "text/plain"
                } else {
                    "application/json"
                }
                .to_owned(),
            ),
            ..event(&format!("e-{i:03}"))
        }
    };
    (0..420).map(of).collect()
}

pub type Matches = fn(&Event, &Value) -> bool;

pub const SEARCHES: &[(&str, Matches)] = &[
    ("", |_, _| true),
    ("type=com.example.1", |event, _| {
        event.event_type == "com.example.1"
    }),
    ("source=/b+c", |event, _| event.source == "/b c"),
    ("source=%2F%C3%BC&type=com.example.2", |event, _| {
        event.source == "/ü" && event.event_type == "com.example.2"
    }),
    ("subject=device-3", |event, _| {
        event.subject.as_deref() == Some("device-3")
    }),
    ("subject_prefix=device_", |event, _| {
        event
            .subject
            .as_ref()
            .is_some_and(|subject| subject.starts_with("device_"))
    }),
    ("subject_prefix=device%25", |event, _| {
        event
            .subject
            .as_ref()
            .is_some_and(|subject| subject.starts_with("device%"))
    }),
    ("subject_prefix=device", |event, _| event.subject.is_some()),
    ("data.n=eq.3", |_, data| {
        is_number(&data["n"], 3.0) || data["n"] == "3"
    }),
    ("data.n=eq.3.0", |_, data| is_number(&data["n"], 3.0)),
    ("data.n=eq.75e-1", |_, data| is_number(&data["n"], 7.5)),
    ("data.n=neq.3", |_, data| match &data["n"] {
        Value::String(text) => text != "3",
        number => number.is_number() && !is_number(number, 3.0),
    }),
    ("data.n=gt.10", |_, data| match &data["n"] {
        Value::String(text) => text.as_str() > "10",
        number => number.as_f64().is_some_and(|number| number > 10.0),
    }),
    ("data.n=gte.-4&data.n=lt.2", |_, data| match &data["n"] {
        Value::String(text) => ("-4".."2").contains(&text.as_str()),
        number => number.as_f64().is_some_and(|n| (-4.0..2.0).contains(&n)),
    }),
    ("data.n=lte.-5", |_, data| match &data["n"] {
        Value::String(text) => text.as_str() <= "-5",
        number => number.as_f64().is_some_and(|n| n <= -5.0),
    }),
    ("data.n=in.(1,2,\"7.5\")", |_, data| match &data["n"] {
        Value::String(text) => ["1", "2", "7.5"].contains(&text.as_str()),
        number => [1.0, 2.0, 7.5].iter().any(|n| is_number(number, *n)),
    }),
    ("data.text=eq.a.9", |_, data| data["text"] == "a.9"),
    ("data.text=neq.x", |_, data| data["text"].is_string()),
    ("data.text=gt.text-3", |_, data| {
        data["text"].as_str().is_some_and(|text| text > "text-3")
    }),
    ("data.text=in.(text-1,\"50%25+off\")", |_, data| {
        data["text"] == "text-1" || data["text"] == "50% off"
    }),
    ("data.text=like.*xt-_", |_, data| {
        data["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("text-"))
    }),
    ("data.text=like.50%5C%25*", |_, data| {
        data["text"] == "50% off"
    }),
    ("data.text=is.null", |_, data| data["text"].is_null()),
    ("data.text=is.not_null", |_, data| !data["text"].is_null()),
    ("data.flag=is.true", |_, data| data["flag"] == true),
    ("data.flag=eq.false", |_, data| data["flag"] == false),
    ("data.\"a.b\".c=eq.2", |_, data| data["a.b"]["c"] == 2),
    ("data.list.1=eq.x", |_, data| data["list"][1] == "x"),
    ("data.0=is.not_null", |_, data| data.is_array()),
    ("data.n.n=eq.1&type=com.example.0", |event, data| {
        data["n"]["n"] == 1 && event.event_type == "com.example.0"
    }),
];

/// What a search has to answer: ids, newest first.
fn expected(corpus: &[Event], matches: impl Fn(&Event) -> bool) -> Vec<String> {
    let mut found: Vec<&Event> = corpus.iter().filter(|event| matches(event)).collect();
    found.sort_by_key(|event| (event.time, event.source.as_bytes(), event.id.as_bytes()));
    found.reverse();
    found.iter().map(|event| event.id.clone()).collect()
}

fn ids(events: &[Value]) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    events.iter().map(id).collect()
}

#[tokio::test]
async fn every_search_answers_what_the_same_one_in_rust_does() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let now = Timestamp::now().micros() / 1_000_000 * 1_000_000;
    let corpus = corpus(now);
    store(&stack, &corpus).await;
    for (query, matches) in SEARCHES {
        let expected = expected(&corpus, |event| matches(event, &data(event)));
        assert!(!expected.is_empty(), "{query} finds nothing");
        for limit in [3, 1_000] {
            let found = walk(&ganesh, &format!("{query}&limit={limit}")).await;
            assert_eq!(ids(&found), expected, "{query}, {limit} a page");
        }
    }
    // A range has its first instant, and not its last one.
    let times: BTreeSet<Timestamp> = corpus.iter().map(|event| event.time).collect();
    let times: Vec<Timestamp> = times.into_iter().collect();
    for (from, to) in [(0, 1), (3, 20), (10, times.len() - 1)] {
        let (from, to) = (times[from], times[to]);
        let expected = expected(&corpus, |event| (from..to).contains(&event.time));
        let found = walk(&ganesh, &format!("from={from}&to={to}&limit=10")).await;
        assert_eq!(ids(&found), expected, "{from} to {to}");
    }
}

#[tokio::test]
async fn events_of_a_page_are_those_that_the_event_itself_answers() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let corpus = corpus(Timestamp::now().micros());
    store(&stack, &corpus[..40]).await;
    assert_eq!(
        events_of(&get(&ganesh, "/v1/events?type=none").await),
        Vec::<Value>::new()
    );
    for event in walk(&ganesh, "").await {
        let path = format!("/v1/events/{}", event["id"].as_str().unwrap());
        assert_eq!(get(&ganesh, &path).await.json(), event);
    }
}

#[tokio::test]
async fn a_link_keeps_the_parameters_and_any_cursor_is_replaced() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &corpus(Timestamp::now().micros())).await;
    let query = "limit=2&source=%2Fb+c&data.n=in.(1,\"2\")";
    let first = get(&ganesh, &format!("/v1/events?{query}")).await;
    let next = next_of(&first).unwrap();
    let encoded = query.replace('"', "%22");
    assert!(
        next.starts_with(&format!("/v1/events?{encoded}&cursor=")),
        "{next}"
    );
    let second = get(&ganesh, &next.replace("cursor", "%63ursor")).await;
    assert_ne!(second.body, first.body);
    let third = next_of(&second).unwrap();
    assert_eq!(third.matches("ursor=").count(), 1, "{third}");
    assert_eq!(events_of(&get(&ganesh, &next).await), events_of(&second));
}

#[tokio::test]
async fn a_page_ends_at_8_mib_and_an_event_too_large_comes_without_its_data() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[event("first")]).await;
    let insert = "INSERT INTO events (id, source, time, type, subject, data, nats_subject, stream_seq, \
         published_at, trace_id) \
         SELECT 'e' || n, '/large', now() + n * interval '1 ms', 'large', 's', \
         CASE n WHEN 7 THEN to_jsonb(repeat('x', 17000000)) ELSE to_jsonb(repeat('x', 3000000)) END, \
         'events.test', 0, now(), '' FROM generate_series(0, 9) AS n";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    let mut path = Some("/v1/events?source=/large".to_owned());
    let mut pages = Vec::new();
    while let Some(asked) = path {
        let page = get(&ganesh, &asked).await;
        assert!(page.body.len() < 12_000_000, "{}", page.body.len());
        pages.push(events_of(&page));
        path = next_of(&page);
    }
    assert!(pages.len() > 3, "{} pages", pages.len());
    let all = pages.concat();
    let expected: Vec<String> = (0..10).rev().map(|n| format!("e{n}")).collect();
    assert_eq!(ids(&all), expected);
    let large = &all[2];
    assert_eq!(large.get("data"), None);
    let why = large["ganeshomitted"].as_str().unwrap();
    assert!(why.contains("larger than 16 MiB"), "{why}");
    assert_eq!(all[3]["data"].as_str().map(str::len), Some(3_000_000));
}

/// Whether there is more is the next page's to say: looking for it takes time.
#[tokio::test]
async fn a_full_page_ends_at_once_and_the_last_one_can_be_empty() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &corpus(Timestamp::now().micros())[..7]).await;
    let page = get(&ganesh, "/v1/events?limit=7").await;
    assert_eq!(events_of(&page).len(), 7);
    let next = next_of(&page).expect("a full page names the next one");
    let last = get(&ganesh, &next).await;
    assert_eq!(events_of(&last), Vec::<Value>::new());
    assert_eq!(next_of(&last), None);
    let page = get(&ganesh, "/v1/events?limit=8").await;
    assert_eq!((events_of(&page).len(), next_of(&page)), (7, None));
}

/// ganesh writes no such row.
#[tokio::test]
async fn rows_without_a_source_are_found_wherever_a_page_ends() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let insert = "INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         SELECT 'e' || n, CASE n % 3 WHEN 0 THEN '/a' ELSE '' END, \
         date_trunc('second', now()) + n / 5 * interval '1 s', 't', 'events.test', 0, now(), '' \
         FROM generate_series(0, 9) AS n";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    let expected = ["e9", "e6", "e8", "e7", "e5", "e3", "e0", "e4", "e2", "e1"];
    for limit in 1..4 {
        let found = walk(&ganesh, &format!("limit={limit}")).await;
        assert_eq!(ids(&found), expected, "{limit} a page");
    }
}
