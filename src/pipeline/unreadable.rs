//! Messages that the client library cannot read become dead letters, before they block all
//! behind them: each delivery of one drops the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::consumer::PullConsumer;
use futures::{StreamExt, TryStreamExt};

use super::queue::Sender;
use crate::config::NatsConfig;
use crate::error::Error;
use crate::labels::Reason;
use crate::message::DeadLetter;
use crate::messaging::InFlight;
use crate::messaging::in_flight::{Admission, Capacity};
use crate::messaging::readable::KnownReadable;
use crate::messaging::unreadable::{Search, Unreadable};

/// Messages that are read at the same time: each may be as large as the server allows.
const LOOKS_AT_ONCE: usize = 4;
/// A second drop within so many times `ack_wait` looks like a message that was delivered again.
const REPEATED_WITHIN_ACK_WAITS: u32 = 3;

/// Decides when to look for them, and buries what is found.
pub(super) struct Unreadables {
    client: Client,
    search: Search,
    in_flight: Arc<InFlight>,
    stream: String,
    dead_letters: Sender<DeadLetter>,
    server_id: String,
    dropped_at: Option<Instant>,
    is_due: bool,
}

impl Unreadables {
    /// `is_due`: there is a reason to look before anything has dropped here.
    pub(super) fn new(
        client: Client,
        consumer: PullConsumer,
        in_flight: Arc<InFlight>,
        readable: Arc<KnownReadable>,
        nats: &NatsConfig,
        dead_letters: Sender<DeadLetter>,
        is_due: bool,
    ) -> Self {
        Self {
            server_id: client.server_info().server_id,
            search: Search::new(client.clone(), consumer, readable, &nats.api_prefix),
            client,
            in_flight,
            stream: nats.stream.clone(),
            dead_letters,
            dropped_at: None,
            is_due,
        }
    }

    /// The connection dropped and stands again. A server that restarted drops it too, but not
    /// twice in a row, and the one that runs on has no reason to.
    pub(super) fn schedule_search(&mut self) {
        let server_id = self.client.server_info().server_id;
        // The server's, which may be longer than ours: it delivers again after that one.
        let ack_wait = self.search.ack_wait().max(self.in_flight.ack_wait());
        let soon: Duration = ack_wait * REPEATED_WITHIN_ACK_WAITS;
        let last = self.dropped_at.replace(Instant::now());
        let is_repeated = last.is_some_and(|at| at.elapsed() < soon);
        self.is_due |= is_repeated || server_id == self.server_id;
        self.server_id = server_id;
    }

    /// Whether [`Self::search_and_bury`] has something to do.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Looks at what is delivered and not held, and hands on what cannot be read.
    pub(super) async fn search_and_bury(&mut self) -> Result<(), Error> {
        self.is_due = false;
        let consumer_generation = self.in_flight.consumer_generation();
        let (candidates, is_all) = self.search.candidates(&self.in_flight).await?;
        let count = candidates.len();
        let mut looked_at = Vec::with_capacity(count);
        let result = {
            let search = &self.search;
            let looks = futures::stream::iter(candidates).map(|sequence| async move {
                let found = search.look(sequence).await;
                found.map(|found| (sequence, found))
            });
            let mut looks = std::pin::pin!(looks.buffered(LOOKS_AT_ONCE));
            loop {
                match looks.try_next().await {
                    Ok(Some((sequence, found))) => {
                        looked_at.push((sequence, found.is_none()));
                        if let Some(unreadable) = found {
                            self.hand_on(unreadable).await;
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
        };
        tracing::warn!(
            candidates = count,
            looked_at = looked_at.len(),
            unreadable = looked_at
                .iter()
                .filter(|(_, is_readable)| !is_readable)
                .count(),
            "the connection dropped for no known reason: looked for messages that cannot be read"
        );
        // Another go where this one came further, and not to the end.
        self.is_due = !looked_at.is_empty() && (result.is_err() || !is_all);
        let readable = looked_at
            .into_iter()
            .filter(|(_, is_readable)| *is_readable);
        self.search
            .note(readable.map(|(sequence, _)| sequence), consumer_generation);
        result
    }

    async fn hand_on(&self, unreadable: Unreadable) {
        let Unreadable { parsed, why } = unreadable;
        let bytes = parsed.message.length;
        self.in_flight
            .wait_for_capacity(Capacity { messages: 1, bytes })
            .await;
        let admission = Admission {
            ack_subject: parsed.ack_subject.clone(),
            bytes,
        };
        let consumer_generation = self.in_flight.consumer_generation();
        let guards = self
            .in_flight
            .admit(std::iter::once(admission), consumer_generation);
        let Some(guard) = guards.into_iter().next() else {
            return;
        };
        let letter = DeadLetter {
            delivery: parsed.into_delivery(&self.stream, guard),
            reason: Reason::Unreadable,
            detail: why.to_owned(),
            event: None,
            batch: None,
        };
        self.dead_letters.send_each(vec![letter]);
    }
}
