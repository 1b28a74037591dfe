//! The source: pulls messages while there is capacity for them. The intake takes them to the queue.
//!
//! The server counts a message as delivered when it sends it, even if nobody reads it. So a pull asks only for
//! what may be held, every delivery enters the register of held messages on arrival, and a pull is read to
//! its end.

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
use crate::messaging::connection::{self, Disconnects};
use crate::messaging::consumer::{self, ConsumerWatch, Restored};
use crate::messaging::in_flight::{Capacity, InFlight, SUBJECTS_MAX_BYTES};
use crate::messaging::letters::bucket::Bucket;
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

/// What the pipeline has of NATS.
pub(crate) struct NatsHandles {
    /// JetStream.
    pub(crate) jetstream: Context,
    /// Counts its disconnects.
    pub(crate) disconnects: Disconnects,
    /// The durable consumer.
    pub(crate) consumer: PullConsumer,
    /// What was seen of the consumer: its limits, and whether it is still the same one.
    pub(crate) consumer_watch: Arc<ConsumerWatch>,
    /// Where dead letters go.
    pub(crate) bucket: Bucket,
    /// Readiness.
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
    upstream: NatsHandles,
    config: Arc<Config>,
    intake: Intake,
    unreadables: Unreadables,
    /// Disconnects that were handled.
    disconnects_handled: u64,
    backoff: Backoff,
    /// Earliest time of the next pull after a failed one.
    retry_at: Instant,
    failing_since: Option<Instant>,
    /// The next message is larger than the last pull allowed: wait until the whole byte limit is free.
    wait_for_all_bytes: bool,
}

/// Pulls until `stop`, then reads what pulls still bring.
pub(crate) async fn run(mut source: Source, stop: CancellationToken) -> Result<(), Error> {
    loop {
        let stepped = tokio::select! {
            biased; // check `stop` first: `select!` picks at random
            () = stop.cancelled() => break,
            stepped = source.step() => stepped,
        };
        match stepped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => source.on_pull_error(&error),
            Err(ClientClosed) => return Ok(()),
        }
    }
    source.drain().await;
    Ok(())
}

impl Source {
    /// A source for this consumer.
    pub(crate) fn new(
        nats_handles: NatsHandles,
        in_flight: Arc<InFlight>,
        metrics: Metrics,
        outputs: Outputs,
        config: Config,
    ) -> Self {
        let client = nats_handles.jetstream.client();
        let disconnects_handled = *nats_handles.disconnects.borrow();
        let config = Arc::new(config);
        Self {
            unreadables: Unreadables::new(
                client.clone(),
                nats_handles.consumer.clone(),
                in_flight.clone(),
                nats_handles.readable.clone(),
                &config.nats,
                outputs.dead_letters.clone(),
                nats_handles.client_was_lost,
            ),
            intake: Intake {
                pulls: Pulls::new(
                    client.clone(),
                    (
                        nats_handles.consumer.clone(),
                        nats_handles.consumer_watch.clone(),
                    ),
                    in_flight.clone(),
                ),
                client: client.clone(),
                readable: nats_handles.readable.clone(),
                in_flight,
                outputs,
                config: config.clone(),
                metrics,
                invalid_deliveries: RateLimit::default(),
            },
            client,
            disconnects_handled,
            upstream: nats_handles,
            config,
            backoff: Backoff::new(),
            retry_at: Instant::now(),
            failing_since: None,
            wait_for_all_bytes: false,
        }
    }

