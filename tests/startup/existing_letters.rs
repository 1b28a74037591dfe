//! A dead-letter stream, or its bucket, that exists already.

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType, SubjectTransform,
};
use ganesh::messaging::streams::bucket_stream;

use super::existing::{Case, MINUTE, stream};
use super::{assert_doctor_fails, inventory, refused};
use crate::support::{Stack, eventually};

/// A dead-letter stream that is fit.
fn fit_letters() -> Config {
    Config {
        discard: DiscardPolicy::New,
        duplicate_window: 24 * 60 * MINUTE,
        ..stream("EVENTS_DLQ", "dlq.>")
    }
}

const UNFIT_LETTERS: [Case<Config>; 11] = [
    (
        "subjects",
        |s| s.subjects = vec!["dlq.events.>".to_owned()],
        [
            "its subjects are [\"dlq.events.>\"]",
            "add the subject dlq.>",
        ],
    ),
    (
        "discard",
        |s| s.discard = DiscardPolicy::Old,
        ["discard is old", "set discard to new"],
    ),
    (
        "retention",
        |s| s.retention = RetentionPolicy::WorkQueue,
        ["retention is workqueue", "use retention limits"],
    ),
    (
        "storage",
        |s| s.storage = StorageType::Memory,
        [
            "storage is memory",
            "delete the stream, or name another with GANESH_DLQ_STREAM",
        ],
    ),
    (
        "no_ack",
        |s| s.no_ack = true,
        ["no_ack is true", "set no_ack to false"],
    ),
    (
        "max_msgs_per_subject",
        |s| s.max_messages_per_subject = 1,
        ["max_msgs_per_subject is 1", "remove max_msgs_per_subject"],
    ),
    (
        "max_msg_size",
        |s| s.max_message_size = 1_000,
        ["max_msg_size is 1000", "remove max_msg_size"],
    ),
    (
        "duplicate_window",
        |s| s.duplicate_window = 2 * MINUTE,
        [
            "duplicate_window is 120s",
            "set duplicate_window to 24h or more",
        ],
    ),
    (
        "persist_mode",
        |s| s.persist_mode = Some(PersistenceMode::Async),
        [
            "persist_mode is async: a letter would count as stored before it is durable",
            "name another stream with GANESH_DLQ_STREAM",
        ],
    ),
    (
        "deny_delete",
        |s| s.deny_delete = true,
        [
            "deny_delete is true: letters that were replayed could not be removed",
            "name another stream with GANESH_DLQ_STREAM",
        ],
    ),
    (
        "subject_transform",
        |s| {
            s.subject_transform = Some(SubjectTransform {
                source: "dlq.>".to_owned(),
                destination: "letters.>".to_owned(),
            });
        },
        ["subject_transform is ", "remove subject_transform"],
    ),
];

#[tokio::test]
async fn an_unfit_dead_letter_stream_is_refused_with_problem_and_fix_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    for (name, change, [problem, fix]) in UNFIT_LETTERS {
        let mut config = fit_letters();
        change(&mut config);
        // The server removes the folder of the last one in its own time.
        eventually("the stream is made", || async {
            jetstream.create_stream(config.clone()).await.is_ok()
        })
        .await;
        let before = inventory(&jetstream).await;
        let said = refused(&stack, &[]).await;
        let named = said.contains("ganesh: stream EVENTS_DLQ: ");
        assert!(
            named && said.contains(problem) && said.contains(fix),
            "{name}: {said}"
        );
        assert_eq!(said.matches("To fix it").count(), 1, "{name}: {said}");
        assert_doctor_fails(&stack, &[], &[problem, fix]);
        assert_eq!(inventory(&jetstream).await, before, "{name}");
        jetstream.delete_stream("EVENTS_DLQ").await.unwrap();
    }
}

const UNFIT_BUCKETS: [Case<Config>; 6] = [
    (
        "subjects",
        |s| s.subjects = vec!["$O.EVENTS_DLQ.C.>".to_owned()],
        ["its subjects are", "and $O.EVENTS_DLQ.M.>"],
    ),
    (
        "max_age",
        |s| s.max_age = MINUTE,
        ["max_age is 60s", "remove max_age"],
    ),
    (
        "rollup",
        |s| s.allow_rollup = false,
        [
            "allow_rollup_hdrs is false",
            "set allow_rollup_hdrs to true",
        ],
    ),
    (
        "delete",
        |s| s.deny_delete = true,
        [
            "deny_delete is true",
            "delete the bucket, or name another with GANESH_DLQ_STREAM",
        ],
    ),
    (
        "discard",
        |s| s.discard = DiscardPolicy::Old,
        ["discard is old", "set discard to new"],
    ),
    (
        "storage",
        |s| s.storage = StorageType::Memory,
        ["storage is memory", "delete the stream"],
    ),
];

#[tokio::test]
async fn an_unfit_bucket_is_refused_with_problem_and_fix_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    for (name, change, [problem, fix]) in UNFIT_BUCKETS {
        let mut config = bucket_stream(&fit_letters());
        change(&mut config);
        eventually("the bucket is made", || async {
            jetstream.create_stream(config.clone()).await.is_ok()
        })
        .await;
        let before = inventory(&jetstream).await;
        let said = refused(&stack, &[]).await;
        assert!(
            said.contains("ganesh: stream OBJ_EVENTS_DLQ: ")
                && said.contains(problem)
                && said.contains(fix),
            "{name}: {said}"
        );
        assert_eq!(said.matches("To fix it").count(), 1, "{name}: {said}");
        assert_doctor_fails(&stack, &[], &[problem, fix]);
        assert_eq!(inventory(&jetstream).await, before, "{name}");
        jetstream.delete_stream("OBJ_EVENTS_DLQ").await.unwrap();
    }
    let said = refused(&stack, &[("GANESH_DLQ_STREAM", "lost+found")]).await;
    assert!(
        said.contains("no bucket can have this one") && said.contains("GANESH_DLQ_STREAM"),
        "{said}"
    );
}
