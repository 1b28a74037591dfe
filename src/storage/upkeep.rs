//! Looks after the partitions again and again, for as long as the service runs.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::deadline::{Deadline, LentConnection};
use super::fates;
use super::partitions::{self, Upkeep};
use super::{classify, ownership, trials};
use crate::backoff::Backoff;
use crate::config::PostgresConfig;
use crate::error::{Dependency, Error};
use crate::telemetry::{Health, Metrics};

/// How often they are looked after.
const ROUND_EVERY: Duration = Duration::from_mins(1);
/// How often it is asked whose tables these are.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// After a round that failed the next one comes twice as late as the one before, up to this: millions of
/// rows may be copied in it, in vain where they are too many to be moved.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// A round that takes longer is given up: copying millions of rows takes minutes, but a server that has
/// vanished from the network never answers.
const ROUND_LIMIT: Duration = Duration::from_hours(1);

/// Rounds without an end. The first one is the start's.
pub(crate) async fn run(config: PostgresConfig, pool: PgPool, metrics: Metrics, health: Health) {
    let mut backoff = Backoff::between(ROUND_EVERY, PAUSE_MAX);
    let mut pause = ROUND_EVERY;
    let mut recovery = health.recovery(Dependency::Postgres);
    loop {
        tokio::select! {
            () = watch_schema(&config, &pool, &health, pause) => {}
            // That rounds failed while Postgres was away says nothing of partitions.
            () = recovery => {
                backoff.reset();
                pause = ROUND_EVERY;
            }
        }
        recovery = health.recovery(Dependency::Postgres);
        let round = round(&config, &pool, &metrics, ROUND_LIMIT)
            .instrument(tracing::info_span!("partition upkeep"))
            .await;
        pause = match round {
            Ok(Upkeep::Done) => {
                backoff.reset();
                ROUND_EVERY
            }
            // It may be about to fail, as we did.
            Ok(Upkeep::LeftToAnother) => pause,
            Err(_) => backoff.next_wait(),
        };
    }
}

/// Says whether the tables are still ganesh's, for so long.
async fn watch_schema(config: &PostgresConfig, pool: &PgPool, health: &Health, lasting: Duration) {
    let end = Instant::now() + lasting;
    while Instant::now() < end {
        let deadline = Deadline::new(WATCH_EVERY, "whose tables these are");
        let violation = deadline.run(async {
            let mut lent = LentConnection::of(pool).await?;
            let violation = ownership::violation(&mut lent.connection, &config.schema).await?;
            lent.give_back();
            Ok(violation)
        });
        // That Postgres does not answer is said elsewhere.
        if let Ok(violation) = violation.await {
            health.set_database_refusal(violation);
        }
        sleep_until(end.min(Instant::now() + WATCH_EVERY)).await;
    }
}

/// One round, no longer than `limit`.
///
/// # Errors
/// See [`partitions::upkeep`]; counted and logged by then.
pub(crate) async fn round(
    config: &PostgresConfig,
    pool: &PgPool,
    metrics: &Metrics,
    limit: Duration,
) -> Result<Upkeep, Error> {
    let upkeep = async {
        let mut forgotten = fates::forget_old(pool).await;
        forgotten = forgotten.and(trials::forget_old(pool).await);
        let upkeep = partitions::upkeep(pool, config).await?;
        forgotten.map(|()| upkeep)
    };
    let error = match tokio::time::timeout(limit.min(ROUND_LIMIT), upkeep).await {
        Ok(Ok(Upkeep::Done)) => {
            metrics.partition_upkeep_failures.set(0.0);
            return Ok(Upkeep::Done);
        }
        Ok(Ok(Upkeep::LeftToAnother)) => return Ok(Upkeep::LeftToAnother),
        Ok(Err(error)) => classify(&error),
        Err(_) => Error::timeout(Dependency::Postgres, "upkeep of partitions"),
    };
    metrics.dependency_error(&error);
    metrics.partition_upkeep_failures.increment(1.0);
    tracing::warn!(%error, "partitions were not looked after; trying again later");
    Err(error)
}
