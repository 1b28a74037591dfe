//! Publishes with a bounded number of acknowledgements in flight.
//!
//! ```text
//!  schedule ─▶ send ──(room in pending?)──▶ NATS ──▶ inbox.<number> ─▶ settle
//!                ▲                           ▲                            │
//!                └────────── room ───────────┼────────────────────────────┘
//!                                  retry: overdue, or disconnected
//! ```
//!
//! All acknowledgements come to one subscription, each to the number of its message.
//! The library's `PublishAckFuture` was measured against this, three runs
//! each of 600,000 events into one server on a two-core machine that others used
//! too: it took 1.7 times the client's CPU time (18 against 11 µs a message), and
//! published at 0.5 to 0.8 times the rate. A timer, a oneshot channel, a permit and
//! a boxed future for each message cost more than the message; and a retry needs
//! the recipe, which it does not keep.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::messages::{MessageWriter, Recipe, Variant};
use super::options::{End, Options};
use super::pacer::{Pace, Pacer};
use super::pending::{ACK_TIMEOUT, Pending, Waiting};
use super::plan::{Plan, Recent};
use super::report::{self, Counts, Report};
use super::trace::{SendSpans, Sending};
use crate::error::Error;
use crate::event::Timestamp;
use crate::messaging::connection::{Disconnects, connection_error};

const RETRY_TICK: Duration = Duration::from_millis(250);
/// Acknowledgements settled under one lock, at most.
const SETTLED_AT_ONCE: usize = 256;

/// The state of all messages of the run.
#[derive(Debug)]
struct Ledger {
    pending: Pending,
    recent: Recent,
    counts: Counts,
    /// In microseconds.
    latencies: Histogram<u64>,
    /// How much later than due messages were sent. In microseconds.
    delays: Histogram<u64>,
    /// The newest words of a server that refused.
    last_refusal: Option<String>,
}

/// Sends, settles and retries; shared by the tasks that do these.
#[derive(Debug)]
pub(super) struct Publisher {
    client: Client,
    disconnects: Disconnects,
    writer: MessageWriter,
    plan: Plan,
    /// Subject of the acknowledgements, up to the message's number.
    inbox: String,
    start: Instant,
    started_at: Timestamp,
    /// Rate 0: there is no schedule, and latency counts from sending.
    paced: bool,
    ledger: Mutex<Ledger>,
    room: Notify,
    /// None where traces are not exported.
    send_spans: Option<SendSpans>,
}

impl Publisher {
    /// A publisher and the subscription that [`Self::settle_all`] reads.
    pub(super) async fn new(
        (client, disconnects): (Client, Disconnects),
        writer: MessageWriter,
        plan: Plan,
        options: &Options,
        send_spans: Option<SendSpans>,
    ) -> Result<(Self, Subscriber), Error> {
        let inbox = client.new_inbox();
        let acks = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| connection_error(&error.to_string()))?;
        let publisher = Self {
            client,
            disconnects,
            writer,
            plan,
            inbox,
            start: Instant::now(),
            started_at: Timestamp::now(),
            paced: options.rate_per_second > 0,
            ledger: Mutex::new(Ledger {
                pending: Pending::new(options.max_acks_in_flight),
                recent: Recent::default(),
                counts: Counts::default(),
                latencies: report::latencies(),
                delays: report::latencies(),
                last_refusal: None,
            }),
            room: Notify::new(),
            send_spans,
        };
        Ok((publisher, acks))
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Every holder of the lock only counts and moves plain values.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far, and how many messages wait for their acknowledgement.
    pub(super) fn progress(&self) -> (Counts, usize) {
        let ledger = self.ledger();
        (ledger.counts, ledger.pending.len())
    }

    /// What the run did; with the events that the stream acknowledged, if `lists_events`.
    pub(super) fn report(&self, seed: u64, lists_events: bool) -> Report {
        let ledger = self.ledger();
        let stored = ledger.recent.iter();
        let events = if lists_events {
            stored.map(|recipe| self.writer.listed(recipe)).collect()
        } else {
            Vec::new()
        };
        Report::new(
            seed,
            ledger.counts,
            [&ledger.latencies, &ledger.delays],
            events,
        )
    }

    /// Sends until the run's end. Cancel safe: [`Self::retry_all`] sends messages that were counted
    /// and did not reach the connection.
    pub(super) async fn send_all(&self, rate_per_second: u32, end: End) {
        let mut pacer = Pacer::new(rate_per_second);
        let mut number = 0;
        while !end.is_over(number, self.now()) {
            match pacer.next(self.now()) {
                Pace::Due(scheduled) => {
                    self.send(number, scheduled).await;
                    number += 1;
                }
                Pace::Wait(until) => {
                    self.ledger().counts.missed = pacer.missed();
                    tokio::time::sleep_until(self.start + end.not_after(until)).await;
                }
            }
        }
        self.ledger().counts.missed = pacer.missed();
    }

    async fn send(&self, number: u64, scheduled: Duration) {
        let recipe = loop {
            if let Some(recipe) = self.reserve(number, scheduled) {
                break recipe;
            }
            self.room.notified().await;
        };
        self.publish(&recipe).await;
    }

