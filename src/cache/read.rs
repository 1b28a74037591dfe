//! A read: from the cache, or from Postgres through the cache.

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
use crate::labels::{CacheRead, CacheRequest};
use crate::storage::queries::{Alternate, EventKey};

/// A read that waits longer goes to Postgres.
const READ_LIMIT: Duration = Duration::from_millis(100);
/// A lease on a newest state expires after this time if its holder dies. One query must fit in it.
const LEASE: Duration = Duration::from_secs(2);
/// The same of a question for one event. The second of P5: an answer that a later event can make wrong ends with
/// the lease.
const EVENT_LEASE: Duration = Duration::from_secs(1);
/// How long an event stays that no later one can take the place of. Operators delete and change rows.
const EVENT_TTL: Duration = Duration::from_mins(1);
/// How long the answer stays that a subject has no event. An event ends it at once; asking for any name makes one.
const NO_EVENT_TTL: Duration = Duration::from_secs(30);
/// How long a reader waits for what another is fetching.
const WAIT_LIMIT: Duration = Duration::from_millis(250);
/// How often it looks meanwhile.
const WAIT_INTERVAL: Duration = Duration::from_millis(10);

/// An event, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The event in the JSON format of `CloudEvents`; `None`: there is none.
    pub event: Option<Bytes>,
    /// Of a question for one event: the others that match.
    pub others: Vec<Alternate>,
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

/// What a read asks for.
#[derive(Clone, Copy)]
enum CacheQuestion<'a> {
    Newest(&'a str),
    Event(&'a EventKey<'a>),
}

/// What Postgres answered, and what the cache is given of it.
struct Fetched {
    event: Option<Bytes>,
    others: Vec<Alternate>,
    /// Empty: it is not kept.
    value: Vec<u8>,
    /// `None`: until the lease ends.
    ttl: Option<Duration>,
}

impl Cache {
    /// The newest event of a subject.
    ///
    /// # Errors
    /// When Postgres was needed and failed. The cache alone never makes a read fail.
    pub async fn latest(&self, subject: &str) -> Result<Answer, Error> {
        self.timed_answer(CacheQuestion::Newest(subject)).await
    }

    /// The newest event that matches.
    ///
    /// # Errors
    /// When Postgres was needed and failed. The cache alone never makes a read fail.
    pub async fn event(&self, asked: &EventKey<'_>) -> Result<Answer, Error> {
        self.timed_answer(CacheQuestion::Event(asked)).await
    }

    async fn timed_answer(&self, question: CacheQuestion<'_>) -> Result<Answer, Error> {
        let began = Instant::now();
        let answer = self.answer(question).await?;
        let result = match answer.origin {
            Origin::Hit { .. } => CacheRead::Hit,
            Origin::Collapsed { .. } => CacheRead::Wait,
            Origin::Miss { .. } => CacheRead::Miss,
            Origin::Bypass => CacheRead::Bypass,
        };
        let seconds = began.elapsed().as_secs_f64();
        self.0.metrics.cache_read_seconds[result].record(seconds);
        Ok(answer)
    }

    async fn answer(&self, question: CacheQuestion<'_>) -> Result<Answer, Error> {
        let Some((connection, key)) = self.readable(question) else {
            return self.bypass(question).await;
        };
        let lease = keys::lease();
        let lease_limit = match question {
            CacheQuestion::Newest(_) => LEASE,
            CacheQuestion::Event(_) => EVENT_LEASE,
        };
        let give_up_at = Instant::now() + WAIT_LIMIT;
        let mut waited = false;
        loop {
            match meet(&connection, &key, &lease, lease_limit).await {
                Ok(Some(CachedEntry::Answer { age, event, others })) => {
                    self.0.late_reads.store(0, Ordering::Relaxed);
                    let (request, origin) = if waited {
                        (CacheRequest::ReadWait, Origin::Collapsed { age })
                    } else {
                        (CacheRequest::ReadHit, Origin::Hit { age })
                    };
                    self.count(request);
                    return Ok(Answer {
                        event,
                        others,
                        origin,
                    });
                }
                Ok(None) => return self.fill(&connection, question, &key, &lease).await,
                Ok(Some(CachedEntry::Lease)) if Instant::now() < give_up_at => {
                    waited = true;
                    sleep(WAIT_INTERVAL).await;
                }
                Ok(Some(CachedEntry::Lease | CachedEntry::Large)) => {
                    return self.bypass(question).await;
                }
                Err(failure) => {
                    self.note(&connection, &failure, true);
                    if failure.kind == FailureKind::Foreign {
                        remove(&connection, &key).await;
                    }
                    return self.bypass(question).await;
                }
            }
        }
    }

