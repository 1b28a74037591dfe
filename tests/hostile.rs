//! What a message says is data: it reaches no statement, no line of the log, no header and no metric as
//! anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::Context;
use ganesh::event::Timestamp;
use ganesh::messaging::letters::{ORIGINAL_PREFIX, REASON, SUBJECT};
use serde_json::{Value, json};

use crate::support::{Ganesh, Stack, eventually, raw_nats};

/// Each is more than data to somebody who does not escape it.
const TEXTS: [&str; 7] = [
    "\n2030-01-01T00:00:00.000000Z ERROR forged",
    "\r\n{\"message\":\"forged\"}",
    "\r\nganesh-dlq-reason: forged\r\n\r\n.",
    "\x1b[31m\x07\x08red",
    "'); DROP TABLE events;--",
    "%s %n {} ${0} \"\\",
    "a\t\\.\t\\N \u{e9}\u{202e}\u{2028}\u{fc}",
];
/// So many become letters: the log mentions that many in its window.
const LETTERS: usize = TEXTS.len() + 3;

/// A message as it goes over the wire.
struct Raw {
    subject: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Raw {
    fn new(text: &str, headers: Vec<(&'static str, String)>, body: String) -> Self {
        // White space ends a subject, and nothing else does.
        let token: String = text
            .chars()
            .map(|c| if c.is_whitespace() { '_' } else { c })
            .collect();
        Self {
            subject: format!("events.{}", token.replace('.', "_")),
            headers,
            body,
        }
    }

    fn structured(text: &str, members: &[(&str, &str)], data: &str) -> Self {
        let mut event = json!({
            "specversion": "1.0", "id": format!("structured {text}"), "source": text, "type": text,
        });
        for (name, value) in members {
            event[name] = json!(value);
        }
        let mut body = event.to_string();
        body.truncate(body.len() - 1);
        let headers = vec![
            ("content-type", "application/cloudevents+json".to_owned()),
            ("Nats-Msg-Id", on_one_line(&format!("{body}{text}"))),
        ];
        Self::new(text, headers, format!("{body},\"data\":{data}}}"))
    }

    fn binary(text: &str) -> Self {
        let text_of = |name| (name, on_one_line(text));
        let headers = vec![
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", on_one_line(&format!("binary {text}"))),
            text_of("ce-source"),
            text_of("ce-type"),
            text_of("ce-subject"),
            text_of("ce-datacontenttype"),
            text_of("ce-dataschema"),
            text_of("ce-traceparent"),
            text_of("Nats-Msg-Id"),
        ];
        Self::new(text, headers, text.to_owned())
    }

    fn plain(text: &str) -> Self {
        let id = on_one_line(&format!("plain {text}"));
        Self::new(text, vec![("Nats-Msg-Id", id)], text.to_owned())
    }

    async fn publish(&self, stack: &Stack) {
        let lines = self.headers.iter();
        let lines = lines.map(|(name, value)| format!("{name}: {value}\r\n"));
        let block = format!("NATS/1.0\r\n{}\r\n", lines.collect::<String>());
        let (port, subject, body) = (stack.nats.port(), self.subject.clone(), self.body.clone());
        let publishing = move || {
            raw_nats::publish(port, subject.as_bytes(), block.as_bytes(), body.as_bytes());
        };
        tokio::task::spawn_blocking(publishing).await.unwrap();
    }
}

/// As a header must have it, and nothing more.
fn on_one_line(text: &str) -> String {
    text.replace('\r', "%0D").replace('\n', "%0A")
}

/// In every mode, with the text wherever one may stand.
fn events() -> Vec<Raw> {
    let events = TEXTS.into_iter().flat_map(|text| {
        let members = [
            ("subject", text),
            ("datacontenttype", text),
            ("dataschema", text),
            ("traceparent", text),
        ];
        [
            Raw::binary(text),
            Raw::structured(text, &members, "1"),
            Raw::plain(text),
        ]
    });
    events.collect()
}

/// Refused, each with a reason that quotes what was sent where any does.
fn refused() -> Vec<Raw> {
    let name = |text| Raw::structured(text, &[(text, text)], "1");
    let mut refused: Vec<Raw> = TEXTS.into_iter().map(name).collect();
    let text = "\n\x1b[31m\"%s{}'); DROP TABLE";
    let format = format!("application/cloudevents+{}", text.trim_start());
    refused.push(Raw::structured(text, &[("specversion", text)], "1"));
    refused.push(Raw::new(
        text,
        vec![("content-type", format)],
        "1".to_owned(),
    ));
    refused.push(Raw::structured(text, &[("x", text)], "\"\\u0000\""));
    refused
}

/// Publishes all of it to a `serve` that logs what it can, and waits until it is settled.
async fn settle(stack: &Stack, settings: &[(&str, &str)]) -> Ganesh {
    let settings = [&[("GANESH_LOG", "trace")], settings].concat();
    let ganesh = stack.serve(&settings).await;
    publish(stack).await;
    ganesh
}

async fn publish(stack: &Stack) {
    for message in events().iter().chain(&refused()) {
        message.publish(stack).await;
    }
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, LETTERS as u64);
}

/// What the row of an event must hold, by its id.
fn expected(text: &str) -> [(String, Vec<Option<String>>); 3] {
    let plain = Raw::plain(text);
    let as_sent = vec![Some(text.to_owned()); 6];
    let as_plain = [Some("nats://EVENTS".to_owned()), Some(plain.subject)];
    [
        (format!("binary {text}"), as_sent.clone()),
        (format!("structured {text}"), as_sent),
        (
            on_one_line(&format!("plain {text}")),
            [&as_plain[..], &[None, None, None, None]].concat(),
        ),
    ]
}

#[tokio::test]
async fn a_row_holds_exactly_what_a_message_said_and_postgres_did_nothing_else_with_it() {
    let stack = Stack::start().await;
    let _ganesh = settle(&stack, &[]).await;
    let columns = "SELECT id, ARRAY[source, type, subject, datacontenttype, dataschema, \
                   extensions->>'traceparent'] FROM events";
    let rows: Vec<(String, Vec<Option<String>>)> = sqlx::query_as(columns)
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    let rows: BTreeMap<_, _> = rows.into_iter().collect();
    let expected: BTreeMap<_, _> = TEXTS.into_iter().flat_map(expected).collect();
    assert_eq!(rows, expected);
}

/// The `detail` that the log has of each letter.
fn details(lines: &[Value]) -> BTreeSet<&str> {
    let letters = lines.iter().filter(|line| line["message"] == "dead letter");
    letters
        .map(|line| line["detail"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn no_message_forges_a_line_of_the_log_in_json() {
    let stack = Stack::start().await;
    let ganesh = settle(&stack, &[("GANESH_LOG_FORMAT", "json")]).await;
    let log = ganesh.log();
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["timestamp"].is_string(), "{line}");
        assert_ne!(value["message"], "forged");
        value
    };
    let lines: Vec<Value> = log.lines().map(object).collect();
    let details = details(&lines);
    assert_eq!(details.len(), LETTERS, "{details:?}");
    let named = "attribute \"\\u{1b}[31m\\u{7}\\u{8}red\" has a name that CloudEvents does not allow: \
                 lowercase letters and digits, and not \"data\"";
    assert!(details.contains(named), "{details:?}");
}

#[tokio::test]
async fn no_message_forges_a_line_of_the_log_in_text() {
    let stack = Stack::start().await;
    let ganesh = settle(&stack, &[("GANESH_LOG_FORMAT", "text")]).await;
    let log = ganesh.log();
    let letters = log.matches(" WARN dead letter reason=");
    assert_eq!(letters.count(), LETTERS, "{log}");
    let now = Timestamp::now();
    for line in log.lines() {
        let written_at = line.split(' ').next().and_then(Timestamp::parse_rfc3339);
        assert!(written_at.is_some_and(|at| at <= now), "{line:?}");
        assert!(!line.contains(moves_text), "{line:?}");
    }
}

/// The last one turns the rest of a line around.
fn moves_text(c: char) -> bool {
    c.is_control() || c == '\u{202e}'
}

#[tokio::test]
async fn a_trigger_that_quotes_a_message_forges_no_line_of_the_log() {
    let stack = Stack::start().await;
    let settings = [("GANESH_LOG_FORMAT", "text")];
    let ganesh = stack.serve(&settings).await;
    for statement in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'no %', NEW.source; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(statement).execute(&stack.pool).await.unwrap();
    }
    for text in TEXTS {
        Raw::structured(text, &[], "1").publish(&stack).await;
        // In a batch of its own: the error is the first row's.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("they are refused", || async {
        let log = ganesh.log();
        log.contains("ERROR forged (SQLSTATE P0001)") && log.contains(r"\u{202e}")
    })
    .await;
    for line in ganesh.log().lines() {
        let is_ours = line.starts_with("20") && !line.starts_with("2030");
        assert!(is_ours && !line.contains(moves_text), "{line:?}");
    }
}

