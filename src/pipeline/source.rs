//! The source: pulls as many messages as may be held. The intake takes them to the queue.
//!
//! The server counts a sent message as delivered, read or not. So a pull asks only for free capacity.
//! Every delivery enters the register on arrival. The source abandons no pull whose messages may still
//! arrive.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::intake::{ClientClosed, Intake, Outputs, sleep_until_or_never};
use super::unreadable::Unreadables;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::connection::{self, ConnectionDrops};
use crate::messaging::consumer::{self, ConsumerWatch, Restored};
use crate::messaging::in_flight::{Capacity, InFlight, SUBJECTS_MAX_BYTES};
use crate::messaging::pull::{PULL_END_GRACE, PULL_EXPIRES, PullEnd, Pulls};
use crate::messaging::readable::KnownReadable;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// Messages of one pull at most.
const PULL_MAX_MESSAGES: usize = 4_096;
/// A pull asks for at most 1/8 of the limits, unless one message needs more.
const PULL_PARTS: usize = 8;
/// Pulls that fail for this long make the service not ready. Leader elections take seconds.
const FAILING_SAID_AFTER: Duration = Duration::from_secs(10);

/// Where messages come from.
pub(crate) struct EventSource {
    /// JetStream.
    pub(crate) jetstream: Context,
    /// The drops of its connection.
    pub(crate) drops: ConnectionDrops,
    /// The durable consumer.
    pub(crate) consumer: PullConsumer,
    pub(crate) consumer_watch: Arc<ConsumerWatch>,
    /// Is told when the stream is gone.
    pub(crate) health: Health,
    /// What the NATS client can read, by this process and those before it.
    pub(crate) readable: Arc<KnownReadable>,
    /// A message made the NATS client of the previous process panic. ganesh must find it before it is
    /// delivered again.
    pub(crate) client_was_lost: bool,
}

/// Reads deliveries of one consumer.
pub(crate) struct Source {
    client: Client,
    origin: EventSource,
    config: Arc<Config>,
    intake: Intake,
    unreadables: Unreadables,
    /// Drops of the connection that were looked into.
    drops_seen: u64,
    backoff: Backoff,
    /// Earliest time of the next pull after a failed one.
    retry_at: Instant,
    failing_since: Option<Instant>,
    /// The next message is larger than the last pull allowed: wait until the whole byte limit is free.
    pull_all_room: bool,
}

/// Pulls until `stop`, then reads what pulls still bring.
pub(crate) async fn run(mut source: Source, stop: CancellationToken) -> Result<(), Error> {
    loop {
        let done = tokio::select! {
            biased; // a stop must not wait for luck
            () = stop.cancelled() => break,
            done = source.step() => done,
        };
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => source.failed(&error),
            Err(ClientClosed) => return Ok(()),
        }
    }
    source.drain().await;
    Ok(())
}

impl Source {
    /// A source for this consumer.
    pub(crate) fn new(
        origin: EventSource,
        in_flight: Arc<InFlight>,
        metrics: Metrics,
        outputs: Outputs,
        config: Config,
    ) -> Self {
        let client = origin.jetstream.client();
        let drops_seen = *origin.drops.borrow();
        let config = Arc::new(config);
        Self {
            unreadables: Unreadables::new(
                client.clone(),
                origin.consumer.clone(),
                in_flight.clone(),
                origin.readable.clone(),
                config.nats.stream.clone(),
                outputs.dead_letters.clone(),
                origin.client_was_lost,
            ),
            intake: Intake {
                pulls: Pulls::new(client.clone(), origin.consumer.clone(), in_flight.clone()),
                client: client.clone(),
                readable: origin.readable.clone(),
                in_flight,
                outputs,
                config: config.clone(),
                metrics,
                invalid_deliveries: RateLimit::default(),
            },
            client,
            drops_seen,
            origin,
            config,
            backoff: Backoff::new(),
            retry_at: Instant::now(),
            failing_since: None,
            pull_all_room: false,
        }
    }

    /// Sends the next pull when it is due and capacity is free; until then, reads what the pulls under way
    /// bring. Outer error: the client is closed. Inner error: a pull failed.
    async fn step(&mut self) -> Result<Result<(), Error>, ClientClosed> {
        self.look_into_drops().await?;
        let min_free = self.min_pull_size();
        let next_pull = self.intake.pulls.next_after(Instant::now());
        let next_pull = next_pull.map(|time| time.max(self.retry_at));
        let free = async {
            sleep_until_or_never(next_pull).await;
            self.intake.in_flight.room(min_free).await
        };
        let overdue_at = self.intake.pulls.expires();
        let drops = self.drops_seen;
        let free = tokio::select! {
            biased; // what arrived before a drop is read before it
            pulled = self.intake.pulls.next() => {
                let end = self.intake.accept(pulled.ok_or(ClientClosed)?).await;
                return Ok(self.ended(end).await);
            }
            () = connection::dropped(&mut self.origin.drops, drops) => return Ok(Ok(())),
            () = sleep_until_or_never(overdue_at) => {
                return Ok(if self.intake.pulls.expire() {
                    Err(response_error("the end of a pull did not arrive"))
                } else {
                    Ok(())
                });
            }
            free = free => free,
        };
        let request = self.pull_size(free, min_free);
        Ok(self.intake.pulls.send(request).await)
    }

