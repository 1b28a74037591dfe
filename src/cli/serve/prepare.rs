//! What `ganesh serve` needs before it serves: each dependency there, and fit.

use std::sync::Arc;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Client, jetstream};
use sqlx::PgPool;

use crate::cli::Failure;
use crate::cli::startup::{Deadline, wait_for, wait_for_schema};
use crate::config::Config;
use crate::error::Dependency;
use crate::messaging::connection::Drops;
use crate::messaging::consumer::{LastSeen, SetupError};
use crate::messaging::{connection, consumer, held};
use crate::storage::{pool, upkeep};
use crate::telemetry::{Health, Metrics};

/// The consumer, and what was last seen of it.
type Consumer = (PullConsumer, Arc<LastSeen>);

/// Waits for Postgres and for NATS, and makes what is missing there.
pub(super) async fn prepare(
    config: &Config,
    health: &Health,
    metrics: &Metrics,
) -> Result<(PgPool, (Client, Drops), Consumer), Failure> {
    let deadline = Deadline::after(config.startup_timeout);
    let pool = prepare_postgres(config, metrics, deadline).await?;
    health.set(Dependency::Postgres, true);
    let (connection, consumer) = prepare_nats(config, health, metrics, deadline).await?;
    Ok((pool, connection, consumer))
}

async fn prepare_postgres(
    config: &Config,
    metrics: &Metrics,
    deadline: Deadline,
) -> Result<PgPool, Failure> {
    let pool = pool::lazy(&config.postgres, config.pipeline.writers)?;
    wait_for_schema(&pool, config.postgres.migrate_on_start, deadline).await?;
    // Before the first event, or it would land in the default partition.
    let _ = upkeep::round(&config.postgres, &pool, metrics, deadline.left()).await;
    Ok(pool)
}

async fn prepare_nats(
    config: &Config,
    health: &Health,
    metrics: &Metrics,
    deadline: Deadline,
) -> Result<((Client, Drops), Consumer), Failure> {
    let (client, drops) = wait_for("NATS (NATS_URL)", deadline, || {
        connection::connect(&config.nats, config.pipeline.max_in_flight, health, metrics)
    })
    .await?;
    let least_bytes = client.max_payload() + held::SUBJECTS_MAX_BYTES;
    if config.pipeline.max_in_flight_bytes < least_bytes {
        return Err(Failure::Usage(format!(
            "GANESH_MAX_IN_FLIGHT_BYTES={}: expected at least {least_bytes}: the server's maximum \
             payload and its subjects, or a message of that size could never be fetched",
            config.pipeline.max_in_flight_bytes
        )));
    }
    let jetstream = jetstream::new(client.clone());
    let ensured = wait_for(
        "JetStream (GANESH_STREAM, GANESH_CONSUMER)",
        deadline,
        || async {
            match consumer::ensure(&jetstream, &config.nats, &config.pipeline).await {
                Ok(consumer) => Ok(Ok(consumer)),
                Err(SetupError::Unfit(unfit)) => Ok(Err(unfit)),
                Err(SetupError::Api(error)) => Err(error),
            }
        },
    )
    .await?;
    match ensured {
        Ok(consumer) => Ok(((client, drops), consumer)),
        Err(unfit) => {
            let lines: Vec<String> = unfit.iter().map(ToString::to_string).collect();
            Err(Failure::Usage(lines.join("\n")))
        }
    }
}
