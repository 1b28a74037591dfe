//! The source: pulls what there is room for, and reads every pull to its end.
//!
//! The server counts what it has sent as delivered even when nobody has read it yet, so
//! a pull asks for no more than may be held, every delivery goes into the register as soon as
//! it is there, whoever takes it, and a pull is never abandoned with messages on their way: one
//! whose end is overdue is read on beside the next ones, and keeps the room that it may fill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Backoff;
use super::dead_letter::DeadLetter;
use super::inbox::{Closed, Inbox, Intake, Outbox, PullEnd};
use super::unreadable::Unreadables;
use crate::config::Config;
use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::connection::{self, Drops};
use crate::messaging::consumer::{self, LastSeen, Restored};
use crate::messaging::held::{Limits, Reservation, Room, SUBJECTS_MAX_BYTES};
use crate::messaging::{Delivery, Held};
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// Messages of one pull at most.
const PULL_MAX_MESSAGES: usize = 4_096;
/// A pull asks for this part of the limits at most: what is left is for the next ones while
/// one that was given up keeps its room.
const PULL_PARTS: usize = 4;
/// A pull that is not filled ends after this: the longest that a shutdown waits for it.
const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// How long after its expiry the end of a pull may take to arrive. Then it is given up: its end
/// is late, as on a machine that is starved, or was lost.
const PULL_END_GRACE: Duration = Duration::from_secs(4);

/// When one pull after the other has failed for so long the service says that it is not ready: elections
/// of a cluster take seconds.
const FAILING_SAID_AFTER: Duration = Duration::from_secs(10);

/// Where messages come from.
pub struct Origin {
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

/// Reads deliveries of one consumer.
pub struct Source {
    client: Client,
    origin: Origin,
    config: Config,
    inbox: Inbox,
    intake: Arc<Intake>,
    /// Reads what pulls that were given up still bring.
    late: JoinSet<()>,
    unreadables: Unreadables,
    /// Drops of the connection that were looked into.
    drops_seen: u64,
}

/// Pulls until `stop`.
///
/// # Errors
/// When the subscription cannot be made: the client is closed.
pub async fn run(
    mut source: Source,
    output: Sender<Vec<Delivery>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut outbox = Outbox::new(output);
    let mut backoff = Backoff::new();
    let mut failing_since = None;
    loop {
        let looked = tokio::select! {
            biased; // a stop must not wait for luck
            () = stop.cancelled() => break,
            looked = outbox.while_waiting(source.look_into_drops()) => looked,
        };
        let room = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            room = source.room(&mut outbox) => room,
        };
        let (Ok(()), Ok(room)) = (looked, room) else {
            return Ok(());
        };
        let error = match source.pull(room, &mut outbox).await? {
            PullEnd::Ordinary => {
                // Whoever made it again: us, another replica, or an operator.
                source.origin.health.set_stream_gone(false);
                source.origin.health.set_pulls_fail(false);
                (backoff, failing_since) = (Backoff::new(), None);
                continue;
            }
            PullEnd::Cut => continue,
            PullEnd::TooLarge if room.bytes < source.pull_max_bytes() => {
                failing_since = None; // What is held will be settled.
                source.origin.health.set_pulls_fail(false);
                response_error("the next message has more bytes than there is room for yet")
            }
            PullEnd::TooLarge => response_error(&format!(
                "the next message has more bytes than a pull asks for ({}): stop ganesh and raise \
                 GANESH_MAX_IN_FLIGHT_BYTES, a quarter of which a pull may ask for",
                room.bytes
            )),
            PullEnd::Closed => return Ok(()),
            PullEnd::Overdue => response_error("the end of a pull did not arrive"),
            PullEnd::Failed(why) => response_error(&why),
            PullEnd::Gone => match source.restore().await {
                Ok(()) => continue,
                Err(error) => error,
            },
        };
        if failing_since.get_or_insert_with(Instant::now).elapsed() >= FAILING_SAID_AFTER {
            source.origin.health.set_pulls_fail(true);
        }
        tracing::warn!(%error, "pulling messages failed; trying again");
        source.intake.metrics.dependency_error(&error);
        tokio::select! {
            () = stop.cancelled() => break,
            () = backoff.wait() => {}
        }
    }
    // Where nobody takes it any more, it is dropped, and so released.
    let _ = outbox.hand_on().await;
    Ok(())
}

