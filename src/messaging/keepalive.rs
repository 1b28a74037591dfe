//! Keeps what is held: progress acknowledgements before `ack_wait` runs out, and
//! releases of what was dropped. One task for all messages, never one for each.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::connection::{Drops, restored};
use super::in_flight::InFlight;
use crate::labels::Outcome;
use crate::message::InFlightId;
use crate::telemetry::Metrics;

/// Asks the server to restart its `ack_wait` ("work in progress").
const PROGRESS: &[u8] = b"+WPI";
/// Asks the server to deliver again at once.
const NAK: &[u8] = b"-NAK";
/// Progress acknowledgements in one go; the next go follows at once when there are more.
const PROGRESS_MAX_AT_ONCE: usize = 4_096;
/// Releases taken from the queue in one go.
const RELEASES_MAX_AT_ONCE: usize = 1_024;

pub(crate) struct Keepalive {
    pub(crate) in_flight: Arc<InFlight>,
    /// Ids to be released.
    pub(crate) releases: UnboundedReceiver<InFlightId>,
    pub(crate) client: Client,
    pub(crate) drops: Drops,
    pub(crate) metrics: Metrics,
}

impl Keepalive {
    /// Runs until `stop`, then sends the releases that are waiting, and flushes.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(sweep_interval(self.in_flight.ack_wait()));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ids = Vec::new();
        let mut seen = *self.drops.borrow();
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.acknowledge_progress(Instant::now()).await,
                now = restored(&self.client, &mut self.drops, seen) => {
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

    async fn acknowledge_progress(&self, now: Instant) {
        // Nothing leaves a connection that is down. What waits is not marked as alive then, so
        // that all of it is sent when it stands again.
        if self.client.connection_state() != State::Connected {
            return;
        }
        if let Some(before) = overdue_before(now, self.in_flight.ack_wait()) {
            self.acknowledge_since(before).await;
        }
    }

    async fn acknowledge_since(&self, before: Instant) {
        loop {
            let overdue = self.in_flight.take_overdue(before, PROGRESS_MAX_AT_ONCE);
            for reply in &overdue {
                let sent = self
                    .client
                    .publish(reply.clone(), Bytes::from_static(PROGRESS))
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
            if let Some(reply) = self.in_flight.nak_subject(*id) {
                // A connection that is gone makes this fail; then ack_wait does the same, later.
                let _ = self.client.publish(reply, Bytes::from_static(NAK)).await;
            }
        }
        self.metrics.settled[Outcome::Released].increment(ids.len() as u64);
        self.in_flight.forget(ids.drain(..));
    }
}

/// Deliveries without progress since this time get a progress ack: half of `ack_wait` is left.
fn overdue_before(now: Instant, ack_wait: Duration) -> Option<Instant> {
    now.checked_sub(ack_wait / 2)
}

/// Often enough that half of `ack_wait` never becomes all of it.
fn sweep_interval(ack_wait: Duration) -> Duration {
    (ack_wait / 8).max(Duration::from_millis(50))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use async_nats::Subject;
    use proptest::prelude::*;

    use super::*;
    use crate::messaging::in_flight::{Arrival, InFlightLimits};

    /// One delivery: when it arrives, and how long after that it is settled.
    #[derive(Debug, Clone, Copy)]
    struct Life {
        arrives: Duration,
        lasts: Duration,
    }

    /// Parts of a thousand of `ack_wait`.
    fn life() -> impl Strategy<Value = (u32, u32)> {
        (0u32..5_000, 0u32..8_000)
    }

    fn register(ack_wait: Duration) -> Arc<InFlight> {
        let limits = InFlightLimits {
            messages: 1_000,
            bytes: 1_000_000,
        };
        let metrics = Metrics::default();
        InFlight::new(limits, ack_wait, metrics).0
    }

    /// The keepalive's sweeps, in paused time. Says for each delivery the longest that it went
    /// without progress, and the shortest after which it was told to be alive.
    async fn sweep(lives: &[Life], ack_wait: Duration) -> (Duration, Duration) {
        let in_flight = register(ack_wait);
        let began = Instant::now();
        let mut alive_at: HashMap<String, (usize, Instant, Instant)> = HashMap::new();
        let mut to_arrive: Vec<(usize, Life)> = lives.iter().copied().enumerate().collect();
        to_arrive.sort_by_key(|(_, life)| life.arrives);
        let mut to_arrive = to_arrive.into_iter().peekable();
        let (mut longest, mut shortest) = (Duration::ZERO, Duration::MAX);
        let mut ticks = tokio::time::interval(sweep_interval(ack_wait));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let arrival = to_arrive.peek().map(|(_, life)| began + life.arrives);
            let arrives = async {
                match arrival {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = arrives => {
                    let (number, life) = to_arrive.next().expect("it was seen");
                    let reply = Subject::from(format!("reply.{number}"));
                    let arrival = Arrival { reply: reply.clone(), bytes: 1 };
                    let holds = in_flight.hold(std::iter::once(arrival), in_flight.generation());
                    let id = holds.into_iter().next().expect("one was held").settle();
                    alive_at.insert(reply.to_string(), (id, Instant::now(), Instant::now() + life.lasts));
                    continue;
                }
                _ = ticks.tick() => {}
            }
            let now = Instant::now();
            let settled = alive_at.extract_if(|_, (_, _, until)| *until <= now);
            let settled: Vec<_> = settled.map(|(_, entry)| entry).collect();
            for (_, alive, until) in &settled {
                longest = longest.max(until.duration_since(*alive));
            }
            in_flight.forget(settled.into_iter().map(|(id, ..)| id));
            let before = overdue_before(now, ack_wait).expect("the test's clock is that old");
            for reply in in_flight.take_overdue(before, PROGRESS_MAX_AT_ONCE) {
                let (_, alive, _) = alive_at
                    .get_mut(reply.as_str())
                    .expect("only what is held is kept");
                longest = longest.max(now.duration_since(*alive));
                shortest = shortest.min(now.duration_since(*alive));
                *alive = now;
            }
            if to_arrive.peek().is_none() && alive_at.is_empty() {
                return (longest, shortest);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_held_never_goes_ack_wait_without_progress_and_is_told_to_live_no_sooner_than_needed(
            lives in prop::collection::vec(life(), 1..40),
            ack_wait_ms in 1_000u64..60_000,
        ) {
            let ack_wait = Duration::from_millis(ack_wait_ms);
            let part = |thousandths: u32| ack_wait * thousandths / 1_000;
            let lives: Vec<Life> = lives
                .into_iter()
                .map(|(arrives, lasts)| Life { arrives: part(arrives), lasts: part(lasts) })
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without I/O needs nothing");
            let (longest, shortest) = runtime.block_on(sweep(&lives, ack_wait));
            prop_assert!(longest < ack_wait * 3 / 4, "{longest:?} of {ack_wait:?}");
            prop_assert!(shortest >= ack_wait / 2, "{shortest:?} of {ack_wait:?}");
        }
    }
}
