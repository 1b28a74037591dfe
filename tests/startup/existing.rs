//! A stream or consumer that exists with settings that break a promise: exactly what is
//! wrong and how to fix it, exit code 2, nothing changed, nothing made.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull, push};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};

use super::{inventory, refused};
use crate::support::Stack;

const MINUTE: Duration = Duration::from_secs(60);

/// A case: its name, its settings, the words of problem and fix.
type Case<T> = (&'static str, T, [&'static str; 2]);

/// A consumer that is fit.
fn fit_consumer() -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::Explicit,
        ack_wait: MINUTE,
        max_deliver: -1,
        max_ack_pending: 16 * 16_384,
        ..pull::Config::default()
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn unfit_consumers() -> Vec<Case<pull::Config>> {
    let fit = fit_consumer;
    vec![
        (
            "ack-none",
            pull::Config {
                ack_policy: AckPolicy::None,
                ..fit()
            },
            [
                "ack_policy is None",
                "delete the consumer, or name another with GANESH_CONSUMER",
            ],
        ),
        (
            "ack-all",
            pull::Config {
                ack_policy: AckPolicy::All,
                ..fit()
            },
            [
                "ack_policy is All",
                "delete the consumer, or name another with GANESH_CONSUMER",
            ],
        ),
        (
            "max-deliver",
            pull::Config {
                max_deliver: 5,
                ..fit()
            },
            ["max_deliver is 5", "set max_deliver to -1"],
        ),
        (
            "ack-wait",
            pull::Config {
                ack_wait: MINUTE / 4,
                ..fit()
            },
            [
                "ack_wait is 15s, shorter than GANESH_ACK_WAIT=30s",
                "set ack_wait to 30s or more",
            ],
        ),
        (
            "max-ack-pending",
            pull::Config {
                max_ack_pending: 1_000,
                ..fit()
            },
            [
                "max_ack_pending is 1000",
                "set max_ack_pending to 262144 (16 times GANESH_MAX_IN_FLIGHT)",
            ],
        ),
        (
            "backoff",
            pull::Config {
                backoff: vec![MINUTE, 2 * MINUTE],
                ..fit()
            },
            ["it has a backoff", "remove the backoff"],
        ),
        (
            "headers-only",
            pull::Config {
                headers_only: true,
                ..fit()
            },
            ["headers_only is true", "set headers_only to false"],
        ),
        (
            "max-batch",
            pull::Config {
                max_batch: 10,
                ..fit()
            },
            [
                "it limits pull requests",
                "remove max_batch, max_bytes and max_expires",
            ],
        ),
        (
            "max-bytes",
            pull::Config {
                max_bytes: 1_000_000,
                ..fit()
            },
            [
                "it limits pull requests",
                "remove max_batch, max_bytes and max_expires",
            ],
        ),
        (
            "max-expires",
            pull::Config {
                max_expires: MINUTE,
                ..fit()
            },
            [
                "it limits pull requests",
                "remove max_batch, max_bytes and max_expires",
            ],
        ),
    ]
}

#[tokio::test]
async fn an_unfit_consumer_is_refused_with_problem_and_fix_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    jetstream
        .create_stream(stream("EVENTS", "events.>"))
        .await
        .unwrap();
    let mut cases = Vec::new();
    for (name, mut config, words) in unfit_consumers() {
        config.durable_name = Some(name.to_owned());
        jetstream
            .create_consumer_on_stream(config, "EVENTS")
            .await
            .unwrap();
        cases.push((name, words));
    }
    let push = push::Config {
        durable_name: Some("push".to_owned()),
        deliver_subject: "somewhere".to_owned(),
        ..push::Config::default()
    };
    jetstream
        .create_consumer_on_stream(push, "EVENTS")
        .await
        .unwrap();
    cases.push((
        "push",
        [
            "it is a push consumer",
            "delete it, or name another with GANESH_CONSUMER",
        ],
    ));

    let before = inventory(&jetstream).await;
    for (name, [problem, fix]) in cases {
        let said = refused(&stack, &[("GANESH_CONSUMER", name)]).await;
        let named = said.contains(&format!("ganesh: consumer {name}: "));
        assert!(
            named && said.contains(problem) && said.contains(fix),
            "{name}: {said}"
        );
        // One thing is wrong with each, but for the push consumer.
        assert!(
            name == "push" || said.matches("To fix it").count() == 1,
            "{name}: {said}"
        );
        assert_eq!(inventory(&jetstream).await, before, "{name}");
    }
}

fn stream(name: &str, subjects: &str) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        ..Config::default()
    }
}