    /// Returns the connection and the key that a read which starts now may use.
    fn readable(&self, question: CacheQuestion<'_>) -> Option<(Arc<VerifiedConnection>, String)> {
        let connection = self.0.connection.load_full()?;
        let known = self.0.known.load();
        let known = known
            .as_ref()
            .filter(|known| known.asked.is_recent(Asked::now()))?;
        let bound = known.row.server.as_ref() == Some(&connection.server);
        let key = match question {
            CacheQuestion::Newest(subject) => keys::key(&known.row, subject),
            CacheQuestion::Event(asked) => keys::event_key(&known.row, asked),
        };
        bound.then_some((connection, key))
    }

    async fn bypass(&self, question: CacheQuestion<'_>) -> Result<Answer, Error> {
        self.count(CacheRequest::ReadBypass);
        let Fetched { event, others, .. } = self.fetch(question).await?;
        Ok(Answer {
            event,
            others,
            origin: Origin::Bypass,
        })
    }

    /// Fetches the answer from Postgres and leaves it in the place of our lease, if the lease is
    /// still there: a write to the subject would have removed it, and this answer with it.
    async fn fill(
        &self,
        connection: &Arc<VerifiedConnection>,
        question: CacheQuestion<'_>,
        key: &str,
        lease: &str,
    ) -> Result<Answer, Error> {
        self.count(CacheRequest::ReadMiss);
        let fetched = self.fetch(question).await;
        let (value, ttl) = match &fetched {
            Ok(fetched) => (fetched.value.as_slice(), fetched.ttl),
            Err(_) => (&[][..], None),
        };
        let stored = self.settle(connection, key, lease, value, ttl).await;
        let Fetched { event, others, .. } = fetched?;
        Ok(Answer {
            event,
            others,
            origin: Origin::Miss { stored },
        })
    }

    async fn fetch(&self, question: CacheQuestion<'_>) -> Result<Fetched, Error> {
        match question {
            CacheQuestion::Newest(subject) => self.fetch_newest(subject).await,
            CacheQuestion::Event(asked) => self.fetch_event(asked).await,
        }
    }

    async fn fetch_newest(&self, subject: &str) -> Result<Fetched, Error> {
        let found = self.0.reads.newest_of_subject(subject).await?;
        let now = Timestamp::now();
        let (event, value, ttl) = match found {
            Some(found) => {
                let json = to_json(&found.event);
                let value = keys::value(found.event.time, found.stream_seq, now, &json);
                (Some(json), value, self.0.config.ttl)
            }
            None => (
                None,
                keys::no_event(now),
                self.0.config.ttl.min(NO_EVENT_TTL),
            ),
        };
        Ok(Fetched {
            event,
            others: Vec::new(),
            value,
            ttl: Some(ttl),
        })
    }

    async fn fetch_event(&self, asked: &EventKey<'_>) -> Result<Fetched, Error> {
        let found = self.0.reads.event_by_id(asked).await?;
        let now = Timestamp::now();
        let Some((found, others)) = found else {
            return Ok(Fetched {
                event: None,
                others: Vec::new(),
                value: keys::no_event(now),
                ttl: None,
            });
        };
        let json = to_json(&found.event);
        // The key of a row.
        let is_one = asked.source.is_some() && asked.time.is_some();
        Ok(Fetched {
            value: keys::event_value(now, &json, &others),
            event: Some(json),
            others,
            ttl: is_one.then(|| self.0.config.ttl.min(EVENT_TTL)),
        })
    }

    /// Replaces our lease by a value, or gives it back when there is none. Returns whether the
    /// value is in the cache.
    async fn settle(
        &self,
        connection: &Arc<VerifiedConnection>,
        key: &str,
        lease: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> bool {
        let mut redis = connection.redis.clone();
        let mut call = self.0.scripts.settle.prepare_invoke();
        let ttl_ms = ttl.map(|ttl| spread(ttl).as_millis().to_string());
        call.key(key).arg(lease).arg(value);
        call.arg(ttl_ms.unwrap_or_default());
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

/// Up to a tenth less, so that what was filled together does not end together.
fn spread(ttl: Duration) -> Duration {
    ttl.mul_f64(rand::random_range(0.9..1.0))
}

/// Looks under a key; takes the lease where there is nothing, which is `None`.
async fn meet(
    connection: &VerifiedConnection,
    key: &str,
    lease: &str,
    lease_limit: Duration,
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
    let lease_ms = u64::try_from(lease_limit.as_millis()).expect("a second or two");
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
