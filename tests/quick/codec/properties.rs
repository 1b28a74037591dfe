//! Properties: what was encoded reads back, and nothing that a producer can send is a panic.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use ganesh::event::{
    Data, Event, Timestamp, encode_binary, encode_structured, message_id, to_json, trace_context,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::{bytes_data, decode_map, json_data};

/// Text as Postgres holds it: any character but U+0000, those that need encoding more often.
fn text(range: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let character = prop_oneof![
        "[a-zA-Z0-9/:.-]".prop_map(|text| text.chars().next().unwrap_or('a')),
        select(vec![
            '%', '"', ' ', '\\', '\n', '\r', '\u{7f}', 'é', '€', '😀', '+'
        ]),
        any::<char>().prop_filter("not NUL", |character| *character != '\0'),
    ];
    vec(character, range).prop_map(|characters| characters.into_iter().collect())
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        text(0..8).prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            btree_map(text(0..4), inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Data and a content type that go together.
fn data() -> impl Strategy<Value = (Data, Option<String>)> {
    let json_type = select(vec![
        None,
        Some("application/json"),
        Some("text/x+json; charset=utf-8"),
    ]);
    let other_type = select(vec![
        None,
        Some("text/plain"),
        Some("application/octet-stream"),
        Some("image/png"),
    ]);
    prop_oneof![
        select(vec![None, Some("application/json")])
            .prop_map(|media_type| (Data::None, media_type)),
        (json(), json_type)
            .prop_map(|(value, media_type)| (json_data(&value.to_string()), media_type)),
        (vec(any::<u8>(), 1..64), other_type.clone())
            .prop_map(|(bytes, media_type)| (bytes_data(&bytes), media_type)),
        // Bytes that look like JSON stay bytes.
        (json(), other_type)
            .prop_map(|(value, media_type)| (bytes_data(value.to_string().as_bytes()), media_type)),
    ]
    .prop_map(|(data, media_type)| (data, media_type.map(str::to_owned)))
}

prop_compose! {
    fn event()(
        required in (text(1..20), text(1..20), text(1..20)),
        subject in proptest::option::of(text(1..20)),
        dataschema in proptest::option::of(text(1..20)),
        time in Timestamp::MIN.micros()..=Timestamp::MAX.micros(),
        extensions in btree_map("x[a-z0-9]{1,8}", text(0..12), 0..4),
        (data, datacontenttype) in data(),
    ) -> Event {
        let (id, source, event_type) = required;
        let time = Timestamp::from_micros(time);
        Event { id, source, event_type, subject, time, datacontenttype, dataschema, extensions, data }
    }
}

/// Binary mode states what the absence of a content type implies.
fn with_stated_content_type(mut event: Event) -> Event {
    let implied = match event.data {
        Data::None => None,
        Data::Json(_) => Some("application/json".to_owned()),
        Data::Binary(_) => Some("application/octet-stream".to_owned()),
    };
    event.datacontenttype = event.datacontenttype.or(implied);
    event
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "ce-specversion",
            "Ce-Id",
            "ce-id",
            "ce-source",
            "ce-type",
            "CE-TIME",
            "ce-subject",
            "ce-datacontenttype",
            "Content-Type",
            "content-type",
            "Nats-Msg-Id",
            "ce-",
            "ce",
            "ce-data",
            "traceparent",
            "ce-traceparent",
        ])
        .prop_map(str::to_owned),
        "[!-9;-~]{1,12}",
        "ce-[!-9;-~]{1,12}",
    ]
}

fn header_value() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "1.0",
            "application/json",
            "application/cloudevents+json",
            "application/cloudevents",
            "%",
            "%F",
            "%FF",
            "\"",
            "\"\"",
            "\"\\\"",
            "2018-04-05T17:31:00Z",
            "text/plain",
            "é",
            "application/cloudevent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ])
        .prop_map(str::to_owned),
        "[^\r\n]{0,60}",
    ]
}

fn decode_all(headers: &HeaderMap, payload: &Bytes) {
    for accept_plain in [true, false] {
        let _ = trace_context(Some(headers));
        match decode_map(headers, payload, accept_plain) {
            Ok(event) => {
                // What is accepted can be written again, and keeps the limits.
                let (headers, body) = encode_binary(&event);
                let again = decode_map(&headers, &body, false)
                    .expect("an accepted event is encoded as one");
                assert_eq!(again, with_stated_content_type(event.clone()));
                let (headers, body) = encode_structured(&event);
                assert_eq!(decode_map(&headers, &body, false).as_ref(), Ok(&event));
            }
            Err(error) => assert!(error.to_string().len() < 400, "{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn an_event_encoded_in_binary_mode_reads_back(event in event()) {
        let (headers, body) = encode_binary(&event);
        for (name, values) in headers.iter() {
            prop_assert!(values[0].as_str().bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{name}");
        }
        prop_assert_eq!(headers.get("Nats-Msg-Id").map(ToString::to_string), Some(message_id(&event)));
        prop_assert_eq!(decode_map(&headers, &body, false), Ok(with_stated_content_type(event)));
    }

    #[test]
    fn an_event_encoded_in_structured_mode_reads_back(event in event()) {
        let (headers, body) = encode_structured(&event);
        prop_assert_eq!(&body, &to_json(&event));
        prop_assert!(serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(&body).is_ok());
        prop_assert_eq!(decode_map(&headers, &body, false), Ok(event));
    }

    #[test]
    fn arbitrary_headers_and_bytes_never_panic(
        headers in vec((header_name(), header_value()), 0..8),
        complete in any::<bool>(),
        payload in prop_oneof![vec(any::<u8>(), 0..64), json().prop_map(|value| value.to_string().into_bytes())],
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            map.append(name.as_str(), value.as_str());
        }
        if complete {
            for (name, value) in super::BINARY {
                map.insert(*name, *value);
            }
        }
        decode_all(&map, &payload.into());
    }

    #[test]
    fn damaged_structured_events_never_panic(
        event in event(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let (headers, body) = encode_structured(&event);
        let mut damaged = body.to_vec();
        for (place, byte) in damage {
            let place = place.index(damaged.len());
            damaged[place] = byte;
        }
        decode_all(&headers, &damaged.clone().into());
        damaged.truncate(cut.index(body.len()));
        decode_all(&headers, &damaged.into());
    }

    #[test]
    fn structured_members_of_any_kind_never_panic(members in btree_map("[a-zA-Z_0-9]{0,6}|id|source|type|specversion|data|data_base64|time", json(), 0..8)) {
        let mut all = serde_json::Map::from_iter([
            ("specversion".to_owned(), "1.0".into()),
            ("id".to_owned(), "i".into()),
            ("source".to_owned(), "s".into()),
            ("type".to_owned(), "t".into()),
        ]);
        all.extend(members);
        let body = serde_json::Value::Object(all).to_string();
        decode_all(&super::header_map(super::STRUCTURED), &body.into());
    }
}
