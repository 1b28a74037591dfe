//! The source: pulls what there is room for, decodes what arrives, and hands it to the queue.
//!
//! The server counts what it has sent as delivered even when nobody has read it yet. So requests ask
//! for no more than may be held, every delivery goes into the register as soon as it is there, and
//! no request is abandoned with messages on their way.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Client, HeaderMap, Message};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::decode::decode;
use super::parking::Parking;
use super::queue::Sender;
use super::unreadable::Unreadables;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::error::{Class, Code, Dependency, Error};
use crate::message::{DeadLetter, Decoded};
use crate::messaging::connection::{self, Drops};
use crate::messaging::consumer::{self, LastSeen, Restored};
use crate::messaging::delivery::Arrived;
use crate::messaging::in_flight::{
    Arrival, Capacity, InFlight, InFlightLimits, SUBJECTS_MAX_BYTES,
};
use crate::messaging::pull::{PULL_END_GRACE, PULL_EXPIRES, PullEnd, Pulls};
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// Messages of one pull at most.
const PULL_MAX_MESSAGES: usize = 4_096;
/// A pull asks for this part of the limits at most: what is left is for the next ones.
const PULL_PARTS: usize = 4;
/// When one pull after the other has failed for so long the service says that it is not ready: elections
/// of a cluster take seconds.
const FAILING_SAID_AFTER: Duration = Duration::from_secs(10);
/// Headers of a message that take no more memory than the limits allow for.
const HEADERS_UNCOUNTED: usize = 32;
/// What each further one takes beside its bytes: 131 were measured of short ones, by the thousand.
const HEADER_BYTES: usize = 150;

/// Where messages come from.
pub struct EventSource {
    /// JetStream.
    pub jetstream: Context,
    /// The drops of its connection.
    pub drops: Drops,
    /// The durable consumer.
    pub consumer: PullConsumer,
    /// What was last seen of it.
    pub seen: Arc<LastSeen>,
    /// Is told when the stream is gone.
    pub health: Health,
    /// The client of the process before this one broke down: on a message, which is to be found
    /// before it is delivered again.
    pub client_was_lost: bool,
}

/// Where messages go.
pub struct Outputs {
    /// Events, to the writers.
    pub decoded: Sender<Decoded>,
    /// Events that were delivered too often, to be tried alone.
    pub parking: Arc<Parking>,
    /// What is no event, or cannot be read.
    pub dead_letters: Sender<DeadLetter>,
}

/// Reads deliveries of one consumer.
pub struct Source {
    client: Client,
    origin: EventSource,
    config: Arc<Config>,
    reading: Reading,
    unreadables: Unreadables,
    /// Drops of the connection that were looked into.
    drops_seen: u64,
    backoff: Backoff,
    /// No pull before: the last one failed.
    retry_at: Instant,
    failing_since: Option<Instant>,
}

/// What is read, and what becomes of it.
struct Reading {
    pulls: Pulls,
    in_flight: Arc<InFlight>,
    outputs: Outputs,
    config: Arc<Config>,
    metrics: Metrics,
    /// Who publishes on our inbox can do so at any rate.
    strangers: RateLimit,
}

/// The client is closed.
struct Closed;

/// Pulls until `stop`, then reads what pulls still bring.
///
/// # Errors
/// When the subscription cannot be made: the client is closed.
pub async fn run(mut source: Source, stop: CancellationToken) -> Result<(), Error> {
    loop {
        let done = tokio::select! {
            biased; // a stop must not wait for luck
            () = stop.cancelled() => break,
            done = source.step() => done,
        };
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => source.failed(&error),
            Err(Closed) => return Ok(()),
        }
    }
    source.drain().await;
    Ok(())
}

