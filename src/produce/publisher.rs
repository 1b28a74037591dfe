//! Publishes with a bounded number of acknowledgements in flight.
//!
//! ```text
//!  schedule ─▶ send ──(room in pending?)──▶ NATS ──▶ inbox.<token> ─▶ settle
//!                ▲                           ▲                           │
//!                └────────── room ───────────┼───────────────────────────┘
//!                                  retry: overdue, or disconnected
//! ```
//!
//! All acknowledgements come to one subscription, and a slab says what waits for
//! them. The library's `PublishAckFuture` was measured against this, three runs
//! each of 600,000 events into one server on a two-core machine that others used
//! too: it took 1.7 times the client's CPU time (18 against 11 µs a message), and
//! published at 0.5 to 0.8 times the rate. A timer, a oneshot channel, a permit and
//! a boxed future for each message cost more than the message; and a retry needs
//! the recipe, which it does not keep.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::freshness::Freshness;
use super::latency::Latencies;
use super::messages::{MessageWriter, Recipe, Variant};
use super::options::{End, Options};
use super::pacer::{Pace, Pacer};
use super::pending::{ACK_TIMEOUT, Overdue, Pending, Token, Waiting};
use super::plan::Plan;
use super::recent::{Recent, Sent};
use super::report::{Counts, ListedEvent};
use super::trace::{SendSpans, Sending};
use crate::error::Error;
use crate::event::Timestamp;
use crate::messaging::connection::{Drops, connection_error};

const RETRY_TICK: Duration = Duration::from_millis(250);
/// Acknowledgements settled under one lock, at most.
const SETTLED_AT_ONCE: usize = 256;

/// The state of all messages of the run.
#[derive(Debug)]
pub(super) struct Ledger {
    pending: Pending,
    pub(super) recent: Recent,
    pub(super) counts: Counts,
    pub(super) latencies: Latencies,
    /// The newest words of a server that refused.
    pub(super) last_refusal: Option<String>,
}

/// Sends, settles and retries; shared by the tasks that do these.
#[derive(Debug)]
pub(super) struct Publisher {
    client: Client,
    drops: Drops,
    writer: MessageWriter,
    plan: Plan,
    /// Subject of the acknowledgements, up to the token.
    inbox: String,
    start: Instant,
    /// Rate 0: there is no schedule, and latency counts from sending.
    paced: bool,
    ledger: Mutex<Ledger>,
    room: Notify,
    freshness: Option<Arc<Mutex<Freshness>>>,
    /// None where traces are not exported.
    send_spans: Option<SendSpans>,
}