    fn reserve(&self, number: u64, scheduled: Duration) -> Option<Recipe> {
        let mut ledger = self.ledger();
        if ledger.pending.is_full() {
            return None;
        }
        let now = self.now();
        let scheduled = if self.paced { scheduled } else { now };
        // An event happens when it is due. So who compares its time with that of its row sees a producer that is late.
        let time = self.started_at.micros();
        let time = Timestamp::from_micros(time.saturating_add_unsigned(micros(scheduled)));
        let recipe = self.plan.recipe(number, time, &ledger.recent);
        ledger
            .delays
            .saturating_record(micros(now.saturating_sub(scheduled)));
        ledger.pending.insert(recipe, scheduled, now);
        ledger.counts.published(recipe.variant);
        Some(recipe)
    }

    /// Hands the message to the connection, and waits while its queue is full. A message that the
    /// client rejects (too large) stays pending, and fails in the end.
    async fn publish(&self, recipe: &Recipe) {
        let message = self.writer.write(recipe);
        let reply = format!("{}.{}", self.inbox, recipe.number);
        let handed_over = self
            .client
            .publish_with_reply_and_headers(
                message.subject,
                reply,
                message.headers,
                message.payload,
            )
            .await;
        if let Err(error) = handed_over {
            let now = self.now();
            self.ledger().refused(recipe.number, error.to_string(), now);
        }
    }

    /// Sends again what was not acknowledged in time, for as long as it is polled.
    pub(super) async fn retry_all(&self) {
        let mut tick = tokio::time::interval(RETRY_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut disconnects_seen = *self.disconnects.borrow();
        loop {
            tick.tick().await;
            let disconnects = *self.disconnects.borrow();
            let connected = self.client.connection_state() == State::Connected;
            if connected && disconnects != disconnects_seen {
                disconnects_seen = disconnects;
                self.ledger().pending.retry_all(self.now());
            }
            let overdue = self.take_overdue();
            if connected {
                self.publish_again(overdue).await;
            }
            // Otherwise the queue is blocked; all is sent again after the reconnect.
        }
    }

    /// Messages to send again; failed ones are counted and forgotten.
    fn take_overdue(&self) -> Vec<Recipe> {
        let mut ledger = self.ledger();
        let failed = ledger.pending.take_failed(self.now());
        let overdue = ledger.pending.take_overdue(self.now());
        ledger.counts.failed += failed.len() as u64;
        drop(ledger);
        self.trace(&failed, Sending::Failed);
        self.room.notify_one();
        overdue
    }

    async fn publish_again(&self, overdue: Vec<Recipe>) {
        for recipe in overdue {
            // Bounded, or a broken connection would also hold up the giving up.
            let publish = self.publish(&recipe);
            if tokio::time::timeout(ACK_TIMEOUT, publish).await.is_err() {
                return;
            }
            self.ledger().counts.retries += 1;
        }
    }

    /// Settles what the server acknowledges, for as long as it is polled.
    pub(super) async fn settle_all(&self, acks: Subscriber) {
        let mut chunks = acks.ready_chunks(SETTLED_AT_ONCE);
        while let Some(chunk) = chunks.next().await {
            let answers: Vec<_> = chunk
                .iter()
                .filter_map(|message| Some((self.number_of(message)?, answer(message))))
                .collect();
            self.settle(answers);
            self.room.notify_one();
        }
    }

    fn number_of(&self, message: &Message) -> Option<u64> {
        let number = message.subject.strip_prefix(self.inbox.as_str())?;
        number.strip_prefix('.')?.parse().ok()
    }

    fn settle(&self, answers: Vec<(u64, Result<bool, String>)>) {
        let now = self.now();
        let mut stored = Vec::new();
        let mut ledger = self.ledger();
        for (number, answer) in answers {
            match answer {
                Err(reason) => ledger.refused(number, reason, now),
                Ok(duplicate) => {
                    if let Some(waiting) = ledger.pending.remove(number) {
                        ledger.acknowledged(&waiting, duplicate, now);
                        stored.push(waiting);
                    }
                }
            }
        }
        drop(ledger);
        self.trace(&stored, Sending::Acknowledged);
    }

    fn trace(&self, ended: &[Waiting], sending: Sending) {
        if let Some(send_spans) = &self.send_spans {
            send_spans.offer(&self.writer, ended, self.now(), sending);
        }
    }

    pub(super) async fn settled(&self) {
        const POLL: Duration = Duration::from_millis(5);
        while !self.ledger().pending.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Ledger {
    fn acknowledged(&mut self, waiting: &Waiting, duplicate: bool, now: Duration) {
        let variant = waiting.recipe.variant;
        self.counts.acknowledged(variant, duplicate, now);
        self.latencies
            .saturating_record(micros(now.saturating_sub(waiting.scheduled)));
        if variant == Variant::New {
            self.recent.push(waiting.recipe);
        }
    }

    fn refused(&mut self, number: u64, reason: String, now: Duration) {
        self.pending.refused(number, now);
        if self.last_refusal.as_ref() != Some(&reason) {
            tracing::warn!(%reason, "a message was refused and is sent again");
            self.last_refusal = Some(reason);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Whether the stream held the message already, or why it was refused.
fn answer(message: &Message) -> Result<bool, String> {
    /// The part of JetStream's publish acknowledgement that matters here.
    #[derive(Deserialize)]
    struct PublishAck<'a> {
        #[serde(default)]
        duplicate: bool,
        #[serde(default, borrow)]
        error: Option<&'a serde_json::value::RawValue>,
    }
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err("no stream takes the subject".to_owned());
    }
    let ack: PublishAck<'_> = serde_json::from_slice(&message.payload)
        .map_err(|error| format!("an answer that is none: {error}"))?;
    match ack.error {
        None => Ok(ack.duplicate),
        Some(error) => Err(error.get().to_owned()),
    }
}
