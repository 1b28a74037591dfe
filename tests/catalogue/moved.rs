//! P9: a metric that never moves tells nobody anything. After all that can happen to messages,
//! reads and dependencies, every one has moved, but for those listed here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use futures::StreamExt;
use ganesh::event::{Data, Event};
use ganesh::telemetry::metrics::{Kind, Metric, TABLE};
use rustix::process::Signal;

use crate::support::collector::Collector;
use crate::support::events::{event, events, publish, publish_invalid};
use crate::support::reads::latest_by_cache;
use crate::support::servers::send_signal;
use crate::support::stack::read_url;
use crate::support::{Ganesh, PATIENCE, Stack};

/// Fixed from the start of the process to its end, which is held too.
const FIXED: [&str; 8] = [
    "ganesh_in_flight_limit",
    "ganesh_in_flight_bytes_limit",
    "ganesh_queue_capacity",
    "ganesh_stream_messages_limit",
    "ganesh_build_info",
    "process_max_fds",
    "process_virtual_memory_max_bytes",
    "process_start_time_seconds",
];
/// May have moved or not.
const BY_CHANCE: [(&str, &str); 8] = [
    (
        "ganesh_partition_upkeep_failures",
        "a round comes once a minute; tests/partitions.rs has one fail",
    ),
    (
        "ganesh_stream_bytes_limit",
        "is read with the first answer about the stream, before or after it is first read here",
    ),
    (
        "ganesh_stream_age_limit_seconds",
        "is read with the first answer about the stream, before or after it is first read here",
    ),
    (
        "ganesh_clock_skew_seconds",
        "needs a NATS with another clock; src/telemetry/skew.rs tests it",
    ),
    (
        "ganesh_runtime_workers",
        "is set once, seconds after the start, before or after it is first read here",
    ),
    (
        "ganesh_runtime_global_queue_depth",
        "is read every five seconds, and mostly empty",
    ),
    (
        "process_threads",
        "the workers are there at the start, and blocking threads come and go",
    ),
    (
        "process_virtual_memory_bytes",
        "what was mapped at the start may do",
    ),
];
/// What the test makes happen, beyond one series of each metric.
const MOVED: [&str; 18] = [
    "ganesh_messages_settled_total{outcome=\"stored\"}",
    "ganesh_messages_settled_total{outcome=\"duplicate\"}",
    "ganesh_messages_settled_total{outcome=\"dead_lettered\"}",
    "ganesh_dead_letters_total{reason=\"missing_attribute\"}",
    "ganesh_dead_letters_total{reason=\"rejected_row\"}",
    "ganesh_traces_total{decision=\"failed\"}",
    "ganesh_traces_total{decision=\"redelivered\"}",
    "ganesh_traces_total{decision=\"slow\"}",
    "ganesh_traces_total{decision=\"over_budget\"}",
    "ganesh_traces_total{decision=\"unsampled\"}",
    "ganesh_spans_total{result=\"exported\"}",
    "ganesh_dependency_up{dependency=\"cache\"}",
    "ganesh_cache_requests_total{operation=\"read\",result=\"hit\"}",
    "ganesh_cache_requests_total{operation=\"read\",result=\"miss\"}",
    "ganesh_cache_requests_total{operation=\"write\",result=\"ok\"}",
    "ganesh_cache_read_seconds_count{result=\"hit\"}",
    "ganesh_cache_read_seconds_count{result=\"miss\"}",
    "ganesh_messages_redelivered_total",
];

/// The series of one scrape with their values.
async fn series(ganesh: &Ganesh) -> BTreeMap<String, String> {
    let (_, text) = ganesh.admin("/metrics").await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    samples
        .map(|(series, value)| (series.to_owned(), value.to_owned()))
        .collect()
}

/// Which series have ever had another value than at first.
struct Movement<'a> {
    ganesh: &'a Ganesh,
    first: BTreeMap<String, String>,
    moved: BTreeSet<String>,
}

impl<'a> Movement<'a> {
    async fn of(ganesh: &'a Ganesh) -> Self {
        Self {
            ganesh,
            first: series(ganesh).await,
            moved: BTreeSet::new(),
        }
    }

