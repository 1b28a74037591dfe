//! Which batch comes next, in paused time.

use async_nats::{Message, Subject};
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use std::time::Duration;

use super::state::RETRY_AFTER;
use super::*;
use crate::error::Code;
use crate::event::{self, Timestamp};
use crate::message::InFlightId;
use crate::messaging::InFlight;
use crate::messaging::delivery::ParsedDelivery;
use crate::messaging::in_flight::{self, Admission};
use crate::pipeline::queue::{Sender, queue};
use crate::pipeline::transient::TransientFailure;

struct Scene {
    in_flight: Arc<InFlight>,
    releases: UnboundedReceiver<InFlightId>,
    queue: Sender<Decoded>,
    scheduler: BatchScheduler,
}

/// Batches of one event.
fn scene() -> Scene {
    let metrics = Metrics::default();
    let (messages, bytes) = (100, 100_000);
    let limits = in_flight::Capacity { messages, bytes };
    let (in_flight, releases) = InFlight::new(limits, Duration::from_secs(30), metrics.clone());
    let (sender, receiver) = queue(metrics::Gauge::noop());
    let limits = BatchLimits { events: 1, bytes };
    let health = Health::new(metrics.clone());
    Scene {
        in_flight,
        releases,
        queue: sender,
        scheduler: BatchScheduler::new(receiver, limits, health, metrics),
    }
}

impl Scene {
    fn message(&self, sequence: u64) -> Decoded {
        let reply = format!("$JS.ACK.EVENTS.ganesh.1.{sequence}.{sequence}.1764000000000000000.0");
        let message = Message {
            subject: Subject::from("events.test"),
            reply: Some(reply.into()),
            payload: Bytes::from_static(b"{}"),
            headers: None,
            status: None,
            description: None,
            length: 100,
        };
        let parsed = ParsedDelivery::read(message).expect("it is a delivery");
        let (ack_subject, bytes) = (parsed.ack_subject.clone(), 100);
        let guards = self
            .in_flight
            .admit(std::iter::once(Admission { ack_subject, bytes }), 0);
        let guard = guards.into_iter().next().expect("one was held");
        let delivery = parsed.into_delivery("EVENTS", guard);
        let message = event::Message {
            subject: "events.test",
            headers: None,
            payload: &delivery.message.payload,
            stream: "EVENTS",
            stream_sequence: sequence,
            published_at: Timestamp::from_micros(1),
        };
        let event = event::decode(&message, true).expect("it is a plain event");
        Decoded { delivery, event }
    }