impl Source {
    /// A source for this consumer.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn new(
        origin: Origin,
        held: Arc<Held>,
        metrics: Metrics,
        dead_letters: Sender<DeadLetter>,
        config: Config,
    ) -> Result<Self, Error> {
        let client = origin.jetstream.client();
        let stream = config.nats.stream.clone();
        let drops_seen = *origin.drops.borrow();
        Ok(Self {
            inbox: Inbox::open(&client).await?,
            unreadables: Unreadables::new(
                client.clone(),
                origin.consumer.clone(),
                held.clone(),
                stream.clone(),
                dead_letters,
                origin.client_was_lost,
            ),
            client,
            drops_seen,
            origin,
            config,
            intake: Arc::new(Intake {
                held,
                metrics,
                stream,
                strangers: RateLimit::default(),
            }),
            late: JoinSet::new(),
        })
    }

    /// Waits until a pull is worth its round trip and can be sent: there is room for any
    /// message, and for enough of them. A request that waits for a connection would be served
    /// after it together with others like it, in room that was given once.
    async fn room(&mut self, outbox: &mut Outbox) -> Result<Room, Closed> {
        let limits = Limits::of(&self.config.pipeline);
        let least = Room {
            messages: (limits.messages / 8).clamp(1, PULL_MAX_MESSAGES / 4),
            bytes: self.least_bytes(),
        };
        let ready = async {
            let room = self.intake.held.room(least).await;
            connection::connected(&self.client, &mut self.origin.drops).await;
            room
        };
        let room = outbox.while_waiting(ready).await?;
        Ok(Room {
            messages: (room.messages)
                .min((limits.messages / PULL_PARTS).max(least.messages))
                .min(PULL_MAX_MESSAGES),
            bytes: room.bytes.min(self.pull_max_bytes()),
        })
    }

    /// What a pull asks for at most.
    fn pull_max_bytes(&self) -> usize {
        let limit = self.config.pipeline.max_in_flight_bytes;
        // The server may take larger messages by now than it did at the start, where this was checked.
        (limit / PULL_PARTS).max(self.least_bytes()).min(limit)
    }

    /// Room for any message that can be published now.
    fn least_bytes(&self) -> usize {
        self.client.max_payload() + SUBJECTS_MAX_BYTES
    }

    /// Where the connection dropped: looks whether a message made it, before that is delivered
    /// again. Where that fails (the consumer was deleted as well, say) the next pull finds out more:
    /// a message that drops the connection does so once more, and is looked for then.
    async fn look_into_drops(&mut self) {
        let drops = *self.origin.drops.borrow();
        if drops > self.drops_seen {
            connection::connected(&self.client, &mut self.origin.drops).await;
            self.drops_seen = drops;
            self.unreadables.suspect();
        }
        while self.unreadables.is_due() {
            if let Err(error) = self.unreadables.bury().await {
                tracing::warn!(%error, "looking for messages that cannot be read failed");
                self.intake.metrics.dependency_error(&error);
                break;
            }
            // What the client breaks down at must not be delivered before it is found.
            if !self.origin.client_was_lost {
                break;
            }
        }
    }

    /// Looks what became of the consumer, and makes it again if it was deleted.
    async fn restore(&mut self) -> Result<(), Error> {
        let Origin {
            jetstream,
            seen,
            health,
            ..
        } = &self.origin;
        let (nats, pipeline) = (&self.config.nats, &self.config.pipeline);
        let restored = consumer::restore(jetstream, nats, pipeline, seen).await?;
        health.set_stream_gone(restored == Restored::StreamGone);
        if restored != Restored::Same {
            self.intake.held.disown();
        }
        match restored {
            Restored::StreamGone => Err(response_error("the stream was deleted")),
            Restored::Same => Err(response_error("nobody takes a pull of the consumer")),
            Restored::Other => Ok(()),
        }
    }

    /// One pull, read to its end, or given up.
    async fn pull(&mut self, room: Room, outbox: &mut Outbox) -> Result<PullEnd, Error> {
        let request = BatchConfig {
            batch: room.messages,
            max_bytes: room.bytes,
            expires: Some(PULL_EXPIRES),
            ..BatchConfig::default()
        };
        let drops = *self.origin.drops.borrow();
        let reply = self.inbox.next_reply();
        let sent = self.origin.consumer.request_batch(request, reply).await;
        if let Err(error) = sent {
            return Ok(PullEnd::Failed(error.to_string()));
        }
        let asked = room;
        let mut room = self.intake.held.reserve(room);
        let end = tokio::select! {
            biased; // what arrived before a drop is read before it
            end = self.inbox.read(&self.intake, &mut room, outbox) => end,
            () = connection::dropped(&mut self.origin.drops, drops) => PullEnd::Cut,
            () = tokio::time::sleep(PULL_EXPIRES + PULL_END_GRACE) => PullEnd::Overdue,
        };
        let may_last = match end {
            // What was sent before the connection dropped expires soon after it stands again.
            PullEnd::Cut => PULL_EXPIRES + PULL_END_GRACE,
            // Messages that are late are ours for this long.
            PullEnd::Overdue => self.intake.held.ack_wait(),
            // The next pull has its room.
            PullEnd::TooLarge if room.left().messages < asked.messages => {
                return Ok(PullEnd::Ordinary);
            }
            _ => return Ok(end),
        };
        self.give_up(room, may_last, outbox.another()).await?;
        Ok(end)
    }

    /// Reads the pull on, aside, while it may last, and goes on with another subscription, so
    /// that what arrives can be told apart.
    async fn give_up(
        &mut self,
        mut room: Reservation,
        may_last: Duration,
        mut outbox: Outbox,
    ) -> Result<(), Error> {
        let fresh = Inbox::open(&self.client).await?;
        let mut inbox = std::mem::replace(&mut self.inbox, fresh);
        let (client, mut drops) = (self.client.clone(), self.origin.drops.clone());
        let intake = self.intake.clone();
        while self.late.try_join_next().is_some() {}
        self.late.spawn(async move {
            connection::connected(&client, &mut drops).await;
            let reading = inbox.read(&intake, &mut room, &mut outbox);
            let _ = tokio::time::timeout(may_last, reading).await;
            drop(room);
            // Where nobody takes it any more, it is dropped, and so released.
            let _ = outbox.hand_on().await;
        });
        Ok(())
    }
}

fn response_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