#[tokio::test]
async fn an_unfit_event_stream_is_refused_with_problem_and_fix_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let cases: [Case<Config>; 2] = [
        (
            "SILENT",
            Config {
                no_ack: true,
                ..stream("SILENT", "silent.>")
            },
            ["no_ack is true", "set no_ack to false"],
        ),
        (
            "INTEREST",
            Config {
                retention: RetentionPolicy::Interest,
                ..stream("INTEREST", "interest.>")
            },
            [
                "retention is interest",
                "use retention limits (or workqueue)",
            ],
        ),
    ];
    for (name, config, [problem, fix]) in cases {
        jetstream.create_stream(config).await.unwrap();
        let before = inventory(&jetstream).await;
        let said = refused(&stack, &[("GANESH_STREAM", name)]).await;
        let named = said.contains(&format!("ganesh: stream {name}: "));
        assert!(
            named && said.contains(problem) && said.contains(fix),
            "{name}: {said}"
        );
        assert_eq!(inventory(&jetstream).await, before, "{name}");
    }
}

fn unfit_letters() -> Vec<Case<Config>> {
    let fit = || Config {
        discard: DiscardPolicy::New,
        duplicate_window: 24 * 60 * MINUTE,
        ..stream("EVENTS_DLQ", "dlq.>")
    };
    vec![
        (
            "subjects",
            Config {
                subjects: vec!["dlq.events.>".to_owned()],
                ..fit()
            },
            [
                "its subjects are [\"dlq.events.>\"]",
                "add the subject dlq.>",
            ],
        ),
        (
            "discard",
            Config {
                discard: DiscardPolicy::Old,
                ..fit()
            },
            ["discard is old", "set discard to new"],
        ),
        (
            "retention",
            Config {
                retention: RetentionPolicy::WorkQueue,
                ..fit()
            },
            ["its retention is not limits", "use retention limits"],
        ),
        (
            "no_ack",
            Config {
                no_ack: true,
                ..fit()
            },
            ["no_ack is true", "set no_ack to false"],
        ),
        (
            "max_msgs_per_subject",
            Config {
                max_messages_per_subject: 1,
                ..fit()
            },
            ["max_msgs_per_subject is 1", "remove max_msgs_per_subject"],
        ),
        (
            "duplicate_window",
            Config {
                duplicate_window: 2 * MINUTE,
                ..fit()
            },
            [
                "duplicate_window is 120s",
                "set duplicate_window to 24h or more",
            ],
        ),
    ]
}

#[tokio::test]
async fn an_unfit_dead_letter_stream_is_refused_with_problem_and_fix_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    for (name, config, [problem, fix]) in unfit_letters() {
        jetstream.create_stream(config).await.unwrap();
        let before = inventory(&jetstream).await;
        let said = refused(&stack, &[]).await;
        let named = said.contains("ganesh: stream EVENTS_DLQ: ");
        assert!(
            named && said.contains(problem) && said.contains(fix),
            "{name}: {said}"
        );
        assert_eq!(said.matches("To fix it").count(), 1, "{name}: {said}");
        assert_eq!(inventory(&jetstream).await, before, "{name}");
        jetstream.delete_stream("EVENTS_DLQ").await.unwrap();
    }
}

#[tokio::test]
async fn everything_that_is_unfit_is_said_at_once() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let events = Config {
        no_ack: true,
        ..stream("EVENTS", "events.>")
    };
    jetstream.create_stream(events).await.unwrap();
    jetstream
        .create_stream(stream("EVENTS_DLQ", "dlq.>"))
        .await
        .unwrap();
    let consumer = pull::Config {
        durable_name: Some("ganesh".to_owned()),
        max_deliver: 3,
        max_ack_pending: 1_000,
        ..fit_consumer()
    };
    jetstream
        .create_consumer_on_stream(consumer, "EVENTS")
        .await
        .unwrap();
    let said = refused(&stack, &[]).await;
    let problems = [
        "no_ack is true",
        "discard is old",
        "duplicate_window",
        "max_deliver is 3",
        "max_ack_pending is 1000",
    ];
    for problem in problems {
        assert!(said.contains(problem), "{problem}: {said}");
    }
}

#[tokio::test]
async fn subjects_that_another_stream_has_are_refused_at_once() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    jetstream
        .create_stream(stream("OTHER", "events.orders"))
        .await
        .unwrap();
    let before = inventory(&jetstream).await;
    let said = refused(&stack, &[]).await;
    assert!(
        said.contains("creating stream EVENTS") && said.contains("overlap"),
        "{said}"
    );
    assert_eq!(inventory(&jetstream).await, before);
}
