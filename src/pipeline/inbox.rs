//! Where pulls are answered: what arrives goes into the register, and the end of the pull is
//! found in it.

use std::collections::VecDeque;
use std::sync::Arc;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt;
use futures::stream::ReadyChunks;
use tokio::sync::mpsc::Sender;

use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::delivery::Arrived;
use crate::messaging::held::{Arrival, Reservation};
use crate::messaging::{Delivery, Held};
use crate::telemetry::Metrics;
use crate::telemetry::logs::RateLimit;

/// Messages handed on at once at most: few channel operations, and decode starts early.
const CHUNK_MAX_MESSAGES: usize = 256;
/// Headers of a message that take no more memory than the limits allow for.
const HEADERS_UNCOUNTED: usize = 32;
/// What each further one takes beside its bytes: 131 were measured of short ones, by the thousand.
const HEADER_BYTES: usize = 150;

/// Where pulls are answered: a subscription, and the number of the pull that is under way.
pub(super) struct Inbox {
    prefix: String,
    pull: u64,
    messages: ReadyChunks<Subscriber>,
}

/// Takes messages into the register.
pub(super) struct Intake {
    pub(super) held: Arc<Held>,
    pub(super) metrics: Metrics,
    pub(super) stream: String,
    /// Who publishes on our inbox can do so at any rate.
    pub(super) strangers: RateLimit,
}

/// How a pull ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PullEnd {
    /// Filled, expired, or ended by the server in the ordinary way.
    Ordinary,
    /// The connection dropped: nobody knows what of it arrived at the server.
    Cut,
    /// Its end is overdue.
    Overdue,
    /// The consumer was deleted, or JetStream does not answer.
    Gone,
    /// The next message has more bytes than the pull had room for.
    TooLarge,
    /// The server refused it.
    Failed(String),
    /// Nobody takes our output any more.
    Closed,
}

impl Inbox {
    pub(super) async fn open(client: &Client) -> Result<Self, Error> {
        let prefix = client.new_inbox();
        let subscription = client
            .subscribe(format!("{prefix}.*"))
            .await
            .map_err(|error| {
                let detail = error.to_string();
                Error::new(Dependency::Nats, Class::Transient, Code::Connection, detail)
            })?;
        Ok(Self {
            prefix,
            pull: 0,
            messages: subscription.ready_chunks(CHUNK_MAX_MESSAGES),
        })
    }

    pub(super) fn next_reply(&mut self) -> Subject {
        self.pull += 1;
        Subject::from(format!("{}.{}", self.prefix, self.pull))
    }

    fn reply(&self) -> Subject {
        Subject::from(format!("{}.{}", self.prefix, self.pull))
    }

    /// Reads the pull under way to its end. What arrives fills its room, and is held even when
    /// nobody takes it yet: unread it would be delivered again after `ack_wait`. Can be stopped
    /// anywhere.
    pub(super) async fn read(
        &mut self,
        intake: &Arc<Intake>,
        room: &mut Reservation,
        outbox: &mut Outbox,
    ) -> PullEnd {
        let reply = self.reply();
        while room.left().messages > 0 {
            let chunk = tokio::select! {
                biased;
                taken = outbox.hand_on_one(), if !outbox.is_empty() => match taken {
                    Ok(()) => continue,
                    Err(Closed) => return PullEnd::Closed,
                },
                chunk = self.messages.next() => chunk,
            };
            let Some(chunk) = chunk else {
                return PullEnd::Closed;
            };
            let (deliveries, end) = intake.take(chunk, &reply);
            let bytes = deliveries.iter().map(|d| d.message.length).sum();
            room.fill(deliveries.len(), bytes);
            outbox.push(deliveries);
            if let Some(end) = end {
                return end;
            }
        }
        PullEnd::Ordinary
    }
}

/// Nobody takes our output any more.
pub(super) struct Closed;

/// What is held and was not handed on yet, in order: while nothing is stored the channels behind
/// are full long before the limits are reached.
pub(super) struct Outbox {
    output: Sender<Vec<Delivery>>,
    waiting: VecDeque<Vec<Delivery>>,
}

impl Outbox {
    pub(super) fn new(output: Sender<Vec<Delivery>>) -> Self {
        Self {
            output,
            waiting: VecDeque::new(),
        }
    }