    fn send(&self, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            self.queue.send(vec![self.message(sequence)]);
        }
    }

    /// The sequence of the next batch's only message, and why it is tried.
    async fn next(&self) -> (u64, BatchOrigin, NextBatch) {
        let work = self.scheduler.next_batch().await.expect("there are more");
        let sequence = work.batch.messages[0].delivery.stream_sequence;
        (sequence, work.history.origin, work)
    }

    /// So many rows were rejected that a pause begins; this message is parked.
    async fn pause(&self, sequence: u64) {
        self.send(sequence..=sequence);
        let (_, _, work) = self.next().await;
        let mut messages = work.batch.messages;
        let rejected = messages.drain(..).map(|decoded| RejectedRow {
            decoded,
            detail: "not today".to_owned(),
        });
        let rows = vec![true; WINDOW_ROWS / 2];
        let letters = self.scheduler.record_outcome(
            work.history,
            &rows,
            rejected.collect(),
            work.batch.taken_at,
        );
        assert!(letters.is_empty(), "it is parked");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_probe_of_duplicates_alone_what_is_parked_is_tried_at_once() {
    let scene = scene();
    scene.pause(1).await;
    scene.send(2..=9);
    let began = Instant::now();
    let (sequence, origin, work) = scene.next().await;
    assert_eq!((sequence, origin), (2, BatchOrigin::Probe));
    assert!(began.elapsed() >= PROBE_EVERY);
    scene
        .scheduler
        .record_outcome(work.history, &[], Vec::new(), 1);
    let (sequence, origin, work) = scene.next().await;
    assert_eq!((sequence, origin), (1, BatchOrigin::Probe));
    assert!(began.elapsed() < PROBE_EVERY * 2, "at once");
    scene
        .scheduler
        .record_outcome(work.history, &[false], Vec::new(), 1);
    let (sequence, origin, _) = scene.next().await;
    assert_eq!((sequence, origin), (3, BatchOrigin::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_single_writer_takes_turns_between_what_is_parked_and_what_is_fresh() {
    let scene = scene();
    scene.send(1..=2);
    scene
        .scheduler
        .park_alone((11..=12).map(|sequence| scene.message(sequence)).collect());
    let mut order = Vec::new();
    for _ in 0..4 {
        let (sequence, _, work) = scene.next().await;
        order.push(sequence);
        scene
            .scheduler
            .record_outcome(work.history, &[false], Vec::new(), 1);
    }
    assert_eq!(order, [11, 1, 12, 2]);
}

#[tokio::test(start_paused = true)]
async fn one_parked_batch_is_tried_at_a_time_and_an_unexplained_one_later() {
    let scene = scene();
    scene
        .scheduler
        .park_alone(vec![scene.message(11), scene.message(12)]);
    let (first, _, work) = scene.next().await;
    assert_eq!(first, 11);
    scene.send(1..=1);
    let (fresh, _, _) = scene.next().await;
    assert_eq!(
        fresh, 1,
        "another writer does not try the other one meanwhile"
    );
    let failures = SeenFailures {
        rejected_in_attempt: Some(7),
        ..SeenFailures::default()
    };
    scene
        .scheduler
        .park_again(work.batch, work.history, failures, true);
    let (other, _, work) = scene.next().await;
    assert_eq!(other, 12);
    scene
        .scheduler
        .record_outcome(work.history, &[false], Vec::new(), 1);
    let began = Instant::now();
    let (again, origin, work) = scene.next().await;
    assert_eq!((again, origin), (11, BatchOrigin::Fresh));
    assert!(began.elapsed() >= RETRY_AFTER.0);
    assert_eq!(work.history.failures.rejected_in_attempt, Some(7));
}

fn failed(newest: u64, others_stored: bool) -> TransientFailure {
    TransientFailure {
        code: Code::Resources,
        has_answer: true,
        newest,
        others_stored,
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_while_nobody_was_stored_is_tried_at_once_when_others_are_and_once_only() {
    let scene = scene();
    scene.send(1..=3);
    let (first, _, work) = scene.next().await;
    assert_eq!(first, 1);
    let mut failures = SeenFailures::default();
    failures.transient.add(failed(1, false), Instant::now());
    scene
        .scheduler
        .park_again(work.batch, work.history, failures, true);
    for (fresh, is_tried_at_once) in [(2, true), (3, false)] {
        let began = Instant::now();
        let (sequence, _, work) = scene.next().await;
        assert_eq!(sequence, fresh);
        scene
            .scheduler
            .record_outcome(work.history, &[false], Vec::new(), 1);
        let (again, _, work) = scene.next().await;
        assert_eq!(again, 1);
        assert_eq!(began.elapsed().is_zero(), is_tried_at_once);
        failures.transient.add(failed(2, true), Instant::now());
        scene
            .scheduler
            .park_again(work.batch, work.history, failures, true);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_end_what_is_parked_during_a_pause_is_released() {
    let mut scene = scene();
    scene.pause(1).await;
    let Scene {
        queue,
        scheduler,
        releases,
        ..
    } = &mut scene;
    std::mem::drop(std::mem::replace(
        queue,
        super::super::queue::queue(metrics::Gauge::noop()).0,
    ));
    assert!(scheduler.next_batch().await.is_none());
    assert!(releases.is_empty(), "it is held");
    let (other, receiver) = super::super::queue::queue(metrics::Gauge::noop());
    drop(other);
    let metrics = Metrics::default();
    let limits = BatchLimits {
        events: 1,
        bytes: 1,
    };
    let health = Health::new(metrics.clone());
    *scheduler = BatchScheduler::new(receiver, limits, health, metrics);
    assert_eq!(releases.len(), 1);
}
