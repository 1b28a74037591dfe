//! A read of a subject's newest state: from the cache, or from Postgres through the cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{ExistenceCheck, SetExpiry, SetOptions};
use tokio::time::{Instant, sleep};

use super::Cache;
use super::connection::VerifiedConnection;
use super::epoch::Asked;
use super::failure::{CacheFailure, FailureKind, cache_error, within};
use super::keys::{self, CachedEntry};
use crate::error::{Code, Error};
use crate::event::{Timestamp, to_json};
use crate::labels::CacheRequest;

/// A read that waits longer goes to Postgres.
const READ_LIMIT: Duration = Duration::from_millis(100);
/// A lease expires after this time if its holder dies. One query must fit in it.
const LEASE: Duration = Duration::from_secs(2);
/// How long a reader waits for what another is fetching.
const WAIT_LIMIT: Duration = Duration::from_millis(250);
/// How often it looks meanwhile.
const WAIT_INTERVAL: Duration = Duration::from_millis(10);

/// A subject's newest event, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The event in the JSON format of `CloudEvents`; `None`: the subject has none.
    pub event: Option<Bytes>,
    /// Where it came from.
    pub origin: Origin,
}

/// The path that an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the cache.
    Hit {
        /// Since the cache was given it.
        age: Duration,
    },
    /// From the cache, after another reader had fetched it.
    Collapsed {
        /// Since the cache was given it.
        age: Duration,
    },
    /// From Postgres, because the cache had none.
    Miss {
        /// Whether the cache has it now.
        stored: bool,
    },
    /// From Postgres, because the cache was away, slow, or not to be trusted.
    Bypass,
}

impl Cache {
    /// The newest event of a subject.
    ///
    /// # Errors
    /// When Postgres was needed and failed. The cache alone never makes a read fail.
    pub async fn latest(&self, subject: &str) -> Result<Answer, Error> {
        let Some((connection, key)) = self.readable(subject) else {
            return self.bypass(subject).await;
        };
        let lease = keys::lease();
        let give_up_at = Instant::now() + WAIT_LIMIT;
        let mut waited = false;
        loop {
            match meet(&connection, &key, &lease).await {
                Ok(Some(CachedEntry::NewestState { age, event })) => {
                    self.0.late_reads.store(0, Ordering::Relaxed);
                    let (request, origin) = if waited {
                        (CacheRequest::ReadWait, Origin::Collapsed { age })
                    } else {
                        (CacheRequest::ReadHit, Origin::Hit { age })
                    };
                    self.count(request);
                    let event = Some(event);
                    return Ok(Answer { event, origin });
                }
                Ok(None) => return self.fill(&connection, subject, &key, &lease).await,
                Ok(Some(CachedEntry::Lease)) if Instant::now() < give_up_at => {
                    waited = true;
                    sleep(WAIT_INTERVAL).await;
                }
                Ok(Some(CachedEntry::Lease | CachedEntry::Large)) => {
                    return self.bypass(subject).await;
                }
                Err(failure) => {
                    self.note(&connection, &failure, true);
                    if failure.kind == FailureKind::Foreign {
                        remove(&connection, &key).await;
                    }
                    return self.bypass(subject).await;
                }
            }
        }
    }

    /// Returns the connection and the key that a read which starts now may use.
    fn readable(&self, subject: &str) -> Option<(Arc<VerifiedConnection>, String)> {
        let connection = self.0.connection.load_full()?;
        let known = self.0.known.load();
        let known = known
            .as_ref()
            .filter(|known| known.asked.is_recent(Asked::now()))?;
        let bound = known.row.server.as_ref() == Some(&connection.server);
        bound.then(|| (connection, keys::key(&known.row, subject)))
    }

    async fn bypass(&self, subject: &str) -> Result<Answer, Error> {
        self.count(CacheRequest::ReadBypass);
        let found = self.0.reads.newest_of_subject(subject).await?;
        Ok(Answer {
            event: found.map(|found| to_json(&found.event)),
            origin: Origin::Bypass,
        })
    }

