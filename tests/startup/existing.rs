//! A stream or consumer that exists with settings that break a promise: exactly what is
//! wrong and how to fix it, exit code 2, nothing changed, nothing made.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull, push};
use async_nats::jetstream::stream::{Config, ConsumerLimits, PersistenceMode, RetentionPolicy};

use serde_json::json;

use super::{ask, assert_doctor_fails, inventory, refused};
use crate::support::Stack;

pub(super) const MINUTE: Duration = Duration::from_mins(1);

/// A case: its name, what is changed of what is fit, the words of problem and fix.
pub(super) type Case<T> = (&'static str, fn(&mut T), [&'static str; 2]);

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

const ANOTHER: &str = "delete the consumer, or name another with GANESH_CONSUMER";
const NO_FILTER: &str = "remove filter_subject and filter_subjects";
const UNFIT_CONSUMERS: [Case<pull::Config>; 17] = [
    (
        "deliver-new",
        |c| c.deliver_policy = DeliverPolicy::New,
        ["deliver_policy is new", ANOTHER],
    ),
    (
        "deliver-last",
        |c| c.deliver_policy = DeliverPolicy::Last,
        ["deliver_policy is last", ANOTHER],
    ),
    (
        "deliver-last-per-subject",
        |c| {
            c.deliver_policy = DeliverPolicy::LastPerSubject;
            c.filter_subject = String::from(">");
        },
        ["deliver_policy is last_per_subject", ANOTHER],
    ),
    (
        "filter-subject",
        |c| c.filter_subject = String::from("events.a.>"),
        ["it takes events.a.> alone", NO_FILTER],
    ),
    (
        "filter-subjects",
        |c| c.filter_subjects = vec!["events.a".to_owned(), "events.b".to_owned()],
        ["it takes events.a, events.b alone", NO_FILTER],
    ),
    (
        "ack-none",
        |c| c.ack_policy = AckPolicy::None,
        ["ack_policy is none", ANOTHER],
    ),
    (
        "ack-all",
        |c| c.ack_policy = AckPolicy::All,
        ["ack_policy is all", ANOTHER],
    ),
    (
        "max-deliver",
        |c| c.max_deliver = 5,
        ["max_deliver is 5", "set max_deliver to -1"],
    ),
    (
        "ack-wait",
        |c| c.ack_wait = MINUTE / 4,
        [
            "ack_wait is 15s, shorter than GANESH_ACK_WAIT=30s",
            "set ack_wait to 30s or more",
        ],
    ),
    (
        "max-ack-pending",
        |c| c.max_ack_pending = 1_000,
        [
            "max_ack_pending is 1000",
            "set max_ack_pending to 262144 (16 times GANESH_MAX_IN_FLIGHT)",
        ],
    ),
    (
        "backoff",
        |c| c.backoff = vec![MINUTE, 2 * MINUTE],
        ["it has a backoff", "remove the backoff"],
    ),
    (
        "headers-only",
        |c| c.headers_only = true,
        ["headers_only is true", "set headers_only to false"],
    ),
    (
        "max-bytes",
        |c| c.max_bytes = 1_000_000,
        [
            "max_bytes is 1000000",
            "remove max_bytes, or set it to 67108864",
        ],
    ),
    (
        "max-expires",
        |c| c.max_expires = MINUTE / 600,
        ["max_expires is 100ms", "remove max_expires"],
    ),
    (
        "original",
        |c| c.replay_policy = ReplayPolicy::Original,
        ["replay_policy is original", ANOTHER],
    ),
    (
        "inactive",
        |c| c.inactive_threshold = MINUTE,
        ["inactive_threshold is 60s", "set inactive_threshold to 0"],
    ),
    (
        "max-waiting",
        |c| c.max_waiting = 2,
        ["max_waiting is 2", "32 is enough"],
    ),
];

#[tokio::test]
async fn an_unfit_consumer_is_refused_with_problem_and_fix_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    jetstream
        .create_stream(stream("EVENTS", "events.>"))
        .await
        .unwrap();
    let mut cases = Vec::new();
    for (name, change, words) in UNFIT_CONSUMERS {
        let mut config = fit_consumer();
        change(&mut config);
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
        assert_doctor_fails(&stack, &[("GANESH_CONSUMER", name)], &[problem, fix]);
        assert_eq!(inventory(&jetstream).await, before, "{name}");
    }
}

/// The client library knows none of these settings.
#[tokio::test]
async fn a_consumer_with_a_priority_policy_is_refused_and_left_as_it_is() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    jetstream
        .create_stream(stream("EVENTS", "events.>"))
        .await
        .unwrap();
    for policy in ["overflow", "pinned_client", "prioritized"] {
        let consumer = json!({
            "stream_name": "EVENTS",
            "config": {
                "durable_name": policy,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "replay_policy": "instant",
                "max_ack_pending": -1,
                "priority_policy": policy,
                "priority_groups": ["jobs"],
            },
        });
        ask(
            &jetstream,
            &format!("CONSUMER.CREATE.EVENTS.{policy}"),
            &consumer,
        )
        .await;
        let before = ask(
            &jetstream,
            &format!("CONSUMER.INFO.EVENTS.{policy}"),
            &json!({}),
        )
        .await;
        let problem = format!("priority_policy is {policy}");
        let fix = "remove priority_policy and priority_groups";
        let settings = [("GANESH_CONSUMER", policy)];
        let said = refused(&stack, &settings).await;
        assert!(
            said.contains(&problem) && said.contains(fix) && said.matches("To fix it").count() == 1,
            "{policy}: {said}"
        );
        assert_doctor_fails(&stack, &settings, &[&problem, fix]);
        let after = ask(
            &jetstream,
            &format!("CONSUMER.INFO.EVENTS.{policy}"),
            &json!({}),
        )
        .await;
        assert_eq!(after["config"], before["config"]);
    }
}

pub(super) fn stream(name: &str, subjects: &str) -> Config {
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
    let cases: [Case<Config>; 4] = [
        (
            "SILENT",
            |s| s.no_ack = true,
            ["no_ack is true", "set no_ack to false"],
        ),
        (
            "INTEREST",
            |s| s.retention = RetentionPolicy::Interest,
            [
                "retention is interest",
                "use retention limits (or workqueue)",
            ],
        ),
        (
            "IDLE",
            |s| {
                s.consumer_limits = Some(ConsumerLimits {
                    inactive_threshold: MINUTE,
                    max_ack_pending: 0,
                });
            },
            [
                "consumer_limits is {\"inactive_threshold\":60000000000}",
                "set inactive_threshold of consumer_limits to 0",
            ],
        ),
        (
            "ASYNC",
            |s| s.persist_mode = Some(PersistenceMode::Async),
            [
                "persist_mode is async",
                "name another stream with GANESH_STREAM",
            ],
        ),
    ];
    for (name, change, [problem, fix]) in cases {
        let mut config = stream(name, &format!("{name}.>"));
        change(&mut config);
        jetstream.create_stream(config).await.unwrap();
        let before = inventory(&jetstream).await;
        let said = refused(&stack, &[("GANESH_STREAM", name)]).await;
        let named = said.contains(&format!("ganesh: stream {name}: "));
        assert!(
            named && said.contains(problem) && said.contains(fix),
            "{name}: {said}"
        );
        assert_doctor_fails(&stack, &[("GANESH_STREAM", name)], &[problem, fix]);
        assert_eq!(inventory(&jetstream).await, before, "{name}");
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
        said.contains("creating stream EVENTS") && said.contains("or GANESH_SUBJECTS to others"),
        "{said}"
    );
    assert_eq!(inventory(&jetstream).await, before);
}
