//! Objects that no letter names are removed, and no others.

use std::time::Duration;

use async_nats::jetstream::Context;
use ganesh::messaging::letters::bucket::Bucket;
use ganesh::messaging::letters::sweep::{ABANDONED_AFTER, Sweeper};

use super::{
    Buried, NO_EVENT, body_of, dlq, make_streams, messages_in, publish_message, stderr, wire_bytes,
    write_many,
};
use crate::support::{Stack, eventually};

const BUCKET: &str = "OBJ_EVENTS_DLQ";

fn sweeper(jetstream: &Context, abandoned_after: Duration) -> Sweeper {
    Sweeper::new(
        Bucket::new(jetstream.clone(), "EVENTS_DLQ"),
        abandoned_after,
    )
}

fn large(sequence: u64) -> Buried<'static> {
    Buried {
        sequence,
        body: body_of(1 << 20),
        ..Buried::default()
    }
}

#[tokio::test]
async fn what_a_crash_between_object_and_letter_leaves_is_removed_and_the_message_is_a_letter() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let ganesh = stack.serve(&[]).await;
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let config = async_nats::jetstream::stream::Config {
        max_bytes: 1,
        ..stream.cached_info().config.clone()
    };
    jetstream.update_stream(config.clone()).await.unwrap();
    let body = body_of(jetstream.client().max_payload() - wire_bytes(&NO_EVENT));
    publish_message(&jetstream, &NO_EVENT, body.clone()).await;
    eventually("the letter is refused", || async {
        ganesh.log().contains("a dead letter was not stored")
    })
    .await;
    ganesh.kill();
    let left = messages_in(&jetstream, BUCKET).await;
    assert!(left > 0, "no object");
    // It may be on its way as far as anybody knows.
    let mut patient = sweeper(&jetstream, ABANDONED_AFTER);
    assert_eq!(patient.sweep().await.unwrap(), 0);
    assert_eq!(messages_in(&jetstream, BUCKET).await, left);
    let mut eager = sweeper(&jetstream, Duration::ZERO);
    assert_eq!(eager.sweep().await.unwrap(), 1);
    assert_eq!(messages_in(&jetstream, BUCKET).await, 0);

    let config = async_nats::jetstream::stream::Config {
        max_bytes: -1,
        ..config
    };
    jetstream.update_stream(config).await.unwrap();
    let _ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    stack.wait_until_drained().await;
    assert_eq!(eager.sweep().await.unwrap(), 0);
    let shown = dlq(&stack, &["show", "1", "--raw"]);
    assert!(shown.stdout == body, "{}", stderr(&shown));
}

#[tokio::test]
async fn an_object_is_abandoned_when_its_chunks_have_not_changed_for_long_enough() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let put_chunk = || async {
        let subject = "$O.EVENTS_DLQ.C.EVENTS:7:1800000000000000:00c0ffee:0000cafe";
        let chunk = jetstream.publish(subject, "chunk".into()).await.unwrap();
        chunk.await.unwrap();
    };
    put_chunk().await;
    let abandoned_after = Duration::from_secs(2);
    let mut sweeper = sweeper(&jetstream, abandoned_after);
    assert_eq!(sweeper.sweep().await.unwrap(), 0);
    tokio::time::sleep(abandoned_after).await;
    // It grew, so it is young again.
    put_chunk().await;
    assert_eq!(sweeper.sweep().await.unwrap(), 0);
    tokio::time::sleep(abandoned_after).await;
    assert_eq!(sweeper.sweep().await.unwrap(), 1);
    assert_eq!(messages_in(&jetstream, BUCKET).await, 0);
}

#[tokio::test]
async fn objects_of_letters_stay_however_many_letters_there_are() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    write_many(&jetstream, 1_000, &"{}".into()).await;
    for sequence in 1_001..=1_003 {
        large(sequence).write(&jetstream).await;
    }
    let stored = messages_in(&jetstream, BUCKET).await;
    let mut sweeper = sweeper(&jetstream, Duration::ZERO);
    assert_eq!(sweeper.sweep().await.unwrap(), 0);
    assert_eq!(messages_in(&jetstream, BUCKET).await, stored);
    // Somebody deletes a letter and knows nothing of its object.
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    letters.delete_message(1_002).await.unwrap();
    assert_eq!(sweeper.sweep().await.unwrap(), 1);
    for sequence in [1_001, 1_003] {
        let shown = dlq(&stack, &["show", &sequence.to_string(), "--raw"]);
        assert!(shown.stdout == body_of(1 << 20), "{}", stderr(&shown));
    }
    // Where there are no letters at all, nobody asks for them.
    letters.purge().await.unwrap();
    assert_eq!(sweeper.sweep().await.unwrap(), 2);
    assert_eq!(messages_in(&jetstream, BUCKET).await, 0);
}

#[tokio::test]
async fn chunks_without_an_object_are_removed_and_what_others_put_there_is_not() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    make_streams(&jetstream).await;
    let bucket = jetstream.get_object_store("EVENTS_DLQ").await.unwrap();
    let mut theirs = &b"an operator's own"[..];
    bucket.put("theirs", &mut theirs).await.unwrap();
    let subject = "$O.EVENTS_DLQ.C.EVENTS:7:1800000000000000:00c0ffee:0000cafe";
    let chunk = jetstream.publish(subject, "chunk".into()).await.unwrap();
    chunk.await.unwrap();
    let mut patient = sweeper(&jetstream, ABANDONED_AFTER);
    assert_eq!(patient.sweep().await.unwrap(), 0);
    assert_eq!(messages_in(&jetstream, BUCKET).await, 3);
    let mut eager = sweeper(&jetstream, Duration::ZERO);
    assert_eq!(eager.sweep().await.unwrap(), 1);
    assert_eq!(messages_in(&jetstream, BUCKET).await, 2);
    assert!(bucket.info("theirs").await.is_ok());
}
