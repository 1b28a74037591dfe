//! The pools of the process, one for the pipeline and one for reads of the API, and what a server must be for
//! them. A read never takes a connection that a write needs.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::identity::{self, ServerIdentity};
use super::queries::READS_AT_ONCE;
use super::read_access::ReadAccess;
use super::read_role::ANOTHER_SERVER;
use super::session::{self, SessionUse};
use crate::config::{PostgresConfig, SecretUrl};
use crate::error::Dependency;
use crate::labels::{ConnectionEvent, ConnectionState};
use crate::telemetry::Metrics;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::metrics::Both;

/// Waiting longer than this for a free connection is an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections beside the writers': upkeep of partitions, the poll of the epoch, the epoch of a new connection
/// to the cache, the marking of rows for streams.
const CONNECTIONS_BESIDE_WRITERS: u32 = 4;
/// How often it is said that reads get no connection.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How to connect. A connection that is no pool's is opened by [`session::open`].
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn options(url: &SecretUrl) -> Result<PgConnectOptions, sqlx::Error> {
    // What a session needs is set by statements, and poolers refuse options that they do not know.
    Ok(PgConnectOptions::from_str(url.expose())?
        .application_name("ganesh")
        .extra_float_digits(None))
}

/// A command's pool. It connects when it is first used, counts that, and hands in why a server or a session is
/// refused.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn lazy(
    config: &PostgresConfig,
    writers: usize,
    metrics: &Metrics,
    refused: impl Fn(&str) + Clone + Send + Sync + 'static,
) -> Result<PgPool, sqlx::Error> {
    of_pipeline(config, writers, metrics, refused, ReadAccess::default())
}

/// The same for the pipeline. Reads are told to which server its sessions lead.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn of_pipeline(
    config: &PostgresConfig,
    writers: usize,
    metrics: &Metrics,
    refused: impl Fn(&str) + Clone + Send + Sync + 'static,
    access: ReadAccess,
) -> Result<PgPool, sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(max_connections(writers));
    let (url, schema) = (&config.url, &config.schema);
    let is_fit = move |server| {
        access.set_in_use(server);
        true
    };
    let session_use = (SessionUse::Write, is_fit);
    connecting(pool, session_use, (url, schema), metrics, refused)
}

/// The pool of the API's reads: a connection for each read at a time. It connects when it is first used.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn for_reads(
    config: &PostgresConfig,
    metrics: &Metrics,
    access: &ReadAccess,
) -> Result<PgPool, sqlx::Error> {
    let log = Arc::new(RateLimit::new(1, SAY_EVERY));
    let told = access.clone();
    let refused = move |why: &str| {
        told.doubt();
        if log.allow().is_some() {
            tracing::error!(why, "reads get no connection");
        }
    };
    let pool = PgPoolOptions::new().max_connections(MAX_OF_READS);
    let (url, schema) = (config.url_of_reads(), &config.schema);
    let access = access.clone();
    let is_fit = move |server| access.is_of_server_in_use(&server);
    let session_use = (SessionUse::Read, is_fit);
    connecting(pool, session_use, (url, schema), metrics, refused)
}

/// `is_fit` is asked where each new session leads.
fn connecting(
    pool: PgPoolOptions,
    (session_use, is_fit): (
        SessionUse,
        impl Fn(ServerIdentity) -> bool + Clone + Send + Sync + 'static,
    ),
    (url, schema): (&SecretUrl, &str),
    metrics: &Metrics,
    refused: impl Fn(&str) + Clone + Send + Sync + 'static,
) -> Result<PgPool, sqlx::Error> {
    let metrics = metrics.clone();
    let options = options(url)?;
    let schema: Arc<str> = schema.into();
    Ok(pool
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping before each use costs a round trip a batch; a connection that
        // broke shows at its first statement, which is then repeated.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let (schema, refused) = (schema.clone(), refused.clone());
            let (metrics, is_fit) = (metrics.clone(), is_fit.clone());
            Box::pin(async move {
                let prepared = async {
                    session::prepare(connection, session_use, &schema).await?;
                    let server = identity::server(connection).await?;
                    let other = || sqlx::Error::Configuration(ANOTHER_SERVER.into());
                    is_fit(server).then_some(()).ok_or_else(other)
                };
                let prepared = prepared.await;
                if let Err(sqlx::Error::Configuration(why)) = &prepared {
                    refused(&why.to_string());
                }
                prepared?;
                metrics.connection_events[OPENED].increment(1);
                Ok(())
            })
        })
        .connect_lazy_with(options))
}

pub(crate) fn max_connections(writers: usize) -> u32 {
    let writers = u32::try_from(writers).unwrap_or(u32::MAX);
    writers.saturating_add(CONNECTIONS_BESIDE_WRITERS)
}

/// A connection for each read at a time.
pub(crate) const MAX_OF_READS: u32 = READS_AT_ONCE;

const OPENED: Both<Dependency, ConnectionEvent> =
    Both(Dependency::Postgres, ConnectionEvent::Opened);
const CLOSED: Both<Dependency, ConnectionEvent> =
    Both(Dependency::Postgres, ConnectionEvent::Closed);
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Counts the connections of all pools together.
pub(crate) async fn watch(pools: [PgPool; 2], metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(COUNT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let idle: usize = pools.iter().map(PgPool::num_idle).sum();
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        metrics.connections[ConnectionState::Idle].set(f64::from(idle));
        let size: u32 = pools.iter().map(PgPool::size).sum();
        let used = size.saturating_sub(idle);
        metrics.connections[ConnectionState::Used].set(f64::from(used));
        // A pool tells nobody what it closes: it is what was opened and is not there any more.
        let (opened, closed) = (
            &metrics.connection_events[OPENED],
            &metrics.connection_events[CLOSED],
        );
        let gone = opened.get().saturating_sub(u64::from(size));
        closed.increment(gone.saturating_sub(closed.get()));
    }
}
