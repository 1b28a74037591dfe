//! What `ganesh serve` needs before it serves: each dependency there, and fit.

use std::sync::Arc;

use async_nats::jetstream;
use sqlx::PgPool;

use super::{CLIENT_WAS_LOST, Service};
use crate::cli::Failure;
use crate::cli::startup::{StartDeadline, wait_for, wait_for_schema};
use crate::config::Config;
use crate::error::Dependency;
use crate::messaging::readable::KnownReadable;
use crate::messaging::{connection, consumer, in_flight};
use crate::pipeline::source::EventSource;
use crate::storage::{pool, upkeep};
use crate::telemetry::Metrics;

/// What is there before ganesh serves.
pub(super) struct Servers {
    pub(super) pool: PgPool,
    pub(super) event_source: EventSource,
}

/// Waits for Postgres and for NATS, and makes what is missing there.
pub(super) async fn connect(service: &Service) -> Result<Servers, Failure> {
    let deadline = StartDeadline::after(service.config.startup_timeout);
    let pool = connect_postgres(&service.config, &service.metrics, deadline).await?;
    service.health.set(Dependency::Postgres, true);
    let event_source = connect_nats(service, deadline).await?;
    Ok(Servers { pool, event_source })
}

async fn connect_postgres(
    config: &Config,
    metrics: &Metrics,
    deadline: StartDeadline,
) -> Result<PgPool, Failure> {
    let pool = pool::lazy(&config.postgres, config.pipeline.all_writers())?;
    wait_for_schema(&pool, config.postgres.migrate_on_start, deadline).await?;
    // Before the first event, or it would land in the default partition.
    let _ = upkeep::round(&config.postgres, &pool, metrics, deadline.left()).await;
    Ok(pool)
}

async fn connect_nats(service: &Service, deadline: StartDeadline) -> Result<EventSource, Failure> {
    let Service {
        config,
        health,
        metrics,
        ..
    } = service;
    let (client, drops) = wait_for("NATS (NATS_URL)", deadline, || {
        connection::connect(
            "ganesh",
            &config.nats,
            config.pipeline.max_in_flight,
            health,
            metrics,
        )
    })
    .await?;
    let least_bytes = client.max_payload() + in_flight::SUBJECTS_MAX_BYTES;
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
        || consumer::ensure(&jetstream, &config.nats, &config.pipeline),
    )
    .await?;
    let (consumer, watch) = ensured.map_err(|violations| Failure::Usage(violations.join("\n")))?;
    let said = std::env::var(CLIENT_WAS_LOST).ok();
    let made = consumer.cached_info().created.unix_timestamp_nanos();
    Ok(EventSource {
        readable: Arc::new(KnownReadable::of_consumer(made, said.as_deref())),
        client_was_lost: said.is_some(),
        jetstream,
        drops,
        consumer,
        consumer_watch: watch,
        health: health.clone(),
    })
}