    /// An empty one to the same place.
    pub(super) fn another(&self) -> Self {
        Self::new(self.output.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn push(&mut self, deliveries: Vec<Delivery>) {
        match self.waiting.back_mut() {
            Some(last) if last.len() + deliveries.len() <= CHUNK_MAX_MESSAGES => {
                last.extend(deliveries);
            }
            _ if deliveries.is_empty() => {}
            _ => self.waiting.push_back(deliveries),
        }
    }

    /// Hands on a chunk when there is place for it. Can be stopped anywhere.
    pub(super) async fn hand_on_one(&mut self) -> Result<(), Closed> {
        let permit = self.output.reserve().await.map_err(|_| Closed)?;
        if let Some(deliveries) = self.waiting.pop_front() {
            permit.send(deliveries);
        }
        Ok(())
    }

    /// Hands on what waits while something else goes on.
    pub(super) async fn while_waiting<T>(
        &mut self,
        other: impl Future<Output = T>,
    ) -> Result<T, Closed> {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                biased;
                done = &mut other => return Ok(done),
                taken = self.hand_on_one(), if !self.is_empty() => taken?,
            }
        }
    }

    /// Hands on all that waits.
    pub(super) async fn hand_on(&mut self) -> Result<(), Closed> {
        while !self.is_empty() {
            self.hand_on_one().await?;
        }
        Ok(())
    }
}

impl Intake {
    fn mention_stranger(&self, subject: &str) {
        if let Some(suppressed) = self.strangers.allow() {
            tracing::warn!(subject, suppressed, "not a delivery of a consumer");
        }
    }

    /// Takes the messages of a chunk into the register, and finds the end of the pull in it.
    fn take(&self, chunk: Vec<Message>, reply: &Subject) -> (Vec<Delivery>, Option<PullEnd>) {
        let mut end = None;
        let mut arrived = Vec::with_capacity(chunk.len());
        for message in chunk {
            match message.status {
                // What is to be acknowledged is a delivery, whatever its header block begins with.
                Some(status) if message.reply.is_none() => {
                    if message.subject == *reply {
                        end = Some(end_of_pull(status, message.description.as_deref()));
                    }
                }
                _ => match Arrived::read(message) {
                    Ok(message) => arrived.push(message),
                    Err(subject) => self.mention_stranger(&subject),
                },
            }
        }
        let redelivered = arrived.iter().filter(|a| a.metadata.delivered > 1).count();
        self.metrics.received.increment(arrived.len() as u64);
        self.metrics.redelivered.increment(redelivered as u64);
        let ids = self.held.hold(arrived.iter().map(|arrived| Arrival {
            reply: arrived.reply.clone(),
            bytes: bytes_in_memory(&arrived.message),
        }));
        let deliveries = ids
            .into_iter()
            .zip(arrived)
            .map(|(id, arrived)| arrived.into_delivery(&self.stream, id, &self.held))
            .collect();
        (deliveries, end)
    }
}

/// As delivered; where there are many headers, with what each of them takes beside its bytes.
fn bytes_in_memory(message: &Message) -> usize {
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    let values: usize = headers.map(|(_, values)| values.len()).sum();
    message.length + values.saturating_sub(HEADERS_UNCOUNTED) * HEADER_BYTES
}

/// Status messages of pull requests (ADR-13).
fn end_of_pull(status: StatusCode, description: Option<&str>) -> PullEnd {
    let description = description.unwrap_or("");
    match status {
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => PullEnd::Ordinary,
        StatusCode::REQUEST_TERMINATED if description.eq_ignore_ascii_case("batch completed") => {
            PullEnd::Ordinary
        }
        StatusCode::REQUEST_TERMINATED
            if description.eq_ignore_ascii_case("message size exceeds maxbytes") =>
        {
            PullEnd::TooLarge
        }
        StatusCode::REQUEST_TERMINATED if description.eq_ignore_ascii_case("consumer deleted") => {
            PullEnd::Gone
        }
        StatusCode::NO_RESPONDERS => PullEnd::Gone,
        status => PullEnd::Failed(format!("{status} {description}")),
    }
}
