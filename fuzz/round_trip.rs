//! What the fuzz target does with an input, apart from the fuzzer, so that the tests do it with the corpus.
//!
//! An input is a message as text: the subject in the first line, then one header a line, an empty
//! line, the body.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use ganesh::event::{self, Event, Message, Timestamp};

/// Decodes it, and reads back what the event is written as; `None` where it is no event.
pub fn round_trip(input: &[u8]) -> Option<Event> {
    let (subject, headers, payload) = message(input);
    let event = decode(&subject, &headers, &payload)?;
    for (headers, payload) in [
        event::encode_binary(&event),
        event::encode_structured(&event),
    ] {
        let mut again = decode(&subject, &headers, &payload).expect("we wrote it");
        if event.datacontenttype.is_none() {
            // Written out where it went without saying: JSON.
            again.datacontenttype = None;
        }
        assert_eq!(again, event);
    }
    Some(event)
}

fn message(input: &[u8]) -> (String, HeaderMap, Bytes) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = input.split_at(end.unwrap_or(input.len()));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    // A message has a subject: the server takes none without.
    let subject = lines.next().filter(|line| !line.is_empty());
    let subject = subject.unwrap_or("events").to_owned();
    let mut headers = HeaderMap::new();
    for line in lines {
        // What the client library refuses never comes to the codec.
        if let Some((name, value)) = line.split_once(": ")
            && let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        {
            headers.append(name, value);
        }
    }
    (
        subject,
        headers,
        Bytes::copy_from_slice(body.get(2..).unwrap_or_default()),
    )
}

fn decode(subject: &str, headers: &HeaderMap, payload: &Bytes) -> Option<Event> {
    let message = Message {
        subject,
        headers: Some(headers),
        payload,
        stream: "EVENTS",
        stream_sequence: 1,
        published_at: Timestamp::from_micros(1_700_000_000_000_000),
    };
    event::decode(&message, true).ok()
}
