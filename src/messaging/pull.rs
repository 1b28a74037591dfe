//! Pull requests of a consumer. The next one is sent before the last one ends. The register reserves the
//! capacity that each may still fill.
//!
//! The server serves waiting requests in turn, and a message does not say which request it answers.
//! So each request has a subscription of its own. An overdue request keeps its reserved capacity while
//! its messages can still arrive.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt;
use futures::stream::ReadyChunks;
use tokio::time::Instant;

use super::InFlight;
use super::consumer::ConsumerWatch;
use super::in_flight::Capacity;
use super::streams::api_error;
use crate::error::Error;

/// Messages read at once at most.
const CHUNK_MAX_MESSAGES: usize = 256;
/// Requests under way at most, without those whose end is overdue.
pub(crate) const PULLS_MAX: usize = 2;
/// An unfilled request ends after this time; a shutdown waits for it.
pub(crate) const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// The next request is sent when the last one is this old, so that it arrives before the last one
/// ends.
const NEXT_PULL_AFTER: Duration = Duration::from_millis(800);
/// How long the end of a request may be late on a starved machine. After that it is overdue, or
/// lost.
pub(crate) const PULL_END_GRACE: Duration = Duration::from_secs(4);
/// How much of its request the server did not fill, in the status that ends it.
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";

pub(crate) struct Pulls {
    client: Client,
    consumer: PullConsumer,
    consumer_watch: Arc<ConsumerWatch>,
    in_flight: Arc<InFlight>,
    /// The oldest first.
    requests: Vec<Pull>,
}

/// A request that the server may still answer.
struct Pull {
    messages: ReadyChunks<Subscriber>,
    /// The consumer that it was sent to ([`InFlight::consumer_generation`]).
    consumer_generation: u64,
    asked: Capacity,
    /// The capacity that it may still fill.
    left: Capacity,
    has_brought: bool,
    /// Its end is overdue, was lost with the connection, or came before its last messages, which wait for
    /// a quorum on a replicated consumer.
    is_late: bool,
    /// Not late: when the end becomes overdue. Late: when ganesh forgets the request.
    until: Instant,
    next_after: Instant,
}

/// Some messages of one request, and its end, if it came with them.
pub(crate) struct PulledMessages {
    pub(crate) messages: Vec<Message>,
    /// The consumer that delivered them ([`InFlight::consumer_generation`]).
    pub(crate) consumer_generation: u64,
    /// The end of the request, if it ended.
    pub(crate) end: Option<PullEnd>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PullEnd {
    /// Filled, expired, or ended by the server in the ordinary way.
    Ordinary,
    /// The consumer was deleted, or JetStream does not answer.
    Gone,
    /// The next message has more bytes than this request, which brought nothing, had room for.
    TooLarge { asked_bytes: usize },
    /// The server refused it.
    Failed(String),
}

impl Pulls {
    /// No request is under way yet.
    pub(crate) fn new(
        client: Client,
        (consumer, consumer_watch): (PullConsumer, Arc<ConsumerWatch>),
        in_flight: Arc<InFlight>,
    ) -> Self {
        Self {
            client,
            consumer,
            consumer_watch,
            in_flight,
            requests: Vec::new(),
        }
    }

    /// Returns whether a request may still bring messages.
    pub(crate) fn are_under_way(&self) -> bool {
        !self.requests.is_empty()
    }

    /// When to send the next request, so that it is there before the last one ends.
    pub(crate) fn next_after(&self, now: Instant) -> Option<Instant> {
        let live = self.requests.iter().filter(|pull| !pull.is_late);
        match live.clone().next_back() {
            None => Some(now),
            Some(_) if live.count() >= PULLS_MAX => None,
            Some(last) if last.left.messages * 2 <= last.asked.messages => Some(now),
            Some(last) => Some(last.next_after),
        }
    }

    /// Asks for as much as there is capacity for, as far as the consumer allows.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub(crate) async fn send(&mut self, mut asked: Capacity) -> Result<(), Error> {
        asked.messages = asked.messages.min(self.consumer_watch.max_batch());
        let request = BatchConfig {
            batch: asked.messages,
            max_bytes: asked.bytes,
            expires: Some(PULL_EXPIRES),
            ..BatchConfig::default()
        };
        let reply = Subject::from(self.client.new_inbox());
        let subscription = self.client.subscribe(reply.clone()).await;
        let subscription = subscription.map_err(|error| api_error(&error.to_string()))?;
        let consumer_generation = self.in_flight.consumer_generation();
        let sent = self.consumer.request_batch(request, reply).await;
        sent.map_err(|error| api_error(&error.to_string()))?;
        self.in_flight.reserve(asked);
        let now = Instant::now();
        self.requests.push(Pull {
            messages: subscription.ready_chunks(CHUNK_MAX_MESSAGES),
            consumer_generation,
            asked,
            left: asked,
            has_brought: false,
            is_late: false,
            until: now + PULL_EXPIRES + PULL_END_GRACE,
            next_after: now + NEXT_PULL_AFTER,
        });
        Ok(())
    }

