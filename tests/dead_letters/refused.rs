//! Letters that `ganesh dlq replay` must not publish: whoever may publish to the dead-letter stream can
//! write any.

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, Source};

use super::{Buried, dlq, listed, make_streams, messages_in, sequences, stderr, stdout};
use crate::support::Stack;

/// A letter that somebody else wrote, for a message of this subject and stream.
async fn forge(jetstream: &Context, stream: &str, subject: &str) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ganesh-dlq-reason", "invalid_json"),
        ("ganesh-dlq-stream", stream),
        ("ganesh-dlq-stream-sequence", "1"),
        ("ganesh-dlq-first-seen", "2026-11-30T00:00:00Z"),
        ("ganesh-dlq-generation", "0"),
        ("ganesh-dlq-subject", subject),
    ] {
        headers.insert(name, value);
    }
    let sent = jetstream.publish_with_headers("dlq.forged", headers, "".into());
    sent.await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_forged_letter_cannot_have_the_operator_delete_a_stream() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let victim = Config {
        name: "VICTIM".to_owned(),
        subjects: vec!["victim.>".to_owned()],
        ..Config::default()
    };
    jetstream.create_stream(victim).await.unwrap();
    let forged = [
        (
            "EVENTS",
            "$JS.API.STREAM.DELETE.VICTIM",
            "never publishes to a subject that begins with $",
        ),
        (
            "EVENTS",
            "victim.a",
            "stream EVENTS does not take the subject",
        ),
        ("EVENTS", "events.*", "no message can have the subject"),
        ("EVENTS", "events.>", "no message can have the subject"),
        ("EVENTS", "events..a", "no message can have the subject"),
        (
            "VICTIM",
            "victim.a",
            "its message is of stream VICTIM, and GANESH_STREAM is EVENTS",
        ),
    ];
    for (stream, subject, _) in forged {
        forge(&jetstream, stream, subject).await;
    }
    Buried::default().write(&jetstream).await;
    let dry = stdout(&dlq(&stack, &["replay", "--dry-run"]));
    assert!(
        dry.contains("would be replayed: 1 of 7, 6 cannot be"),
        "{dry}"
    );
    let replayed = dlq(&stack, &["replay"]);
    assert_eq!(replayed.status.code(), Some(1));
    let report = stdout(&replayed);
    assert!(report.contains("replayed: 1 of 7, 6 cannot be"), "{report}");
    let said = stderr(&replayed);
    for (sequence, (_, _, why)) in (1..).zip(forged) {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("letter {sequence} stays: ")));
        assert!(line.is_some_and(|line| line.contains(why)), "{why}: {said}");
    }
    assert_eq!(sequences(&listed(&stack, &[])), [1, 2, 3, 4, 5, 6]);
    assert_eq!(messages_in(&jetstream, "VICTIM").await, 0);
    assert_eq!(messages_in(&jetstream, "EVENTS").await, 1);
}

#[tokio::test]
async fn letters_of_a_mirror_and_of_a_sourced_stream_say_where_to_publish_their_events() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    let source = || Source {
        name: "ORIGIN".to_owned(),
        ..Source::default()
    };
    let origin = Config {
        name: "ORIGIN".to_owned(),
        subjects: vec!["origin.>".to_owned()],
        ..Config::default()
    };
    jetstream.create_stream(origin).await.unwrap();
    forge(&jetstream, "EVENTS", "origin.a").await;
    let mirror = Config {
        name: "EVENTS".to_owned(),
        mirror: Some(source()),
        ..Config::default()
    };
    let sourced = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        sources: Some(vec![source()]),
        ..Config::default()
    };
    for (config, why) in [
        (mirror, "stream EVENTS is a mirror of ORIGIN"),
        (
            sourced,
            "stream EVENTS does not take the subject origin.a; it has messages from ORIGIN",
        ),
    ] {
        jetstream.create_stream(config).await.unwrap();
        let replayed = dlq(&stack, &["replay"]);
        assert_eq!(replayed.status.code(), Some(1));
        let said = stderr(&replayed);
        assert!(
            said.contains(why) && said.contains("publish the event anew"),
            "{said}"
        );
        assert_eq!(messages_in(&jetstream, "ORIGIN").await, 0);
        jetstream.delete_stream("EVENTS").await.unwrap();
    }
}