impl Publisher {
    /// A publisher and the subscription that [`Self::settle_all`] reads.
    pub(super) async fn new(
        (client, drops): (Client, Drops),
        writer: MessageWriter,
        plan: Plan,
        options: &Options,
        freshness: Option<Arc<Mutex<Freshness>>>,
        send_spans: Option<SendSpans>,
    ) -> Result<(Self, Subscriber), Error> {
        let inbox = client.new_inbox();
        let acks = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| connection_error(&error.to_string()))?;
        let publisher = Self {
            client,
            drops,
            writer,
            plan,
            inbox,
            start: Instant::now(),
            paced: options.rate_per_second > 0,
            ledger: Mutex::new(Ledger {
                pending: Pending::new(options.max_acks_in_flight),
                recent: Recent::default(),
                counts: Counts::default(),
                latencies: Latencies::default(),
                last_refusal: None,
            }),
            room: Notify::new(),
            freshness,
            send_spans,
        };
        Ok((publisher, acks))
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The moment on tokio's clock that is so long after the start of the run.
    pub(super) fn instant(&self, since_start: Duration) -> Instant {
        self.start + since_start
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(super) fn rank(&self, event: u64) -> u32 {
        self.writer.rank(event)
    }

    /// The events that the stream acknowledged, oldest first.
    pub(super) fn stored_events(&self) -> Vec<ListedEvent> {
        let ledger = self.ledger();
        let stored = ledger.recent.all().iter();
        stored.map(|sent| self.writer.stored_event(sent)).collect()
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
                    tokio::time::sleep_until(self.instant(end.not_after(until))).await;
                }
            }
        }
        self.ledger().counts.missed = pacer.missed();
    }

    async fn send(&self, number: u64, scheduled: Duration) {
        let (token, recipe) = loop {
            if let Some(reserved) = self.reserve(number, scheduled) {
                break reserved;
            }
            self.room.notified().await;
        };
        self.publish(token, &recipe).await;
    }

    fn reserve(&self, number: u64, scheduled: Duration) -> Option<(Token, Recipe)> {
        let mut ledger = self.ledger();
        if ledger.pending.is_full() {
            return None;
        }
        let now = self.now();
        let recipe = self.plan.recipe(number, Timestamp::now(), &ledger.recent);
        let scheduled = if self.paced { scheduled } else { now };
        let token = ledger.pending.insert(recipe, scheduled, now)?;
        ledger.counts.published(recipe.variant);
        Some((token, recipe))
    }

    /// Hands the message to the connection, and waits while its queue is full. A message that the
    /// client rejects (too large) stays pending, and fails in the end.
    async fn publish(&self, token: Token, recipe: &Recipe) {
        let message = self.writer.write(recipe);
        let reply = format!("{}.{}", self.inbox, token.to_text());
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
            self.ledger().refused(token, error.to_string(), self.now());
        }
    }

    /// Sends again what was not acknowledged in time, for as long as it is polled.
    pub(super) async fn retry_all(&self) {
        let mut tick = tokio::time::interval(RETRY_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drops_seen = *self.drops.borrow();
        loop {
            tick.tick().await;
            let drops = *self.drops.borrow();
            let connected = self.client.connection_state() == State::Connected;
            if connected && drops != drops_seen {
                drops_seen = drops;
                self.ledger().pending.retry_all(self.now());
            }
            let overdue = self.overdue();
            if connected {
                self.publish_again(overdue).await;
            }
            // Otherwise the queue is blocked; all is sent again after the reconnect.
        }
    }

    /// Messages to send again; failed ones are counted and forgotten.
    fn overdue(&self) -> Vec<(Token, Recipe)> {
        let mut ledger = self.ledger();
        let overdue = ledger.pending.overdue(self.now());
        let mut retries = Vec::with_capacity(overdue.len());
        let mut failed = Vec::new();
        for message in overdue {
            match message {
                Overdue::Retry(token, recipe) => retries.push((token, recipe)),
                Overdue::Failed(waiting) => {
                    ledger.counts.failed += 1;
                    failed.push(waiting);
                }
            }
        }
        drop(ledger);
        self.trace(&failed, Sending::Failed);
        self.room.notify_one();
        retries
    }

    async fn publish_again(&self, retries: Vec<(Token, Recipe)>) {
        for (token, recipe) in retries {
            // Bounded, or a broken connection would also hold up the giving up.
            let publish = self.publish(token, &recipe);
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
                .filter_map(|message| Some((self.token_of(message)?, answer(message))))
                .collect();
            self.settle(answers);
            self.room.notify_one();
        }
    }

    fn token_of(&self, message: &Message) -> Option<Token> {
        let text = message.subject.strip_prefix(self.inbox.as_str())?;
        Token::parse(text.strip_prefix('.')?)
    }

    fn settle(&self, answers: Vec<(Token, PublishAnswer)>) {
        let now = self.now();
        let (mut stored, mut sequences) = (Vec::new(), Vec::new());
        let mut ledger = self.ledger();
        for (token, answer) in answers {
            match answer {
                PublishAnswer::Refused(words) => ledger.refused(token, words, now),
                PublishAnswer::Stored {
                    duplicate,
                    sequence,
                } => {
                    if let Some(waiting) = ledger.pending.remove(token) {
                        ledger.acknowledged(&waiting, duplicate, now);
                        sequences.push(sequence);
                        stored.push(waiting);
                    }
                }
            }
        }
        drop(ledger);
        self.trace(&stored, Sending::Acknowledged);
        if let Some(freshness) = &self.freshness {
            let mut freshness = lock(freshness);
            for (waiting, sequence) in stored.iter().zip(sequences) {
                let recipe = waiting.recipe;
                if recipe.variant == Variant::New {
                    freshness.stored(self.rank(recipe.event), recipe.time, sequence, now);
                }
            }
        }
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
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn acknowledged(&mut self, waiting: &Waiting, duplicate: bool, now: Duration) {
        self.counts
            .acknowledged(waiting.recipe.variant, duplicate, now);
        self.latencies.record(now.saturating_sub(waiting.scheduled));
        if waiting.recipe.variant == Variant::New {
            self.recent.push(Sent {
                event: waiting.recipe.event,
                time: waiting.recipe.time,
            });
        }
    }

    fn refused(&mut self, token: Token, words: String, now: Duration) {
        self.pending.refused(token, now);
        if self.last_refusal.as_ref() != Some(&words) {
            tracing::warn!(reason = %words, "a message was refused and is sent again");
            self.last_refusal = Some(words);
        }
    }
}

/// Every holder of these locks only counts and moves plain values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum PublishAnswer {
    /// The stream holds it, at this sequence; `duplicate` when it did before.
    Stored { duplicate: bool, sequence: u64 },
    /// The stream rejected it, for this reason.
    Refused(String),
}

/// The part of `JetStream`'s publish acknowledgement that matters here.
#[derive(Deserialize)]
struct PublishAck<'a> {
    #[serde(default)]
    duplicate: bool,
    #[serde(default, rename = "seq")]
    sequence: u64,
    #[serde(default, borrow)]
    error: Option<&'a serde_json::value::RawValue>,
}

fn answer(message: &Message) -> PublishAnswer {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return PublishAnswer::Refused("no stream takes the subject".to_owned());
    }
    match serde_json::from_slice::<PublishAck<'_>>(&message.payload) {
        Ok(PublishAck {
            error: None,
            duplicate,
            sequence,
        }) => PublishAnswer::Stored {
            duplicate,
            sequence,
        },
        Ok(PublishAck {
            error: Some(error), ..
        }) => PublishAnswer::Refused(error.get().to_owned()),
        Err(error) => PublishAnswer::Refused(format!("an answer that is none: {error}")),
    }
}
