//! Settle: the one place where messages are acknowledged, all of them durable by now.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::time::MissedTickBehavior;

use super::dead_letter::Buried;
use super::observe::Observer;
use super::store::Committed;
use crate::error::Error;
use crate::messaging::{Delivery, delivery};
use crate::telemetry::record::Failures;

const ACK: &[u8] = b"+ACK";
/// How often the observer is told that time passes, messages or not.
const TICK: Duration = Duration::from_secs(1);

/// Messages that may be acknowledged.
pub enum Settlement {
    /// A batch whose rows are committed, after the cache stage.
    Rows(Cached),
    /// A message whose dead letter the stream has acknowledged.
    Letter(Box<Buried>),
}

/// A batch whose rows are committed, and than which the cache answers with nothing older.
pub struct Cached {
    /// The batch.
    pub committed: Committed,
    /// When it was in the cache, or nothing of it had to be (nanoseconds of
    /// [`crate::telemetry::record::now_nanos`]).
    pub cached_at: u64,
    /// Attempts of the cache stage that failed.
    pub failures: Failures,
    /// The cache's error, if it had to be done without.
    pub done_without: Option<Error>,
}

/// Acknowledges until the input closes.
///
/// # Errors
/// None: an acknowledgement that is lost makes a redelivery, and that a duplicate.
pub async fn run(
    client: Client,
    mut observer: Option<Observer>,
    mut input: Receiver<Settlement>,
) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            settlement = input.recv() => match settlement {
                Some(settlement) => settle(&client, &mut observer, settlement).await,
                None => return Ok(()),
            },
            _ = ticks.tick() => if let Some(observer) = &mut observer {
                observer.tick();
            },
        }
    }
}

async fn settle(client: &Client, observer: &mut Option<Observer>, settlement: Settlement) {
    match settlement {
        Settlement::Rows(cached) => {
            let messages = &cached.committed.messages;
            acknowledge(client, messages.iter().map(|d| &d.delivery)).await;
            if let Some(observer) = observer {
                observer.rows(&cached);
            }
            let messages = cached.committed.messages.into_iter();
            delivery::settle(messages.map(|d| d.delivery));
        }
        Settlement::Letter(buried) => {
            acknowledge(client, std::iter::once(&buried.letter.delivery)).await;
            if let Some(observer) = observer {
                observer.letter(&buried);
            }
            delivery::settle([buried.letter.delivery]);
        }
    }
}

async fn acknowledge(client: &Client, deliveries: impl Iterator<Item = &Delivery>) {
    for delivery in deliveries.filter(|delivery| delivery.is_ours()) {
        let reply = delivery.reply.clone();
        // Fails only when the client is closed, at the very end.
        let _ = client.publish(reply, Bytes::from_static(ACK)).await;
    }
}
