//! Dead letters, failed attempts and redeliveries become traces, each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ganesh::event::{Data, Event};
use rustix::process::Signal;

use super::shape::{Whole, wait_for_traces};
use crate::support::collector::Collector;
use crate::support::events::{event, events, publish, publish_invalid};
use crate::support::servers::send_signal;
use crate::support::{Stack, eventually};

/// Longer than anything takes here.
const NEVER_SLOW: (&str, &str) = ("GANESH_TRACE_SLOW_MS", "600000");
/// Messages that are delivered twice.
const TWICE: usize = 5;
const TWICE_HELD: f64 = 5.0;

#[tokio::test]
async fn every_dead_letter_is_a_trace_with_the_stage_that_refused_it() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[NEVER_SLOW]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let refused = Event {
        data: Data::Json(Bytes::from_static(b"{\"nul\":\"\\u0000\"}")),
        ..event("refused")
    };
    publish_invalid(&jetstream).await;
    let mut batch = events("fine", 20);
    batch.push(refused);
    publish(&jetstream, &batch).await;
    stack.wait_until_drained().await;
    let arrived = wait_for_traces(&collector, 2).await;
    assert_eq!(
        arrived.len(),
        2,
        "those that were stored are not among them"
    );
    let undecoded = arrived.iter().find(|whole| whole.event().is_empty());
    let undecoded = undecoded.expect("what is no event has a trace without one");
    assert_eq!(undecoded.keep_reason(), "failed");
    assert_eq!(undecoded.names(), ["stream", "decode", "settle"]);
    assert!(undecoded.process.is_error);
    assert_eq!(
        undecoded.process.attribute("error.type"),
        "missing_attribute"
    );
    assert_eq!(
        undecoded.stage("decode").attribute("error.type"),
        "missing_attribute"
    );
    let rejected = arrived.iter().find(|whole| whole.event() == "refused");
    let rejected = rejected.expect("the refused row's trace has its event");
    assert_eq!(
        rejected.names(),
        ["stream", "decode", "queue", "store", "settle"]
    );
    assert!(rejected.stage("store").is_error && rejected.process.is_error);
    assert_eq!(
        rejected.stage("store").attribute("error.type"),
        "rejected_row"
    );
    // untranslatable_character: there is no \u0000 in a jsonb.
    let state = rejected.stage("store").attribute("db.response.status_code");
    assert_eq!(state, "22P05");
    assert_eq!(
        rejected.process.attribute("ganesh.outcome"),
        "dead_lettered"
    );
    let failed = ganesh
        .metric("ganesh_traces_total{decision=\"failed\"}")
        .await;
    assert!((failed - 2.0).abs() < f64::EPSILON);
    // The letter carries the id that leads to its trace.
    let letter = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = letter.get_raw_message(1).await.unwrap();
    let trace_id = letter
        .headers
        .get("ganesh-dlq-trace-id")
        .unwrap()
        .to_string();
    assert_eq!(trace_id, undecoded.process.trace_id);
}

#[tokio::test]
async fn a_batch_that_was_written_at_the_second_attempt_shows_the_first() {
    let mut stack = Stack::start_with_own_postgres().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[NEVER_SLOW]);
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    stack.postgres.as_mut().unwrap().kill();
    publish(&jetstream, &events("e", 10)).await;
    eventually("an attempt fails", || async {
        let log = ganesh.log();
        log.contains("a batch was not stored")
    })
    .await;
    stack.postgres.as_mut().unwrap().run();
    stack.wait_until_drained().await;
    let arrived = wait_for_traces(&collector, 10).await;
    let ids: BTreeSet<&str> = arrived.iter().map(Whole::event).collect();
    assert_eq!((arrived.len(), ids.len()), (10, 10));
    let mut shown = 0;
    for whole in &arrived {
        let store = whole.stage("store");
        // In the end it succeeded.
        assert!(!store.is_error && !whole.process.is_error);
        for attempt in &store.events {
            assert_eq!(attempt.name, "ganesh.attempt_failed");
            assert!(!attempt.attributes["error.type"].is_empty());
        }
        assert_eq!(whole.keep_reason(), "failed");
        assert_eq!(whole.longest().name, "store");
        shown += usize::from(!store.events.is_empty());
    }
    assert_eq!(shown, 10);
}

#[tokio::test]
async fn redeliveries_and_their_first_deliveries_are_in_one_trace_each() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings =
        collector.settings_with(&[("GANESH_TRACE_SLOW_MS", "100"), ("GANESH_ACK_WAIT", "2s")]);
    let both = [stack.serve(&settings).await, stack.serve(&settings).await];
    // All of them to the first: what the other has asked for expires after a second.
    send_signal(both[1].pid(), Signal::STOP);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut lock = stack.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    publish(&stack.jetstream().await, &events("twice", TWICE)).await;
    let held = |i: usize| both[i].metric("ganesh_in_flight_messages");
    let holds_all = async |i| held(i).await >= TWICE_HELD;
    eventually("one has them", || holds_all(0)).await;
    // It sends no progress acknowledgement now, so the server delivers again, to the other.
    send_signal(both[0].pid(), Signal::STOP);
    send_signal(both[1].pid(), Signal::CONT);
    eventually("the other has them too", || holds_all(1)).await;
    lock.rollback().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    send_signal(both[0].pid(), Signal::CONT);
    stack.wait_until_drained().await;
    let arrived = wait_for_traces(&collector, 2 * TWICE).await;
    assert_eq!(arrived.len(), 2 * TWICE);
    let rows: BTreeMap<String, String> = sqlx::query_as("SELECT id, trace_id FROM events")
        .fetch_all(&stack.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(rows.len(), TWICE);
    for (id, trace_id) in &rows {
        let of_event: Vec<&Whole> = arrived.iter().filter(|w| w.event() == id).collect();
        let [one, other] = of_event.as_slice() else {
            panic!("not two of {id}: {of_event:#?}");
        };
        assert_eq!(one.process.trace_id, *trace_id);
        assert_eq!(other.process.trace_id, *trace_id);
        assert_ne!(one.process.id, other.process.id);
        let mut deliveries = [one, other].map(|whole| {
            (
                whole.process.attribute("ganesh.deliveries"),
                whole.keep_reason(),
            )
        });
        deliveries.sort_unstable();
        assert_eq!(deliveries, [("1", "slow"), ("2", "redelivered")]);
    }
}
