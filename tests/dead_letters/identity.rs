//! A replay is the same event as its first delivery, and only then.

use async_nats::HeaderMap;
use bytes::Bytes;
use ganesh::event::{self, DecodeError, Event, Message, Timestamp};

const FIRST: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const REPLAYED: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn decode(headers: &[(&str, &str)]) -> Result<Event, DecodeError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let message = Message {
        subject: "events.test",
        headers: Some(&map),
        payload: &Bytes::from_static(b"{}"),
        stream: "EVENTS",
        stream_sequence: 90,
        published_at: REPLAYED,
    };
    event::decode(&message, true)
}

fn replay<'a>(
    generation: &'a str,
    id: &'a str,
    seen: &'a str,
    sequence: &'a str,
) -> [(&'a str, &'a str); 4] {
    [
        ("ganesh-dlq-generation", generation),
        ("Nats-Msg-Id", id),
        ("ganesh-dlq-first-seen", seen),
        ("ganesh-dlq-first-sequence", sequence),
    ]
}

#[test]
fn a_replay_of_a_plain_message_has_the_id_and_time_of_its_first_delivery() {
    let seen = FIRST.to_string();
    for (id, generation, expected) in [
        ("order-1~1", "1", "order-1"),
        ("order~1~3", "3", "order~1"),
        ("EVENTS:7~2", "2", "EVENTS:7"),
    ] {
        let event = decode(&replay(generation, id, &seen, "7")).unwrap();
        assert_eq!((event.id.as_str(), event.time), (expected, FIRST));
    }
}

#[test]
fn a_replay_of_an_event_without_time_has_the_time_of_its_first_delivery() {
    let seen = FIRST.to_string();
    let mut headers = replay("1", "anything~1", &seen, "7").to_vec();
    headers.extend([
        ("ce-specversion", "1.0"),
        ("ce-id", "a"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
    ]);
    let event = decode(&headers).unwrap();
    assert_eq!((event.id.as_str(), event.time), ("a", FIRST));
}

#[test]
fn headers_of_a_replay_that_do_not_agree_are_refused_and_not_guessed() {
    let (seen, later) = (FIRST.to_string(), "2199-01-01T00:00:00Z");
    for headers in [
        replay("one", "x~one", &seen, "7"),
        replay("1", "x~2", &seen, "7"),
        replay("1", "~1", &seen, "7"),
        replay("1", "x", &seen, "7"),
        replay("1", "x~1", "yesterday", "7"),
        replay("1", "x~1", later, "7"),
        replay("1", "x~1", &seen, "first"),
    ] {
        let error = decode(&headers).expect_err(&format!("{headers:?}"));
        assert_eq!(
            error.reason().into_str(),
            "invalid_attribute",
            "{headers:?}"
        );
        assert!(error.to_string().contains("ganesh-dlq-"), "{error}");
    }
    let mut twice = replay("1", "x~1", &seen, "7").to_vec();
    twice.push(("Ganesh-Dlq-First-Seen", later));
    let error = decode(&twice).unwrap_err();
    assert_eq!(error.reason().into_str(), "repeated_attribute");
}

#[test]
fn a_letter_published_again_by_hand_is_a_message_of_its_own() {
    let event = decode(&replay("0", "EVENTS:7:letter", "whatever", "7")).unwrap();
    assert_eq!(
        (event.id.as_str(), event.time),
        ("EVENTS:7:letter", REPLAYED)
    );
}
