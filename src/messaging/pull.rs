//! Pull requests of a consumer: the next one is under way before the last one has ended, and what
//! they may still bring is reserved in the register of what is held.
//!
//! The server answers the oldest request first, and says when one ends, but not which request a
//! message answers. So a message counts for the oldest request that is not full. A request whose end
//! is overdue keeps its room for as long as its messages may still come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt;
use futures::stream::ReadyChunks;
use tokio::time::Instant;

use super::InFlight;
use super::in_flight::Capacity;
use crate::error::{Class, Code, Dependency, Error};

/// Messages read at once at most.
const CHUNK_MAX_MESSAGES: usize = 256;
/// Requests under way at most, without those whose end is overdue.
const PULLS_MAX: usize = 2;
/// An unfilled request ends after this time; a shutdown waits for it.
pub(crate) const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// The next request is sent when the last one is this old, so that it arrives before the last one
/// ends.
const NEXT_PULL_AFTER: Duration = Duration::from_millis(800);
/// How long the end of a request may be late on a starved machine. After that it is overdue, or
/// lost.
pub(crate) const PULL_END_GRACE: Duration = Duration::from_secs(4);

pub(crate) struct Pulls {
    consumer: PullConsumer,
    in_flight: Arc<InFlight>,
    /// Requests are answered on subjects below this one.
    inbox: String,
    number: u64,
    messages: ReadyChunks<Subscriber>,
    /// The oldest first.
    live: VecDeque<Pull>,
    /// Requests whose end is overdue, or was cut off by a dropped connection.
    late: Vec<Pull>,
}

/// A request that the server may still answer.
struct Pull {
    number: u64,
    asked: Capacity,
    left: Capacity,
    /// When its end is overdue. For a late one: when it can bring nothing more.
    until: Instant,
    next_after: Instant,
}

#[derive(Default)]
pub(crate) struct Arrivals {
    pub(crate) messages: Vec<Message>,
    pub(crate) ends: Vec<PullEnd>,
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
    ///
    /// # Errors
    /// When the client is closed.
    pub(crate) async fn open(
        client: &Client,
        consumer: PullConsumer,
        in_flight: Arc<InFlight>,
    ) -> Result<Self, Error> {
        let inbox = client.new_inbox();
        let subscription = client.subscribe(format!("{inbox}.*")).await;
        let subscription = subscription.map_err(|error| {
            let detail = error.to_string();
            Error::new(Dependency::Nats, Class::Transient, Code::Connection, detail)
        })?;
        Ok(Self {
            consumer,
            in_flight,
            inbox,
            number: 0,
            messages: subscription.ready_chunks(CHUNK_MAX_MESSAGES),
            live: VecDeque::new(),
            late: Vec::new(),
        })
    }

    /// Whether the server may still answer a request.
    pub(crate) fn are_under_way(&self) -> bool {
        !self.live.is_empty()
    }

    /// When the next request is to be sent, so that it is there before the last one ends.
    pub(crate) fn next_after(&self, now: Instant) -> Option<Instant> {
        match self.live.back() {
            None => Some(now),
            Some(last) if self.live.len() < PULLS_MAX => {
                Some(if last.left.messages * 2 <= last.asked.messages {
                    now
                } else {
                    last.next_after
                })
            }
            Some(_) => None,
        }
    }

