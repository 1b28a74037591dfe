//! Writers: each takes what the queue holds, and carries it to its acknowledgements.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::parking::Parking;
use super::queue::Sender;
use super::{cache, settle, store};
use crate::cache::Cache;
use crate::error::Error;
use crate::message::DeadLetter;
use crate::messaging::InFlight;
use crate::observe::Observer;
use crate::storage::EventWriter;
use crate::storage::queries::Reads;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::{Health, Metrics};

/// One writer. All of them share what is behind an `Arc`.
#[derive(Clone)]
pub(crate) struct Writer {
    /// `GANESH_WRITERS` places: whoever takes a batch and stores it holds one. Waiting for the cache needs
    /// none, so a cache that answers late does not keep Postgres idle.
    pub(crate) places: Arc<Semaphore>,
    /// The batch to be written next, and what may not be judged yet.
    pub(crate) parking: Arc<Parking>,
    /// Writes rows.
    pub(crate) rows: EventWriter,
    /// Says whether a message that is given up has a row.
    pub(crate) reads: Reads,
    /// Gets the newest states.
    pub(crate) cache: Cache,
    /// Takes the acknowledgements.
    pub(crate) client: async_nats::Client,
    /// The register of what is held.
    pub(crate) in_flight: Arc<InFlight>,
    /// Where refused rows go.
    pub(crate) dead_letters: Sender<DeadLetter>,
    /// Is told of every settled message, unless telemetry is off.
    pub(crate) observer: Option<Observer>,
    /// Tells when Postgres answers again.
    pub(crate) health: Health,
    /// Where it counts.
    pub(crate) metrics: Metrics,
    /// `GANESH_MAX_DELIVERIES`.
    pub(crate) max_deliveries: u64,
    /// What fails again and again is mentioned now and then.
    pub(crate) log: Arc<RateLimit>,
}

/// Writes until the queue is closed and empty.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn run(mut writer: Writer) -> Result<(), Error> {
    loop {
        let places = writer.places.clone();
        let place = places.acquire_owned().await.expect("it is never closed");
        let Some(work) = writer.parking.next().await else {
            return Ok(());
        };
        let Some((batch, letters)) = store::store(&writer, work).await? else {
            continue; // It is parked.
        };
        drop(place);
        writer.dead_letters.send_each(letters);
        if batch.messages.is_empty() {
            continue;
        }
        let cached = cache::write(&writer, &batch).await;
        settle::rows(&mut writer, batch, &cached).await;
    }
}