    fn limits(&self) -> Capacity {
        Capacity::in_flight(&self.config.pipeline)
    }

    /// The least free capacity that is worth a pull.
    fn min_pull_size(&self) -> Capacity {
        let Capacity { messages, bytes } = self.limits();
        // Enough for any message that the server accepts: its maximum payload may have grown since start-up.
        let any_message = self.client.max_payload() + SUBJECTS_MAX_BYTES;
        Capacity {
            messages: (messages / (2 * PULL_PARTS)).clamp(1, PULL_MAX_MESSAGES / 4),
            bytes: if self.pull_all_room {
                bytes
            } else {
                any_message.min(bytes)
            },
        }
    }

    /// What a pull asks for of the free capacity.
    fn pull_size(&self, free: Capacity, min_free: Capacity) -> Capacity {
        let Capacity { messages, bytes } = self.limits();
        Capacity {
            messages: (free.messages)
                .min((messages / PULL_PARTS).max(min_free.messages))
                .min(PULL_MAX_MESSAGES),
            bytes: free.bytes.min((bytes / PULL_PARTS).max(min_free.bytes)),
        }
    }

    /// What the end of a pull means.
    async fn ended(&mut self, end: Option<PullEnd>) -> Result<(), Error> {
        match end {
            None => Ok(()),
            Some(PullEnd::Ordinary) => {
                self.mark_healthy();
                self.pull_all_room = false;
                Ok(())
            }
            Some(PullEnd::TooLarge { asked_bytes }) if asked_bytes < self.limits().bytes => {
                self.mark_healthy(); // What is held will be settled.
                self.pull_all_room = true;
                Err(response_error(
                    "the next message has more bytes than there is room for yet",
                ))
            }
            Some(PullEnd::TooLarge { asked_bytes }) => Err(response_error(&format!(
                "the next message has more bytes than may be held ({asked_bytes}): raise \
                 GANESH_MAX_IN_FLIGHT_BYTES and restart ganesh"
            ))),
            Some(PullEnd::Failed(why)) => Err(response_error(&why)),
            Some(PullEnd::Gone) => self.restore().await,
        }
    }

    /// The consumer answers pulls: whoever made it again, ganesh or an operator.
    fn mark_healthy(&mut self) {
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
        self.intake.metrics.dependency_error(error);
        self.retry_at = Instant::now() + self.backoff.next_wait();
    }

    /// After a disconnect, looks for the message that caused it, before the server delivers it again. A
    /// search that fails is not repeated at once: such a message disconnects again, and starts the next
    /// search.
    async fn look_into_drops(&mut self) -> Result<(), ClientClosed> {
        let drops = *self.origin.drops.borrow();
        if drops > self.drops_seen {
            let connected = connection::connected(&self.client, &mut self.origin.drops);
            self.intake.read_until(connected).await?;
            self.drops_seen = drops;
            self.intake.pulls.cut();
            self.unreadables.suspect();
        }
        while self.unreadables.is_due() {
            let looked = self.intake.read_until(self.unreadables.bury()).await?;
            if let Err(error) = looked {
                tracing::warn!(%error, "looking for messages that cannot be read failed");
                self.intake.metrics.dependency_error(&error);
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
            consumer_watch,
            health,
            ..
        } = &self.origin;
        let (nats, pipeline) = (&self.config.nats, &self.config.pipeline);
        let restored = consumer::restore(jetstream, nats, pipeline, consumer_watch).await?;
        health.set_stream_gone(restored == Restored::StreamGone);
        if restored != Restored::Same {
            self.intake.in_flight.disown();
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
            // Late ones, too: their messages are delivered to nobody else before `ack_wait`.
            while self.intake.pulls.are_under_way() {
                let overdue_at = self.intake.pulls.expires();
                tokio::select! {
                    pulled = self.intake.pulls.next() => match pulled {
                        Some(pulled) => self.intake.accept(pulled).await,
                        None => return,
                    },
                    () = sleep_until_or_never(overdue_at) => {
                        self.intake.pulls.expire();
                        None
                    }
                };
            }
        };
        tokio::select! {
            _ = timeout(PULL_EXPIRES + PULL_END_GRACE, read) => {}
            () = connection::dropped(&mut self.origin.drops, drops) => {}
        }
    }
}

fn response_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
