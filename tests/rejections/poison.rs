//! The classic poisons, each among good events in one batch.

use async_nats::HeaderMap;
use bytes::Bytes;
use ganesh::event::{self, Data, Event};

use crate::support::Stack;
use crate::support::events::{event, events, publish};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::{Letter, assert_each_is_one_row_or_one_letter, letters};

const BATCH: [(&str, &str); 2] = [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "1")];

fn json(id: &str, body: String) -> Event {
    Event {
        data: Data::Json(Bytes::from(body)),
        ..event(id)
    }
}

/// Publishes each poison behind ten good events, all of them one batch, and gives back the
/// dead letters by the poisons' order.
async fn letters_of(poisons: &[Event]) -> Vec<Letter> {
    let stack = Stack::start().await;
    let mut all = Vec::new();
    for (i, poison) in poisons.iter().enumerate() {
        all.extend(events(&format!("good-{i}"), 10));
        all.push(poison.clone());
    }
    let ganesh = stack.serve(&BATCH).await;
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    stack.wait_until_drained().await;
    assert_eq!(
        stack.rows().await,
        10 * i64::try_from(poisons.len()).unwrap() + 1
    );
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    let found = letters(&stack).await;
    let of = |poison: &Event| found.iter().find(|letter| letter.id == poison.id);
    poisons
        .iter()
        .map(|poison| of(poison).expect("it is a letter").clone())
        .collect()
}

#[tokio::test]
async fn json_that_only_postgres_refuses_is_a_dead_letter_with_sqlstate_and_message() {
    let cases = [
        (r#"{"a":"\u0000"}"#, "22P05", "unsupported Unicode escape"),
        (r#"{"a":"\ud800"}"#, "22P02", "invalid input syntax"),
        (r#"{"a":"\udc00 low"}"#, "22P02", "invalid input syntax"),
        (r#"{"\u0000":1}"#, "22P05", "unsupported Unicode escape"),
    ];
    let poisons: Vec<Event> = cases
        .iter()
        .enumerate()
        .map(|(i, (body, _, _))| json(&format!("poison-{i}"), (*body).to_owned()))
        .collect();
    let found = letters_of(&poisons).await;
    for ((body, state, words), letter) in cases.iter().zip(found) {
        assert_eq!(letter.reason, "rejected_row", "{body}");
        let detail = &letter.detail;
        assert!(
            detail.contains(&format!("(SQLSTATE {state}")),
            "{body}: {detail}"
        );
        assert!(detail.contains(words), "{body}: {detail}");
        assert_eq!(letter.body, *body);
    }
}

#[tokio::test]
async fn keys_of_70_000_bytes_are_refused_before_postgres_whether_they_compress_or_not() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&BATCH).await;
    let jetstream = stack.jetstream().await;
    let same = "x".repeat(70_000);
    let noise: String = (0..70_000)
        .map(|_| char::from(rand::random_range(b'a'..=b'z')))
        .collect();
    for long in [same, noise] {
        let with_id = event(&long);
        let with_subject = Event {
            subject: Some(long.clone()),
            ..event("subject")
        };
        let with_source = Event {
            source: long,
            ..event("source")
        };
        // In the body: the server takes headers up to 64 KiB.
        for poison in [with_id, with_subject, with_source] {
            let (mut headers, body) = event::encode_structured(&poison);
            headers.insert("Nats-Msg-Id", format!("{:032x}", rand::random::<u128>()));
            publish_raw(&jetstream, headers, body).await;
        }
    }
    publish(&jetstream, &events("good", 10)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10);
    let found = letters(&stack).await;
    assert_eq!(found.len(), 6);
    for letter in found {
        assert_eq!(letter.reason, "attribute_too_long");
        assert!(letter.detail.contains("at most 1024"), "{}", letter.detail);
    }
}

#[tokio::test]
async fn json_nested_deeper_than_postgres_parses_is_refused_before_it() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let poisons = [json("deep", nested(100_000)), json("deeper", nested(101))];
    for letter in letters_of(&poisons).await {
        assert_eq!(letter.reason, "invalid_json");
        assert!(
            letter.detail.contains("nested too deep"),
            "{}",
            letter.detail
        );
    }
}

#[tokio::test]
async fn times_outside_of_postgres_range_are_refused_before_it() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&BATCH).await;
    let jetstream = stack.jetstream().await;
    let times = [
        "294277-01-01T00:00:00Z",
        "-4714-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "infinity",
    ];
    for (i, time) in times.iter().enumerate() {
        let (mut headers, body) = event::encode_binary(&event(&format!("time-{i}")));
        headers.insert("ce-time", *time);
        publish_raw(&jetstream, headers, body).await;
    }
    publish(&jetstream, &events("good", 10)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10);
    let found = letters(&stack).await;
    assert_eq!(found.len(), times.len());
    assert!(found.iter().all(|letter| letter.reason == "invalid_time"));
}

async fn publish_raw(
    jetstream: &async_nats::jetstream::Context,
    headers: HeaderMap,
    body: Bytes,
) -> u64 {
    let sent = jetstream.publish_with_headers("events.test", headers, body);
    sent.await.unwrap().await.unwrap().sequence
}

#[tokio::test]
async fn an_empty_body_is_an_event_without_data() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&BATCH).await;
    let jetstream = stack.jetstream().await;
    let empty = Event {
        data: Data::None,
        ..event("empty")
    };
    publish(&jetstream, &[empty]).await;
    // Neither a CloudEvent nor a body.
    publish_raw(&jetstream, HeaderMap::new(), Bytes::new()).await;
    stack.wait_until_drained().await;
    let without: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events WHERE data IS NULL AND data_bytes IS NULL")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert_eq!((without, stack.rows().await), (2, 2));
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
async fn a_body_at_the_servers_maximum_payload_is_stored_whole() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&BATCH).await;
    let client = async_nats::connect(stack.nats_url()).await.unwrap();
    let max = client.server_info().max_payload;
    let jetstream = async_nats::jetstream::new(client);
    // A plain message: no header takes anything of it.
    let text = format!("\"{}\"", "x".repeat(max - 2));
    let noise: Vec<u8> = (0..max).map(|_| rand::random_range(128..=255)).collect();
    for body in [Bytes::from(text), Bytes::from(noise)] {
        assert_eq!(body.len(), max);
        let sent = jetstream.publish("events.test", body);
        sent.await.unwrap().await.unwrap();
    }
    stack.wait_until_drained().await;
    let lengths: Vec<i32> = sqlx::query_scalar(
        "SELECT coalesce(length(data::text), length(data_bytes)) FROM events ORDER BY stream_seq",
    )
    .fetch_all(&stack.pool)
    .await
    .unwrap();
    let max = i32::try_from(max).unwrap();
    assert_eq!(lengths, [max, max]);
    assert_eq!(stack.dead_letters().await, 0);
}
