//! What `ganesh serve` needs before it serves: each dependency there, and fit.

use std::sync::Arc;

use sqlx::PgPool;

use super::{CLIENT_WAS_LOST, Service};
use crate::cli::Failure;
use crate::cli::startup::{StartDeadline, wait_for, wait_for_postgres, wait_for_schema};
use crate::error::Dependency;
use crate::messaging::readable::KnownReadable;
use crate::messaging::{connection, consumer, in_flight};
use crate::pipeline::source::NatsHandles;
use crate::storage::read_access::ReadAccess;
use crate::storage::{classify, identity, pool, upkeep};

/// What is there before ganesh serves.
pub(super) struct Servers {
    pub(super) pool: PgPool,
    /// Of the API's reads.
    pub(super) read_pool: PgPool,
    pub(super) access: ReadAccess,
    pub(super) nats_handles: NatsHandles,
}

/// Waits for Postgres and for NATS, and makes what is missing there.
pub(super) async fn connect(service: &Service) -> Result<Servers, Failure> {
    let deadline = StartDeadline::after(service.config.startup_timeout);
    let Service {
        config,
        health,
        metrics,
        ..
    } = service;
    let told = health.clone();
    let refused = move |why: &str| told.set_database_refusal(Some(why.to_owned()));
    let writers = config.pipeline.all_writers();
    let access = ReadAccess::default();
    let pool = pool::of_pipeline(&config.postgres, writers, metrics, refused, access.clone())?;
    // Where they fail, only reads do; a URL that is none is refused here.
    let read_pool = pool::for_reads(&config.postgres, metrics, &access)?;
    // Nothing is made before all is checked: a start that is refused leaves nothing behind.
    let migrate = config.postgres.migrate_on_start;
    if migrate {
        wait_for_postgres(&pool, &config.postgres, deadline).await?;
    } else {
        wait_for_schema(&pool, &config.postgres, migrate, deadline).await?;
    }
    service.health.set(Dependency::Postgres, true);
    let database = wait_for("Postgres (POSTGRES_URL)", deadline, || async {
        let database = identity::database(&pool).await;
        database.map_err(|error| classify(&error))
    })
    .await?;
    let nats_handles = connect_nats(service, &database, deadline).await?;
    wait_for_schema(&pool, &config.postgres, migrate, deadline).await?;
    // Before the first event, or it would land in the default partition.
    let _ = upkeep::round(&config.postgres, &pool, &service.metrics, deadline.left()).await;
    Ok(Servers {
        pool,
        read_pool,
        access,
        nats_handles,
    })
}

async fn connect_nats(
    service: &Service,
    database: &str,
    deadline: StartDeadline,
) -> Result<NatsHandles, Failure> {
    let Service {
        config,
        health,
        metrics,
        ..
    } = service;
    let (client, disconnects) = wait_for("NATS (NATS_URL)", deadline, || {
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
    let jetstream = connection::jetstream(client.clone(), &config.nats);
    let ensured = wait_for(
        "JetStream (GANESH_STREAM, GANESH_CONSUMER)",
        deadline,
        || consumer::ensure(&jetstream, &config.nats, &config.pipeline, database),
    )
    .await?;
    let ensured = ensured.map_err(|violations| Failure::Usage(violations.join("\n")))?;
    let said = std::env::var(CLIENT_WAS_LOST).ok();
    let made = ensured
        .consumer
        .cached_info()
        .created
        .unix_timestamp_nanos();
    Ok(NatsHandles {
        readable: Arc::new(KnownReadable::of_consumer(made, said.as_deref())),
        client_was_lost: said.is_some(),
        jetstream,
        disconnects,
        consumer: ensured.consumer,
        consumer_watch: ensured.watch,
        bucket: ensured.letters,
        health: health.clone(),
    })
}
