//! Keeps what is held: progress acknowledgements before `ack_wait` runs out, and
//! releases of what was dropped. One task for all messages, never one for each.

use std::sync::Arc;

use async_nats::Client;
use async_nats::connection::State;
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::connection::{Disconnects, restored};
use super::in_flight::InFlight;
use crate::labels::Outcome;
use crate::message::InFlightId;
use crate::telemetry::Metrics;

/// Asks the server to restart its `ack_wait` ("work in progress").
const PROGRESS: &[u8] = b"+WPI";
/// Asks the server to deliver again at once.
const NAK: &[u8] = b"-NAK";
/// Often enough that half of `ack_wait` never becomes all of it.
const SWEEPS_PER_ACK_WAIT: u32 = 8;
/// Progress acknowledgements in one go; the next go follows at once when there are more.
const PROGRESS_MAX_AT_ONCE: usize = 4_096;
/// Releases taken from the queue in one go.
const RELEASES_MAX_AT_ONCE: usize = 1_024;

pub(crate) struct Keepalive {
    pub(crate) in_flight: Arc<InFlight>,
    /// Ids to be released.
    pub(crate) releases: UnboundedReceiver<InFlightId>,
    pub(crate) client: Client,
    pub(crate) disconnects: Disconnects,
    pub(crate) metrics: Metrics,
}

impl Keepalive {
    /// Runs until `stop`, then sends the releases that are waiting, and flushes.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.in_flight.ack_wait() / SWEEPS_PER_ACK_WAIT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ids = Vec::new();
        let mut seen = *self.disconnects.borrow();
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.acknowledge_progress().await,
                now = restored(&self.client, &mut self.disconnects, seen) => {
                    seen = now;
                    // What was sent into the connection that dropped may be lost.
                    self.acknowledge_since(Instant::now()).await;
                }
                count = self.releases.recv_many(&mut ids, RELEASES_MAX_AT_ONCE) => {
                    if count == 0 { break; }
                    self.release(&mut ids).await;
                }
                () = stop.cancelled() => break,
            }
        }
        while let Ok(id) = self.releases.try_recv() {
            ids.push(id);
        }
        self.release(&mut ids).await;
    }

    /// For deliveries without progress for half of `ack_wait`.
    async fn acknowledge_progress(&self) {
        // Nothing leaves a connection that is down. What waits is not marked as alive then, so
        // that all of it is sent when it stands again.
        if self.client.connection_state() != State::Connected {
            return;
        }
        if let Some(before) = Instant::now().checked_sub(self.in_flight.ack_wait() / 2) {
            self.acknowledge_since(before).await;
        }
    }

    async fn acknowledge_since(&self, before: Instant) {
        loop {
            let overdue = self.in_flight.take_overdue(before, PROGRESS_MAX_AT_ONCE);
            for ack_subject in &overdue {
                let sent = self
                    .client
                    .publish(ack_subject.clone(), Bytes::from_static(PROGRESS))
                    .await;
                if sent.is_ok() {
                    self.metrics.progress_acks.increment(1);
                }
            }
            if overdue.len() < PROGRESS_MAX_AT_ONCE {
                return;
            }
        }
    }

    async fn release(&self, ids: &mut Vec<InFlightId>) {
        for id in ids.iter() {
            if let Some(ack_subject) = self.in_flight.nak_subject(*id) {
                // A connection that is gone makes this fail; then ack_wait does the same, later.
                let _ = self
                    .client
                    .publish(ack_subject, Bytes::from_static(NAK))
                    .await;
            }
        }
        self.metrics.settled[Outcome::Released].increment(ids.len() as u64);
        self.in_flight.forget(ids.drain(..));
    }
}
