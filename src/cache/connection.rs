//! The connection: handed out only after its server said which process it is, and Postgres that
//! the epoch belongs to that process.
//!
//! A server that was restarted, restored from a snapshot, or promoted after a failover may hold
//! states that are older than what was acknowledged, under keys of the current epoch. It is
//! another process than the one that the epoch was bound to, so binding the epoch to it advances
//! the epoch. Two processes of ours that reach two servers never share an epoch, either.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::time::MissedTickBehavior;

use super::client::{self, connect_error};
use super::epoch::Asked;
use super::failure::{CacheFailure, FailureKind, cache_error, within};
use super::{Cache, cluster};
use crate::backoff::Backoff;
use crate::error::{Code, Dependency, Error};
use crate::labels::ConnectionEvent;
use crate::storage::deadline::{Deadline, LentConnection};
use crate::storage::epoch;
use crate::telemetry::metrics::Both;

/// Reads in a row without an answer in time, after which the connection is given up.
const LATE_READS_MAX: u32 = 3;
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts, doubled from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A connection that lived so long starts the pauses anew.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// For each answer while a connection is verified or watched.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
/// How often a connection is asked again which process it leads to.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct VerifiedConnection {
    pub(super) redis: MultiplexedConnection,
    /// The server's process, as it names itself.
    pub(super) server: String,
}

impl Cache {
    pub(super) async fn keep_connection(&self) {
        let mut backoff = Backoff::between(PAUSE.0, PAUSE.1);
        loop {
            let (failure, lived) = match self.connect().await {
                Ok(connection) => {
                    let since = Instant::now();
                    self.count_connection(ConnectionEvent::Opened);
                    let failure = self.watch(connection).await;
                    self.count_connection(ConnectionEvent::Closed);
                    (failure, since.elapsed())
                }
                Err(error) => {
                    self.0.metrics.dependency_error(&error);
                    (Some(error), Duration::ZERO)
                }
            };
            if let Some(error) = failure {
                self.say(&error);
            }
            self.0.health.set(Dependency::Cache, false);
            if lived >= STABLE_AFTER {
                backoff.reset();
            }
            backoff.wait().await;
        }
    }

    fn count_connection(&self, event: ConnectionEvent) {
        self.0.metrics.connection_events[Both(Dependency::Cache, event)].increment(1);
    }

    /// A connection whose server holds nothing older than the epoch.
    async fn connect(&self) -> Result<Arc<VerifiedConnection>, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            // Every operation brings its own limit.
            .set_response_timeout(None);
        let told = |error| connect_error(&error, &self.0.config);
        let client = client::open(&self.0.config).map_err(told)?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(told)?;
        let server = identify(&mut connection).await?;
        cluster::refuse(&mut connection).await?;
        let asked = Asked::now();
        let claim = async {
            let mut lent = LentConnection::of(&self.0.pool).await?;
            let at_start = !self.0.is_started.load(Ordering::Relaxed);
            let row = epoch::claim(&mut lent.connection, &server, at_start).await?;
            self.0.is_started.store(true, Ordering::Relaxed);
            lent.give_back();
            Ok(row)
        };
        let deadline = Deadline::new(CLAIM_LIMIT, "binding the cache epoch to its server");
        let row = deadline.run(claim).await?;
        self.learn(row, asked);
        Ok(Arc::new(VerifiedConnection {
            redis: connection,
            server,
        }))
    }

    /// Hands the connection out until it fails. Returns `None` where the failure was logged
    /// already.
    async fn watch(&self, connection: Arc<VerifiedConnection>) -> Option<Error> {
        self.0.late_reads.store(0, Ordering::Relaxed);
        self.0.connection.store(Some(connection.clone()));
        self.0.health.set(Dependency::Cache, true);
        let mut tick = tokio::time::interval(WATCH_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.0.dropped.notified() => {}
            }
            if !is_same(self.0.connection.load().as_ref(), &connection) {
                return None;
            }
            if let Err(error) = self.check(&connection).await {
                self.0.metrics.dependency_error(&error);
                self.0.connection.store(None);
                return Some(error);
            }
        }
    }

    async fn check(&self, connection: &VerifiedConnection) -> Result<(), Error> {
        let server = identify(&mut connection.redis.clone()).await?;
        if server != connection.server {
            let what = "the cache's data was replaced";
            return Err(cache_error(Code::Conflict, what));
        }
        let known = self.0.known.load_full();
        let bound = known.is_none_or(|known| known.row.server.as_ref() == Some(&connection.server));
        // What is known may be older than the connection; what the row says now is not.
        if bound || self.read_epoch(CLAIM_LIMIT).await?.server.as_ref() == Some(&connection.server)
        {
            return Ok(());
        }
        Err(bound_to_another())
    }

    /// Gives the connection up: nobody uses it until the next one is verified.
    pub(super) fn give_up(&self, connection: &Arc<VerifiedConnection>, error: &Error) {
        let previous = self.0.connection.compare_and_swap(connection, None);
        if is_same(previous.as_ref(), connection) {
            self.0.health.set(Dependency::Cache, false);
            self.say(error);
            self.0.dropped.notify_one();
        }
    }

    /// Counts a failure; gives the connection up where it must be.
    pub(super) fn note(
        &self,
        connection: &Arc<VerifiedConnection>,
        failure: &CacheFailure,
        reading: bool,
    ) {
        let CacheFailure { kind, error } = failure;
        self.0.metrics.dependency_error(error);
        let gives_up = match kind {
            // An answer: the connection is whole.
            FailureKind::Refused | FailureKind::Foreign => {
                self.say(error);
                false
            }
            // Nothing depends on the answer to a read: one late answer is no reason to make
            // every batch do without the cache.
            FailureKind::Late if reading => {
                self.0.late_reads.fetch_add(1, Ordering::Relaxed) + 1 >= LATE_READS_MAX
            }
            FailureKind::Late | FailureKind::Broken => true,
        };
        if gives_up {
            self.give_up(connection, error);
        }
    }

    /// Logs a failure; the same one only once in a while.
    pub(super) fn say(&self, error: &Error) {
        if let Some(suppressed) = self.0.said[error.code as usize].allow() {
            tracing::warn!(%error, suppressed, "the cache fails; reads go to Postgres where they must");
        }
    }
}

