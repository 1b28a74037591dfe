//! `GET /v1/events/{id}`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ganesh::config::PartitionInterval;
use ganesh::event::{Data, Event, Timestamp};
use ganesh::storage::partitions::partition_of;
use serde_json::json;

use super::client::{get, store};
use crate::support::events::{event, events, publish};
use crate::support::keys::wait_until_so_many_wait;
use crate::support::{Stack, eventually};

/// 2023-11-14T22:13:20Z and a microsecond.
const TIME: Timestamp = Timestamp::from_micros(1_700_000_000_000_001);
const TEXT: &str = "2023-11-14T22:13:20.000001Z";

#[tokio::test]
async fn an_event_comes_back_as_it_was_published() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let extensions = BTreeMap::from([("tenant".to_owned(), "ü 1".to_owned())]);
    let data = r#"{"a":[1,2.5,"ü",null,true],"b":{}}"#;
    let with_json = Event {
        time: TIME,
        dataschema: Some("https://example.com/schema".to_owned()),
        extensions,
        data: Data::Json(data.into()),
        ..event("json")
    };
    let bytes: Vec<u8> = (0..=255).collect();
    let with_bytes = Event {
        time: TIME,
        datacontenttype: Some("application/octet-stream".to_owned()),
        data: Data::Binary(bytes.into()),
        ..event("bytes")
    };
    let without = Event {
        time: TIME,
        subject: None,
        datacontenttype: None,
        data: Data::None,
        ..event("none")
    };
    store(&stack, &[with_json, with_bytes, without]).await;
    let answer = get(&ganesh, "/v1/events/json").await;
    assert_eq!(
        answer.header("content-type"),
        Some("application/cloudevents+json")
    );
    let expected = json!({
        "specversion": "1.0", "id": "json", "source": "/test", "type": "com.example.test",
        "subject": "subject-4", "time": TEXT, "datacontenttype": "application/json",
        "dataschema": "https://example.com/schema", "tenant": "ü 1",
        "data": {"a": [1, 2.5, "ü", null, true], "b": {}},
    });
    assert_eq!(answer.json(), expected);
    let answer = get(&ganesh, "/v1/events/bytes").await.json();
    let all: Vec<u8> = (0..=255).collect();
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, all);
    assert_eq!(answer["data_base64"], encoded);
    assert_eq!(answer["datacontenttype"], "application/octet-stream");
    assert_eq!(answer.get("data"), None);
    let answer = get(&ganesh, "/v1/events/none").await.json();
    let expected = json!({
        "specversion": "1.0", "id": "none", "source": "/test", "type": "com.example.test",
        "time": TEXT,
    });
    assert_eq!(answer, expected);
}

fn version(source: &str, micros: i64) -> Event {
    Event {
        source: source.to_owned(),
        time: Timestamp::from_micros(TIME.micros() + micros),
        data: Data::Json(Bytes::from(micros.to_string())),
        ..event("i/d")
    }
}

#[tokio::test]
async fn of_several_events_with_an_id_the_newest_answers_and_link_names_the_others() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let all = [version("/a b", 0), version("/c", 2), version("/c", 1)];
    store(&stack, &all).await;
    let link = |source, fraction| {
        let time = format!("2023-11-14T22%3A13%3A20.00000{fraction}Z");
        format!("</v1/events/i%2Fd?source={source}&time={time}>; rel=\"alternate\"")
    };
    let (a, c1) = (link("%2Fa%20b", 1), link("%2Fc", 2));
    let newest = get(&ganesh, "/v1/events/i%2Fd").await;
    assert_eq!(newest.json()["data"], 2);
    assert_eq!(newest.header("link"), Some(format!("{c1}, {a}").as_str()));
    let of_c = get(&ganesh, "/v1/events/i%2Fd?source=/c").await;
    assert_eq!(of_c.json()["data"], 2);
    assert_eq!(of_c.header("link"), Some(c1.as_str()));
    let of_a = get(&ganesh, "/v1/events/i%2Fd?source=%2Fa+b").await;
    assert_eq!(of_a.json()["data"], 0);
    assert_eq!(of_a.header("link"), None);
    let path = "/v1/events/i%2Fd?source=/c&time=2023-11-14T23:13:20.000002%2B01:00";
    let exactly = get(&ganesh, path).await;
    assert_eq!(exactly.json()["data"], 1);
    // With a time, only events of that time match.
    assert_eq!(exactly.header("link"), None);
    // A link leads where it says.
    let target = c1.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    assert_eq!(get(&ganesh, target).await.json()["data"], 1);
    let path = format!("/v1/events/i%2Fd?source=/other&time={TEXT}");
    get(&ganesh, &path).await.problem(404, "Not Found");
}