    /// Fetches the state from Postgres and leaves it in the place of our lease, if the lease is
    /// still there: a write to the subject would have removed it, and this state with it.
    async fn fill(
        &self,
        connection: &Arc<VerifiedConnection>,
        subject: &str,
        key: &str,
        lease: &str,
    ) -> Result<Answer, Error> {
        self.count(CacheRequest::ReadMiss);
        let found = self.0.reads.newest_of_subject(subject).await;
        let mut event = None;
        let mut value = Vec::new();
        if let Ok(Some(found)) = &found {
            let json = to_json(&found.event);
            value = keys::value(found.event.time, found.stream_seq, Timestamp::now(), &json);
            event = Some(json);
        }
        let stored = self.settle(connection, key, lease, &value).await;
        found?;
        let origin = Origin::Miss { stored };
        Ok(Answer { event, origin })
    }

    /// Replaces our lease by a value, or gives it back when there is none. Returns whether the
    /// value is in the cache.
    async fn settle(
        &self,
        connection: &Arc<VerifiedConnection>,
        key: &str,
        lease: &str,
        value: &[u8],
    ) -> bool {
        let mut redis = connection.redis.clone();
        let mut call = self.0.scripts.settle.prepare_invoke();
        call.key(key).arg(lease).arg(value).arg(self.0.ttl_secs);
        let settled = call.invoke_async::<bool>(&mut redis);
        let settled = within(READ_LIMIT, "filling a state", settled).await;
        if let Err(failure) = &settled {
            self.note(connection, failure, true);
        }
        if value.is_empty() {
            return false;
        }
        self.count(match settled {
            Ok(true) => CacheRequest::FillStored,
            Ok(false) => CacheRequest::FillVoided,
            Err(_) => CacheRequest::FillError,
        });
        settled.unwrap_or(false)
    }
}

/// Looks under a key; takes the lease where there is nothing, which is `None`.
async fn meet(
    connection: &VerifiedConnection,
    key: &str,
    lease: &str,
) -> Result<Option<CachedEntry>, CacheFailure> {
    let mut connection = connection.redis.clone();
    let most = isize::try_from(keys::VALUE_MAX_BYTES).expect("256 KiB");
    // Up to one byte too many, which tells.
    let stored = redis::Cmd::getrange(key, 0, most);
    let stored = stored.query_async::<Vec<u8>>(&mut connection);
    let stored = within(READ_LIMIT, "reading a state", stored).await?;
    if stored.len() > keys::VALUE_MAX_BYTES {
        return Ok(Some(CachedEntry::Large));
    }
    // Nothing is stored empty.
    if !stored.is_empty() {
        let entry = keys::parse(stored, Timestamp::now());
        return entry.map(Some).ok_or_else(|| CacheFailure {
            kind: FailureKind::Foreign,
            error: cache_error(Code::Response, "a key of ours holds what we did not write"),
        });
    }
    let lease_ms = u64::try_from(LEASE.as_millis()).expect("two seconds");
    let options = SetOptions::default()
        .conditional_set(ExistenceCheck::NX)
        .with_expiration(SetExpiry::PX(lease_ms));
    let taken = redis::Cmd::set_options(key, lease, options);
    let taken = taken.query_async::<Option<()>>(&mut connection);
    match within(READ_LIMIT, "taking a lease", taken).await? {
        Some(()) => Ok(None),
        None => Ok(Some(CachedEntry::Lease)),
    }
}

/// Removes a foreign value. If that fails, the next read tries again.
async fn remove(connection: &VerifiedConnection, key: &str) {
    let mut connection: MultiplexedConnection = connection.redis.clone();
    let removal = redis::Cmd::del(key);
    let removal = removal.query_async::<()>(&mut connection);
    if let Err(failure) = within(READ_LIMIT, "removing a key", removal).await {
        tracing::debug!(error = %failure.error, "foreign key not removed");
    }
}