    /// Requests messages for the free room.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub(crate) async fn send(&mut self, room: Capacity) -> Result<(), PullEnd> {
        let request = BatchConfig {
            batch: room.messages,
            max_bytes: room.bytes,
            expires: Some(PULL_EXPIRES),
            ..BatchConfig::default()
        };
        self.number += 1;
        let reply = Subject::from(format!("{}.{}", self.inbox, self.number));
        let sent = self.consumer.request_batch(request, reply).await;
        sent.map_err(|error| PullEnd::Failed(error.to_string()))?;
        self.in_flight.reserve(room);
        let now = Instant::now();
        self.live.push_back(Pull {
            number: self.number,
            asked: room,
            left: room,
            until: now + PULL_EXPIRES + PULL_END_GRACE,
            next_after: now + NEXT_PULL_AFTER,
        });
        Ok(())
    }

    /// Returns the next arrivals; `None` when the client is closed. Cancel safe. The caller
    /// registers the messages before it asks for room again.
    pub(crate) async fn next(&mut self) -> Option<Arrivals> {
        let chunk = self.messages.next().await?;
        let mut arrivals = Arrivals::default();
        let mut freed = Capacity::default();
        for message in chunk {
            match message.status {
                // What is to be acknowledged is a delivery, whatever its header block begins with.
                Some(status) if message.reply.is_none() => {
                    let end = end_of_pull(status, message.description.as_deref());
                    arrivals
                        .ends
                        .extend(self.end(&message.subject, end, &mut freed));
                }
                _ => {
                    self.fill(message.length, &mut freed);
                    arrivals.messages.push(message);
                }
            }
        }
        self.in_flight.unreserve(freed);
        Some(arrivals)
    }

    /// A message came: it fills the oldest request.
    fn fill(&mut self, bytes: usize, freed: &mut Capacity) {
        let Some(pull) = self.live.front_mut().or(self.late.first_mut()) else {
            return;
        };
        let filled = Capacity {
            messages: 1,
            bytes: bytes.min(pull.left.bytes),
        };
        pull.left -= filled;
        *freed += filled;
        if pull.left.messages == 0 {
            *freed += pull.left;
            if self.live.pop_front().is_none() {
                self.late.remove(0);
            }
        }
    }

    /// The server ended a request. One that is not ours, or known to be over, says nothing.
    fn end(&mut self, subject: &Subject, end: PullEnd, freed: &mut Capacity) -> Option<PullEnd> {
        let number: u64 = subject
            .strip_prefix(&self.inbox)?
            .strip_prefix('.')?
            .parse()
            .ok()?;
        let is_it = |pull: &Pull| pull.number == number;
        let pull = if let Some(place) = self.live.iter().position(is_it) {
            self.live.remove(place)?
        } else {
            let place = self.late.iter().position(is_it)?;
            self.late.swap_remove(place)
        };
        *freed += pull.left;
        Some(match end {
            PullEnd::TooLarge { .. } if pull.left.messages < pull.asked.messages => {
                PullEnd::Ordinary
            }
            PullEnd::TooLarge { .. } => PullEnd::TooLarge {
                asked_bytes: pull.asked.bytes,
            },
            end => end,
        })
    }

    /// Call after a reconnect: nobody knows which requests arrived. Those that did expire soon.
    pub(crate) fn cut(&mut self) {
        let until = Instant::now() + PULL_EXPIRES + PULL_END_GRACE;
        self.late
            .extend(self.live.drain(..).map(|pull| Pull { until, ..pull }));
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn expires(&self) -> Option<Instant> {
        let pulls = self.live.iter().chain(&self.late);
        pulls.map(|pull| pull.until).min()
    }

    /// Forgets late requests that can bring nothing more. Returns whether the end of another one is
    /// overdue: its messages are ours until `ack_wait` has passed.
    pub(crate) fn expire(&mut self) -> bool {
        let now = Instant::now();
        let over = self.late.extract_if(.., |pull| pull.until <= now);
        let freed = over.fold(Capacity::default(), |freed, pull| freed + pull.left);
        self.in_flight.unreserve(freed);
        let until = now + self.in_flight.ack_wait();
        let known = self.late.len();
        while let Some(pull) = self.live.pop_front_if(|pull| pull.until <= now) {
            self.late.push(Pull { until, ..pull });
        }
        self.late.len() > known
    }
}

/// Status messages of pull requests (NATS ADR-13).
fn end_of_pull(status: StatusCode, description: Option<&str>) -> PullEnd {
    let description = description.unwrap_or("");
    let is = |text| description.eq_ignore_ascii_case(text);
    match status {
        StatusCode::TIMEOUT | StatusCode::NOT_FOUND => PullEnd::Ordinary,
        StatusCode::REQUEST_TERMINATED if is("batch completed") => PullEnd::Ordinary,
        StatusCode::REQUEST_TERMINATED if is("message size exceeds maxbytes") => {
            PullEnd::TooLarge { asked_bytes: 0 }
        }
        StatusCode::REQUEST_TERMINATED if is("consumer deleted") => PullEnd::Gone,
        StatusCode::NO_RESPONDERS => PullEnd::Gone,
        status => PullEnd::Failed(format!("{status} {description}")),
    }
}