#[tokio::test]
async fn an_event_is_found_in_whichever_partition_it_is() {
    const MICROS_A_DAY: i64 = 86_400_000_000;
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let now = Timestamp::now().micros();
    for days in [-3_000, -2, -1, 0, 1, 3_000] {
        let time = Timestamp::from_micros(now + days * MICROS_A_DAY);
        let event = Event {
            time,
            ..event(&format!("day{days}"))
        };
        store(&stack, std::slice::from_ref(&event)).await;
        let by_id = format!("/v1/events/{}", event.id);
        let exactly = format!("{by_id}?source=/test&time={time}");
        for path in [by_id, exactly] {
            let answer = get(&ganesh, &path).await;
            assert_eq!(answer.json()["time"], time.to_string(), "{path}");
        }
    }
}

#[tokio::test]
async fn clients_that_hang_up_keep_no_connection_from_the_writers() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let lock = stack.lock("events_default", "ACCESS EXCLUSIVE").await;
    let impatient = reqwest::Client::builder().timeout(Duration::from_millis(200));
    let impatient = impatient.build().unwrap();
    for number in 0..20 {
        let read = impatient.get(format!("{}/v1/events/e-{number}", ganesh.api));
        assert!(read.send().await.unwrap_err().is_timeout());
    }
    let began = Instant::now();
    publish(&stack.jetstream().await, &events("e", 100)).await;
    stack.wait_until_drained().await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    // Nor one of the server's, for which the statement's own limit would take 30 s.
    wait_until_so_many_wait(&stack, 0).await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    lock.rollback().await.unwrap();
    assert_eq!(stack.rows().await, 100);
}

/// Without statistics Postgres expects many rows of an id, and its newest one soon by the index on time.
#[tokio::test]
async fn an_event_is_found_by_its_id_in_a_partition_that_nobody_analysed() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let partition = partition_of(Timestamp::now(), PartitionInterval::Day).name;
    let fill = format!(
        "ALTER TABLE {partition} SET (autovacuum_enabled = off); \
         INSERT INTO {partition} (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         SELECT 'event-' || n, '/many', date_trunc('day', now(), 'UTC') + n * interval '1 ms', 't', \
         'events.test', n, now(), '' FROM generate_series(1, 200000) AS n"
    );
    sqlx::raw_sql(&fill).execute(&stack.pool).await.unwrap();
    let (mut found, mut counted) = (Duration::MAX, Duration::MAX);
    for _ in 0..10 {
        let began = Instant::now();
        let answer = get(&ganesh, "/v1/events/event-1").await;
        found = found.min(began.elapsed());
        assert_eq!(answer.json()["id"], "event-1");
        let began = Instant::now();
        assert_eq!(stack.rows().await, 200_000);
        counted = counted.min(began.elapsed());
    }
    assert!(found < counted, "{found:?}, counting {counted:?}");
}

#[tokio::test]
async fn cache_status_and_age_say_where_an_event_came_from() {
    let mut stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let all = [version("/a", 0), version("/b", 0)];
    store(&stack, &all).await;
    let exactly = format!("/v1/events/i%2Fd?source=/a&time={TEXT}");
    let at_a_time = format!("/v1/events/i%2Fd?time={TEXT}");
    let unknown = format!("/v1/events/unknown?source=/a&time={TEXT}");
    for (path, status) in [(exactly.as_str(), 200), (&at_a_time, 200), (&unknown, 404)] {
        let mut first = get(&ganesh, path).await;
        // Not known yet, or not any more for a moment.
        eventually(path, || async {
            get(&ganesh, path).await.header("cache-status") == Some("ganesh; hit")
        })
        .await;
        let mut hit = get(&ganesh, path).await;
        while hit.header("cache-status") != Some("ganesh; hit") {
            first = hit;
            hit = get(&ganesh, path).await;
        }
        assert_eq!((first.status, hit.status), (status, status));
        assert_eq!(first.body, hit.body);
        for name in ["etag", "link", "content-type"] {
            assert_eq!(first.header(name), hit.header(name), "{path}: {name}");
        }
        assert!(hit.header("age").is_some());
    }
    stack.cache.kill();
    let bypass = get(&ganesh, &exactly).await;
    assert_eq!(bypass.header("cache-status"), Some("ganesh; fwd=bypass"));
    assert_eq!(bypass.header("age"), None);
}