impl Source {
    /// A source for this consumer.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn new(
        origin: EventSource,
        in_flight: Arc<InFlight>,
        metrics: Metrics,
        outputs: Outputs,
        config: Config,
    ) -> Result<Self, Error> {
        let client = origin.jetstream.client();
        let drops_seen = *origin.drops.borrow();
        let config = Arc::new(config);
        Ok(Self {
            unreadables: Unreadables::new(
                client.clone(),
                origin.consumer.clone(),
                in_flight.clone(),
                config.nats.stream.clone(),
                outputs.dead_letters.clone(),
                origin.client_was_lost,
            ),
            reading: Reading {
                pulls: Pulls::open(&client, origin.consumer.clone(), in_flight.clone()).await?,
                in_flight,
                outputs,
                config: config.clone(),
                metrics,
                strangers: RateLimit::default(),
            },
            client,
            drops_seen,
            origin,
            config,
            backoff: Backoff::new(),
            retry_at: Instant::now(),
            failing_since: None,
        })
    }

    /// Reads what arrives next, or sends the next pull. The inner error is of a pull that failed.
    async fn step(&mut self) -> Result<Result<(), Error>, Closed> {
        self.look_into_drops().await?;
        let least = self.least_room();
        let next_pull = self.reading.pulls.next_after(Instant::now());
        let next_pull = next_pull.map(|at| at.max(self.retry_at));
        let room = async {
            match next_pull {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
            self.reading.in_flight.room(least).await
        };
        let overdue_at = self.reading.pulls.expires();
        let overdue = async {
            match overdue_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let drops = self.drops_seen;
        let room = tokio::select! {
            biased; // what arrived before a drop is read before it
            arrivals = self.reading.pulls.next() => {
                let ends = self.reading.take(arrivals.ok_or(Closed)?);
                return Ok(self.ended(ends).await);
            }
            () = connection::dropped(&mut self.origin.drops, drops) => return Ok(Ok(())),
            () = overdue => {
                return Ok(if self.reading.pulls.expire() {
                    Err(response_error("the end of a pull did not arrive"))
                } else {
                    Ok(())
                });
            }
            room = room => room,
        };
        let sent = self.reading.pulls.send(self.of_room(room, least)).await;
        Ok(match sent {
            Ok(()) => Ok(()),
            Err(end) => self.ended(vec![end]).await,
        })
    }

    /// Capacity that makes a pull worth its round trip: for any message, and for enough of them.
    fn least_room(&self) -> Capacity {
        let limits = InFlightLimits::of(&self.config.pipeline);
        Capacity {
            messages: (limits.messages / 8).clamp(1, PULL_MAX_MESSAGES / 4),
            bytes: self.least_bytes(),
        }
    }

    /// What a pull asks for of the room that there is.
    fn of_room(&self, room: Capacity, least: Capacity) -> Capacity {
        let limits = InFlightLimits::of(&self.config.pipeline);
        Capacity {
            messages: (room.messages)
                .min((limits.messages / PULL_PARTS).max(least.messages))
                .min(PULL_MAX_MESSAGES),
            bytes: room.bytes.min(self.pull_max_bytes()),
        }
    }

    /// What a pull asks for at most.
    fn pull_max_bytes(&self) -> usize {
        let limit = self.config.pipeline.max_in_flight_bytes;
        // The server may take larger messages by now than it did at the start, where this was checked.
        (limit / PULL_PARTS).max(self.least_bytes()).min(limit)
    }

    /// Capacity for any message that can be published now.
    fn least_bytes(&self) -> usize {
        self.client.max_payload() + SUBJECTS_MAX_BYTES
    }

    /// What the ends of pulls mean.
    async fn ended(&mut self, ends: Vec<PullEnd>) -> Result<(), Error> {
        for end in ends {
            match end {
                PullEnd::Ordinary => self.works(),
                PullEnd::TooLarge { asked_bytes } if asked_bytes < self.pull_max_bytes() => {
                    self.works(); // What is held will be settled.
                    return Err(response_error(
                        "the next message has more bytes than there is room for yet",
                    ));
                }
                PullEnd::TooLarge { asked_bytes } => {
                    return Err(response_error(&format!(
                        "the next message has more bytes than a pull asks for ({asked_bytes}): stop \
                         ganesh and raise GANESH_MAX_IN_FLIGHT_BYTES, a quarter of which a pull may \
                         ask for"
                    )));
                }
                PullEnd::Failed(why) => return Err(response_error(&why)),
                PullEnd::Gone => self.restore().await?,
            }
        }
        Ok(())
    }

    /// The consumer answers pulls: whoever made it again, ganesh or an operator.
    fn works(&mut self) {
        self.origin.health.set_stream_gone(false);
        self.origin.health.set_pulls_fail(false);
        (self.backoff, self.failing_since) = (Backoff::new(), None);
    }

    /// A pull failed: the next one is sent later.
    fn failed(&mut self, error: &Error) {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= FAILING_SAID_AFTER {
            self.origin.health.set_pulls_fail(true);
        }
        tracing::warn!(%error, "pulling messages failed; trying again");
        self.reading.metrics.dependency_error(error);
        self.retry_at = Instant::now() + self.backoff.next_wait();
    }

    /// Where the connection dropped: looks whether a message made it, before that is delivered
    /// again. Where that fails (the consumer was deleted as well, say) the next pull finds out more:
    /// a message that drops the connection does so once more, and is looked for then.
    async fn look_into_drops(&mut self) -> Result<(), Closed> {
        let drops = *self.origin.drops.borrow();
        if drops > self.drops_seen {
            let connected = connection::connected(&self.client, &mut self.origin.drops);
            self.reading.while_waiting(connected).await?;
            self.drops_seen = drops;
            self.reading.pulls.cut();
            self.unreadables.suspect();
        }
        while self.unreadables.is_due() {
            let looked = self.reading.while_waiting(self.unreadables.bury()).await?;
            if let Err(error) = looked {
                tracing::warn!(%error, "looking for messages that cannot be read failed");
                self.reading.metrics.dependency_error(&error);
                break;
            }
            // What the client breaks down at must not be delivered before it is found.
            if !self.origin.client_was_lost {
                break;
            }
        }
        Ok(())
    }

    /// Looks what became of the consumer, and makes it again if it was deleted.
    async fn restore(&mut self) -> Result<(), Error> {
        let EventSource {
            jetstream,
            seen,
            health,
            ..
        } = &self.origin;
        let (nats, pipeline) = (&self.config.nats, &self.config.pipeline);
        let restored = consumer::restore(jetstream, nats, pipeline, seen).await?;
        health.set_stream_gone(restored == Restored::StreamGone);
        if restored != Restored::Same {
            self.reading.in_flight.disown();
        }
        match restored {
            Restored::StreamGone => Err(response_error("the stream was deleted")),
            Restored::Same => Err(response_error("nobody takes a pull of the consumer")),
            Restored::Other => Ok(()),
        }
    }

    /// Reads what the last pulls bring, while the connection stands.
    async fn drain(&mut self) {
        let drops = self.drops_seen;
        let read = async {
            while self.reading.pulls.are_under_way() {
                let Some(arrivals) = self.reading.pulls.next().await else {
                    return;
                };
                self.reading.take(arrivals);
            }
        };
        tokio::select! {
            _ = timeout(PULL_EXPIRES + PULL_END_GRACE, read) => {}
            () = connection::dropped(&mut self.origin.drops, drops) => {}
        }
    }
}

impl Reading {
    /// Reads on while something else goes on.
    async fn while_waiting<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Closed> {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return Ok(done),
                arrivals = self.pulls.next() => {
                    self.take(arrivals.ok_or(Closed)?);
                }
            }
        }
    }

    /// Takes messages into the register, decodes them, and hands them on. Returns how pulls ended.
    fn take(&self, arrivals: crate::messaging::pull::Arrivals) -> Vec<PullEnd> {
        let arrived: Vec<Arrived> = arrivals
            .messages
            .into_iter()
            .filter_map(|message| match Arrived::read(message) {
                Ok(arrived) => Some(arrived),
                Err(subject) => {
                    if let Some(suppressed) = self.strangers.allow() {
                        tracing::warn!(subject, suppressed, "not a delivery of a consumer");
                    }
                    None
                }
            })
            .collect();
        let redelivered = arrived.iter().filter(|a| a.metadata.delivered > 1).count();
        self.metrics.received.increment(arrived.len() as u64);
        self.metrics.redelivered.increment(redelivered as u64);
        let ids = self.in_flight.hold(arrived.iter().map(|arrived| Arrival {
            reply: arrived.reply.clone(),
            bytes: bytes_in_memory(&arrived.message),
        }));
        let nats = &self.config.nats;
        let deliveries = ids
            .into_iter()
            .zip(arrived)
            .map(|(id, arrived)| arrived.into_delivery(&nats.stream, id, self.in_flight.releases()))
            .collect();
        let pipeline = &self.config.pipeline;
        let (mut decoded, letters) = decode(&nats.stream, pipeline.accept_plain, deliveries);
        self.outputs.dead_letters.send(letters);
        if redelivered > 0 {
            let too_often = |d: &mut Decoded| d.delivery.delivered > pipeline.max_deliveries;
            let alone = decoded.extract_if(.., too_often).collect();
            self.outputs.parking.park_alone(alone);
        }
        self.outputs.decoded.send(decoded);
        arrivals.ends
    }
}

/// As delivered; where there are many headers, with what each of them takes beside its bytes.
fn bytes_in_memory(message: &Message) -> usize {
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    let values: usize = headers.map(|(_, values)| values.len()).sum();
    message.length + values.saturating_sub(HEADERS_UNCOUNTED) * HEADER_BYTES
}

fn response_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