    /// Sends the next pull when it is due and capacity is free; until then, reads what the pulls under way
    /// bring. Outer error: the client is closed. Inner error: a pull failed.
    async fn step(&mut self) -> Result<Result<(), Error>, ClientClosed> {
        self.handle_disconnect().await?;
        let min_free = self.min_pull_size();
        let next_pull = self.intake.pulls.next_after(Instant::now());
        let next_pull = next_pull.map(|time| time.max(self.retry_at));
        let capacity_is_free = async {
            sleep_until_or_never(next_pull).await;
            self.intake.in_flight.wait_for_capacity(min_free).await
        };
        let overdue_at = self.intake.pulls.overdue_at();
        let disconnects = self.disconnects_handled;
        let free = tokio::select! {
            biased; // read first what arrived before a disconnect
            // Messages come by this branch; the others are for pulls and faults.
            pulled = self.intake.pulls.next() => {
                let end = self.intake.accept(pulled.ok_or(ClientClosed)?).await;
                return Ok(self.on_pull_end(end).await);
            }
            () = connection::dropped(&mut self.upstream.disconnects, disconnects) => return Ok(Ok(())),
            () = sleep_until_or_never(overdue_at) => {
                return Ok(if self.intake.pulls.drop_overdue() {
                    Err(response_error("the end of a pull did not arrive"))
                } else {
                    Ok(())
                });
            }
            free = capacity_is_free => free,
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
            bytes: if self.wait_for_all_bytes {
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

    /// Pulls again, at once or later, by what the end of a pull says.
    async fn on_pull_end(&mut self, end: Option<PullEnd>) -> Result<(), Error> {
        match end {
            None => Ok(()),
            Some(PullEnd::Ordinary) => {
                self.mark_healthy();
                self.wait_for_all_bytes = false;
                Ok(())
            }
            Some(PullEnd::TooLarge { asked_bytes }) if asked_bytes < self.limits().bytes => {
                self.mark_healthy(); // What is held will be settled.
                self.wait_for_all_bytes = true;
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

    /// The consumer answers pulls, so it exists.
    fn mark_healthy(&mut self) {
        self.upstream.health.set_stream_gone(false);
        self.upstream.health.set_pulls_fail(false);
        (self.backoff, self.failing_since) = (Backoff::new(), None);
    }

    /// A pull failed: the next one is sent later.
    fn on_pull_error(&mut self, error: &Error) {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= FAILING_SAID_AFTER {
            self.upstream.health.set_pulls_fail(true);
        }
        tracing::warn!(%error, "pulling messages failed; trying again");
        self.intake.metrics.dependency_error(error);
        self.retry_at = Instant::now() + self.backoff.next_wait();
    }

    /// After a disconnect, looks for the message that caused it, before the server delivers it again. A
    /// search that fails is not repeated at once: such a message disconnects again, and starts the next
    /// search.
    async fn handle_disconnect(&mut self) -> Result<(), ClientClosed> {
        let disconnects = *self.upstream.disconnects.borrow();
        if disconnects > self.disconnects_handled {
            let connected = connection::connected(&self.client, &mut self.upstream.disconnects);
            self.intake.read_until(connected).await?;
            self.disconnects_handled = disconnects;
            self.intake.pulls.discard_all();
            self.unreadables.schedule_search();
        }
        while self.unreadables.is_due() {
            let looked = self
                .intake
                .read_until(self.unreadables.search_and_bury())
                .await?;
            if let Err(error) = looked {
                tracing::warn!(%error, "looking for messages that cannot be read failed");
                self.intake.metrics.dependency_error(&error);
                break;
            }
            // Find the message that crashed the client before the next pull delivers it again.
            if !self.upstream.client_was_lost {
                break;
            }
        }
        Ok(())
    }

    /// Checks the consumer, and creates it again if it was deleted.
    async fn restore(&mut self) -> Result<(), Error> {
        let NatsHandles {
            jetstream,
            consumer_watch,
            health,
            ..
        } = &self.upstream;
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
        let disconnects = self.disconnects_handled;
        let read = async {
            // Overdue pulls, too: until `ack_wait` passes, nobody else gets their messages.
            while self.intake.pulls.are_under_way() {
                let overdue_at = self.intake.pulls.overdue_at();
                tokio::select! {
                    pulled = self.intake.pulls.next() => match pulled {
                        Some(pulled) => self.intake.accept(pulled).await,
                        None => return,
                    },
                    () = sleep_until_or_never(overdue_at) => {
                        self.intake.pulls.drop_overdue();
                        None
                    }
                };
            }
        };
        tokio::select! {
            _ = timeout(PULL_EXPIRES + PULL_END_GRACE, read) => {}
            () = connection::dropped(&mut self.upstream.disconnects, disconnects) => {}
        }
    }
}

fn response_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