    /// Returns the next messages; `None` when the client is closed. Cancel safe. The caller
    /// registers the messages before it asks for capacity again.
    pub(crate) async fn next(&mut self) -> Option<PulledMessages> {
        let (place, chunk) = poll_fn(|context| {
            for (place, pull) in self.requests.iter_mut().enumerate() {
                if let Poll::Ready(chunk) = pull.messages.poll_next_unpin(context) {
                    return Poll::Ready((place, chunk));
                }
            }
            Poll::Pending
        })
        .await;
        let pull = &mut self.requests[place];
        let (pulled, mut freed) = pull.take(chunk?);
        if pull.left.messages == 0 {
            freed += self.requests.remove(place).left;
        }
        self.in_flight.unreserve(freed);
        Some(pulled)
    }

    /// Call after a reconnect: nobody knows which requests arrived. Those that did expire soon.
    pub(crate) fn discard_all(&mut self) {
        let until = Instant::now() + PULL_EXPIRES + PULL_END_GRACE;
        for pull in self.requests.iter_mut().filter(|pull| !pull.is_late) {
            (pull.is_late, pull.until) = (true, until);
        }
    }

    /// When [`Self::drop_overdue`] has something to do.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        self.requests.iter().map(|pull| pull.until).min()
    }

    /// Forgets late requests that have expired. Returns whether another request became overdue; its
    /// messages may arrive until `ack_wait`.
    pub(crate) fn drop_overdue(&mut self) -> bool {
        let now = Instant::now();
        let is_over = |pull: &mut Pull| pull.is_late && pull.until <= now;
        for over in self.requests.extract_if(.., is_over) {
            self.in_flight.unreserve(over.left);
        }
        let until = now + self.in_flight.ack_wait();
        let mut is_overdue = false;
        for pull in self.requests.iter_mut().filter(|pull| pull.until <= now) {
            (pull.is_late, pull.until) = (true, until);
            is_overdue = true;
        }
        is_overdue
    }
}

impl Pull {
    /// Takes the arrived messages. Returns them and the reserved capacity that they free.
    fn take(&mut self, chunk: Vec<Message>) -> (PulledMessages, Capacity) {
        let mut pulled = PulledMessages {
            messages: Vec::with_capacity(chunk.len()),
            consumer_generation: self.consumer_generation,
            end: None,
        };
        let mut freed = Capacity::default();
        for message in chunk {
            match message.status {
                // A message with a reply subject is a delivery, even if it has a status.
                Some(status) if message.reply.is_none() => {
                    freed += self.end(&message);
                    pulled.end = Some(self.meaning(status, message.description.as_deref()));
                }
                _ => {
                    freed += self.fill(message.length);
                    pulled.messages.push(message);
                }
            }
        }
        (pulled, freed)
    }

    fn fill(&mut self, bytes: usize) -> Capacity {
        self.has_brought = true;
        // More than was asked for comes only from who publishes on our inbox.
        let filled = Capacity {
            messages: self.left.messages.min(1),
            bytes: self.left.bytes.min(bytes),
        };
        self.left -= filled;
        filled
    }

    /// The server says how much of the request it did not fill (`Nats-Pending-Messages`): the rest was
    /// sent, or is on its way.
    fn end(&mut self, status: &Message) -> Capacity {
        let headers = status.headers.as_ref();
        let pending = headers.and_then(|headers| headers.get(PENDING_MESSAGES));
        let pending = pending.and_then(|pending| pending.as_str().parse().ok());
        let unfilled = pending
            .unwrap_or(self.left.messages)
            .min(self.left.messages);
        let is_over = unfilled == self.left.messages;
        let freed = Capacity {
            messages: unfilled,
            bytes: if is_over { self.left.bytes } else { 0 },
        };
        self.left -= freed;
        self.is_late = true;
        self.until = Instant::now() + PULL_END_GRACE;
        freed
    }

    /// What a status says that ends a request (NATS ADR-13).
    fn meaning(&self, status: StatusCode, description: Option<&str>) -> PullEnd {
        let description = description.unwrap_or("");
        let is = |text| description.eq_ignore_ascii_case(text);
        match status {
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => PullEnd::Ordinary,
            StatusCode::REQUEST_TERMINATED if is("batch completed") => PullEnd::Ordinary,
            StatusCode::REQUEST_TERMINATED if is("message size exceeds maxbytes") => {
                if self.has_brought {
                    return PullEnd::Ordinary;
                }
                let asked_bytes = self.asked.bytes;
                PullEnd::TooLarge { asked_bytes }
            }
            StatusCode::REQUEST_TERMINATED if is("consumer deleted") => PullEnd::Gone,
            StatusCode::NO_RESPONDERS => PullEnd::Gone,
            status => PullEnd::Failed(format!("{status} {description}")),
        }
    }
}
