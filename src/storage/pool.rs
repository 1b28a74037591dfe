//! The one pool of the process, and what a server must be for it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::session;
use crate::config::PostgresConfig;
use crate::labels::ConnectionState;
use crate::telemetry::Metrics;

/// A statement that takes longer is cancelled by the server.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Waiting longer than this for a free connection is an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections beside the writers': reads, upkeep of partitions, the epoch.
const CONNECTIONS_BESIDE_WRITERS: u32 = 6;

/// How to connect. A connection that is not the pool's is opened by [`session::open`].
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn options(config: &PostgresConfig) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(config.url.expose())?
        .application_name("ganesh")
        .options([
            ("synchronous_commit", "on"),
            ("timezone", "UTC"),
            // A statement that nobody waits for any more ends, and its server process with it.
            ("client_connection_check_interval", "1s"),
            (
                "statement_timeout",
                STATEMENT_TIMEOUT.as_millis().to_string().as_str(),
            ),
        ]))
}

/// A pool that connects when it is first used.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn lazy(config: &PostgresConfig, writers: usize) -> Result<PgPool, sqlx::Error> {
    let options = options(config)?;
    let schema: Arc<str> = config.schema.as_str().into();
    Ok(PgPoolOptions::new()
        .max_connections(max_connections(writers))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping before each use costs a round trip a batch; a connection that
        // broke shows at its first statement, which is then repeated.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let schema = schema.clone();
            Box::pin(async move { session::prepare(connection, &schema).await })
        })
        .connect_lazy_with(options))
}

pub(crate) fn max_connections(writers: usize) -> u32 {
    let writers = u32::try_from(writers).unwrap_or(u32::MAX);
    writers.saturating_add(CONNECTIONS_BESIDE_WRITERS)
}

const COUNT_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn watch(pool: PgPool, metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(COUNT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        metrics.connections[ConnectionState::Idle].set(f64::from(idle));
        let used = pool.size().saturating_sub(idle);
        metrics.connections[ConnectionState::Used].set(f64::from(used));
    }
}
