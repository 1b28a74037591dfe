//! A look at what the cache would answer for a subject, which changes nothing: no lease, no fill, no epoch.

use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::client::{self, connect_error};
use super::connection::identify;
use super::failure::within;
use super::keys::{self, CachedEntry};
use crate::config::CacheConfig;
use crate::error::Error;
use crate::event::Timestamp;
use crate::storage::epoch::EpochRow;

/// For each answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What stands in the cache for a subject.
#[derive(Debug)]
pub(crate) enum Peeked {
    /// A state: the event in JSON, and since when.
    State { age: Duration, event: Vec<u8> },
    /// The answer that no event has this subject, and since when.
    NoEvent { age: Duration },
    /// No state: the next read asks Postgres, and fills it.
    Nothing,
    /// A reader is filling it.
    Lease,
    /// More than ganesh puts there.
    Large,
    /// Something that ganesh did not write.
    Foreign,
    /// Reads go past this server: the epoch belongs to another one, or to none yet.
    NotUsed,
}

/// Looks once. On a connection of its own, so that it can be asked where no cache runs.
///
/// # Errors
/// When the cache does not answer.
pub(crate) async fn peek(
    config: &CacheConfig,
    epoch: &EpochRow,
    subject: &str,
) -> Result<Peeked, Error> {
    let mut connection = connect(config).await?;
    let server = identify(&mut connection).await?;
    if epoch.server.as_ref() != Some(&server) {
        return Ok(Peeked::NotUsed);
    }
    let key = keys::key(epoch, subject);
    let most = isize::try_from(keys::VALUE_MAX_BYTES).expect("256 KiB");
    // Up to one byte too many, which tells.
    let stored = redis::Cmd::getrange(&key, 0, most);
    let stored = stored.query_async::<Vec<u8>>(&mut connection);
    let stored = within(ANSWER_LIMIT, "reading a state", stored).await;
    let stored = stored.map_err(|failure| failure.error)?;
    if stored.is_empty() {
        return Ok(Peeked::Nothing);
    }
    if stored.len() > keys::VALUE_MAX_BYTES {
        return Ok(Peeked::Large);
    }
    Ok(match keys::parse(stored, Timestamp::now()) {
        Some(CachedEntry::Answer { age, event, .. }) => match event {
            Some(event) => Peeked::State {
                age,
                event: event.to_vec(),
            },
            None => Peeked::NoEvent { age },
        },
        Some(CachedEntry::Lease) => Peeked::Lease,
        Some(CachedEntry::Large) => Peeked::Large,
        None => Peeked::Foreign,
    })
}

async fn connect(config: &CacheConfig) -> Result<MultiplexedConnection, Error> {
    let told = |error| connect_error(&error, config);
    let client = client::open(config).map_err(told)?;
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_LIMIT))
        .set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&limits);
    connection.await.map_err(told)
}
