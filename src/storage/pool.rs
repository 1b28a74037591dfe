//! The one pool of the process, and what a server must be for it.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::PostgresConfig;
use crate::labels::ConnectionState;
use crate::telemetry::Metrics;

/// A statement that takes longer is cancelled by the server.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Waiting longer than this for a free connection is an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections beside the writers': reads, upkeep of partitions, the epoch.
const CONNECTIONS_BESIDE_WRITERS: u32 = 6;

/// A pool that connects when it is first used.
///
/// # Errors
/// When the URL cannot be parsed.
pub(crate) fn lazy(config: &PostgresConfig, writers: usize) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(config.url.expose())?
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
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(max_connections(writers))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping before each use costs a round trip a batch; a connection that
        // broke shows at its first statement, which is then repeated.
        .test_before_acquire(false)
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