/// The subject of a message in the event stream.
async fn subject_of(jetstream: &Context, sequence: &str) -> String {
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let message = stream.get_raw_message(sequence.parse().unwrap()).await;
    message.unwrap().subject.to_string()
}

#[tokio::test]
async fn what_a_dead_letter_says_of_a_message_is_printable_and_not_the_messages_own_words() {
    let stack = Stack::start().await;
    let _ganesh = settle(&stack, &[]).await;
    let jetstream = stack.jetstream().await;
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    for sequence in 1..=LETTERS as u64 {
        let letter = letters.get_raw_message(sequence).await.unwrap();
        let ours = letter.headers.iter().filter(|(name, _)| {
            let name: &str = name.as_ref();
            name.starts_with("ganesh-dlq-") && !name.starts_with(ORIGINAL_PREFIX)
        });
        let mut said = BTreeMap::new();
        for (name, values) in ours {
            let name: &str = name.as_ref();
            assert_eq!(values.len(), 1, "{name}: {values:?}");
            let printable = |b: u8| b == b' ' || b.is_ascii_graphic();
            let value = values[0].as_str();
            // Where the message was published, to the byte: a replay goes there.
            assert!(
                name == SUBJECT || value.bytes().all(printable),
                "{name}: {value:?}"
            );
            said.insert(name, value);
        }
        assert_ne!(said[REASON], "forged");
        let subject = subject_of(&jetstream, said["ganesh-dlq-stream-sequence"]).await;
        assert_eq!(said[SUBJECT], subject);
    }
}

/// Names and labels of what `/metrics` has.
async fn series(ganesh: &Ganesh) -> BTreeSet<String> {
    let (_, text) = ganesh.admin("/metrics").await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

#[tokio::test]
async fn no_message_adds_a_series_to_the_metrics() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let before = series(&ganesh).await;
    publish(&stack).await;
    let stored = "ganesh_messages_settled_total{outcome=\"stored\"}";
    ganesh.wait_for_metric(stored, 1.0).await;
    let after = series(&ganesh).await;
    let difference: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(difference.is_empty(), "{difference:?}");
}