fn is_same(one: Option<&Arc<VerifiedConnection>>, other: &Arc<VerifiedConnection>) -> bool {
    one.is_some_and(|one| Arc::ptr_eq(one, other))
}

pub(super) fn bound_to_another() -> Error {
    let what = "the epoch was bound to another cache server";
    cache_error(Code::Conflict, what)
}

/// Which process of the server this connection leads to: Redis has a `run_id`, Dragonfly a
/// `master_replid`, each made anew at every start. That of Redis also tells a data set that was
/// replaced by replication from the one before.
pub(super) async fn identify(connection: &mut MultiplexedConnection) -> Result<String, Error> {
    let mut infos = redis::pipe();
    infos
        .cmd("INFO")
        .arg("server")
        .cmd("INFO")
        .arg("replication");
    let infos = infos.query_async::<(String, String)>(connection);
    let (server, replication) = within(ANSWER_LIMIT, "INFO", infos)
        .await
        .map_err(|failure| failure.error)?;
    identity(&server, &replication)
}

fn identity(server: &str, replication: &str) -> Result<String, Error> {
    let fields: HashMap<&str, &str> = server
        .lines()
        .chain(replication.lines())
        .filter_map(|line| line.trim_end().split_once(':'))
        .collect();
    if fields.get("role").is_some_and(|role| *role != "master") {
        let what = "the cache server is a replica";
        return Err(cache_error(Code::Unavailable, what));
    }
    match (fields.get("run_id"), fields.get("master_replid")) {
        (Some(run), Some(data)) => Ok(format!("{run}/{data}")),
        (Some(id), None) | (None, Some(id)) => Ok((*id).to_owned()),
        (None, None) => Err(cache_error(
            Code::Setup,
            "INFO names neither run_id nor master_replid: a restart could not be noticed",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_run_and_its_data_as_far_as_it_names_them() {
        let redis = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nuptime_in_seconds:2\r\n";
        let dragonfly = "# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1.39.0\r\n";
        let replication = "# Replication\r\nrole:master\r\nmaster_replid:def\r\n";
        assert_eq!(identity(redis, replication).expect("accepted"), "abc/def");
        assert_eq!(identity(dragonfly, replication).expect("accepted"), "def");
    }

    #[test]
    fn a_replica_and_a_server_without_identity_are_not_used() {
        let replica = identity("run_id:abc\r\n", "role:slave\r\nmaster_replid:def\r\n");
        assert_eq!(replica.expect_err("refused").code, Code::Unavailable);
        let nameless = identity("", "role:master");
        assert_eq!(nameless.expect_err("refused").code, Code::Setup);
    }
}