    async fn look(&mut self) {
        let now = series(self.ganesh).await;
        assert_eq!(now.len(), self.first.len(), "series come or go");
        let moved = now.into_iter();
        let moved = moved.filter(|(series, value)| self.first[series] != *value);
        self.moved.extend(moved.map(|(series, _)| series));
    }

    fn has_moved(&self, metric: &Metric) -> bool {
        let counted = match metric.kind {
            Kind::Histogram(_) => format!("{}_count", metric.name),
            _ => metric.name.to_owned(),
        };
        let mut names = self.moved.iter().map(|series| series.split('{').next());
        names.any(|name| name == Some(counted.as_str()))
    }

    /// Looks until all of these have moved: names of metrics, or series.
    async fn wait_for(&mut self, expected: &[&str]) {
        let started = Instant::now();
        loop {
            self.look().await;
            let still = |name: &&&str| {
                let metric = TABLE.iter().find(|metric| metric.name == **name);
                !metric.map_or_else(|| self.moved.contains(**name), |m| self.has_moved(m))
            };
            let still: Vec<_> = expected.iter().filter(still).collect();
            if still.is_empty() {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never moved: {still:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Has one message delivered to somebody else, who gives it back.
async fn redeliver(stack: &Stack, ganesh: &Ganesh) {
    // Its pull ends a second later; until then it would be served first.
    send_signal(ganesh.pid(), Signal::STOP);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &[event("given back")]).await;
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream("ganesh", "EVENTS")
        .await
        .unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    // Later, because a process that stood still does not know the cache's epoch at first.
    let later = Some(Duration::from_secs(2));
    message.ack_with(AckKind::Nak(later)).await.unwrap();
    send_signal(ganesh.pid(), Signal::CONT);
}

/// Stored, stored twice, refused by us, refused by Postgres; then read twice.
async fn publish_and_read(stack: &Stack, ganesh: &Ganesh) {
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("good", 10)).await;
    let twice = event("twice");
    publish(&jetstream, &[twice.clone(), twice]).await;
    publish_invalid(&jetstream).await;
    let poison = Event {
        data: Data::Json(Bytes::from_static(b"{\"nul\":\"\\u0000\"}")),
        ..event("poison")
    };
    publish(&jetstream, &[poison]).await;
    stack.wait_until_drained().await;
    for _ in 0..2 {
        let read = latest_by_cache(ganesh, "subject-6").await;
        assert_eq!(read.id.as_deref(), Some("good-9"));
    }
}

/// What waits in the stream is lost; what is held is stored all the same.
async fn remove_undelivered(stack: &Stack) {
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.purge().await.unwrap();
}

/// So many rows that Postgres refuses that it pauses, until a better batch comes.
async fn pause_by_rejections(stack: &Stack, movement: &mut Movement<'_>) {
    let jetstream = stack.jetstream().await;
    let mut poisons = events("refused", 500);
    for poison in &mut poisons {
        poison.data = Data::Json(Bytes::from_static(b"{\"nul\":\"\\u0000\"}"));
    }
    publish(&jetstream, &poisons).await;
    movement.wait_for(&["ganesh_rejection_pause"]).await;
    publish(&jetstream, &events("better", 10)).await;
    stack.wait_until_drained().await;
}

/// A letter for which there is no room.
async fn refuse_letters(stack: &Stack, movement: &mut Movement<'_>) {
    let jetstream = stack.jetstream().await;
    stack.limit_dead_letters(1).await;
    publish_invalid(&jetstream).await;
    movement.wait_for(&["ganesh_dead_letters_refused"]).await;
    stack.limit_dead_letters(-1).await;
    stack.wait_until_drained().await;
}

async fn delete_stream(stack: &Stack, movement: &mut Movement<'_>) {
    let jetstream = stack.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    movement.wait_for(&["ganesh_stream_gone"]).await;
}

/// The role of reads loses a permission.
async fn refuse_reads(stack: &Stack, movement: &mut Movement<'_>) {
    let revoke = "REVOKE SELECT ON fates FROM reader";
    sqlx::query(revoke).execute(&stack.pool).await.unwrap();
    movement.wait_for(&["ganesh_reads_refused"]).await;
}

async fn listen(ganesh: &Ganesh, movement: &mut Movement<'_>) {
    let url = format!("{}/v1/events/stream", ganesh.api);
    let stream = reqwest::get(url).await.unwrap();
    assert_eq!(stream.status(), 200);
    movement.wait_for(&["ganesh_tails"]).await;
}

async fn publish_without_cache(stack: &Stack, movement: &mut Movement<'_>) {
    stack.cache.pause();
    publish(&stack.jetstream().await, &[event("without cache")]).await;
    movement
        .wait_for(&["ganesh_dependency_up{dependency=\"cache\"}"])
        .await;
    stack.cache.resume();
}

#[tokio::test]
async fn every_metric_has_moved_after_all_that_can_happen() {
    let stack = Stack::start_with_own_postgres().await;
    let collector = Collector::start().await;
    let url = read_url(&stack.database_url);
    let settings = collector.settings_with(&[
        // Few, so that queues fill and the rest has to wait in the stream.
        ("GANESH_MAX_IN_FLIGHT", "100"),
        ("GANESH_BATCH_MAX_EVENTS", "10"),
        ("GANESH_WRITERS", "1"),
        // Held for half of it, messages are kept alive.
        ("GANESH_ACK_WAIT", "4s"),
        ("GANESH_TRACE_SLOW_MS", "1000"),
        ("GANESH_TRACE_MAX_PER_SEC", "20"),
        ("POSTGRES_READ_URL", &url),
    ]);
    let ganesh = stack.serve(&settings).await;
    // What is set once, right after the start.
    ganesh
        .wait_for_metric("ganesh_queue_capacity{queue=\"dead_letter\"}", 1.0)
        .await;
    let mut movement = Movement::of(&ganesh).await;

    publish_and_read(&stack, &ganesh).await;
    listen(&ganesh, &mut movement).await;
    redeliver(&stack, &ganesh).await;
    // Settled, before the cache makes it a failed one.
    movement
        .wait_for(&["ganesh_traces_total{decision=\"redelivered\"}"])
        .await;

    publish_without_cache(&stack, &mut movement).await;

    let postgres = stack.postgres.as_ref().expect("it is the test's own");
    postgres.pause();
    publish(&stack.jetstream().await, &events("late", 300)).await;
    let only_while_it_is_away = [
        "ganesh_in_flight_messages",
        "ganesh_in_flight_bytes",
        "ganesh_queue_depth",
        "ganesh_progress_acks_total",
        "ganesh_consumer_pending_messages",
        "ganesh_consumer_ack_pending_messages",
        "ganesh_consumer_oldest_pending_seconds",
        "ganesh_postgres_connections",
    ];
    movement.wait_for(&only_while_it_is_away).await;
    remove_undelivered(&stack).await;
    movement
        .wait_for(&["ganesh_consumer_removed_messages_total"])
        .await;
    postgres.resume();
    stack.wait_until_drained().await;
    pause_by_rejections(&stack, &mut movement).await;
    refuse_letters(&stack, &mut movement).await;
    refuse_reads(&stack, &mut movement).await;
    delete_stream(&stack, &mut movement).await;
    movement.wait_for(&MOVED).await;
    let excused = |name: &str| {
        let by_chance = BY_CHANCE.iter().any(|(excused, _)| *excused == name);
        by_chance || FIXED.contains(&name)
    };
    let names = TABLE.iter().map(|metric| metric.name);
    let others: Vec<_> = names.filter(|name| !excused(name)).collect();
    assert_eq!(others.len(), TABLE.len() - FIXED.len() - BY_CHANCE.len());
    movement.wait_for(&others).await;
    for fixed in TABLE.iter().filter(|m| FIXED.contains(&m.name)) {
        assert!(!movement.has_moved(fixed), "{} has moved", fixed.name);
    }
}
