//! Waiting for dependencies that are not up yet, and making what is missing there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Client, jetstream};
use sqlx::{ConnectOptions, PgPool};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Failure;
use crate::config::Config;
use crate::error::{Class, Error};
use crate::messaging::connection::{self, Drops};
use crate::messaging::consumer::{self, LastSeen, SetupError};
use crate::messaging::held;
use crate::storage::{classify, schema};
use crate::telemetry::{Health, Metrics};

/// How long between two attempts.
const ATTEMPT_EVERY: Duration = Duration::from_millis(500);
/// How often a wait says that it goes on.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Until when dependencies may take to be there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    pub(super) fn after(allowed: Duration) -> Self {
        Self {
            at: Instant::now() + allowed,
            allowed,
        }
    }
}

/// Attempts until it succeeds, fails for good, or the deadline passes.
pub(super) async fn wait_for<T, F>(
    what: &str,
    deadline: Deadline,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut said_at: Option<Instant> = None;
    let mut last_error = None;
    loop {
        let error = match timeout_at(deadline.at, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.class == Class::Fatal => {
                return Err(Failure::Usage(format!("{what}: {}", error.detail)));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => last_error.unwrap_or_else(|| "no answer in time".to_owned()),
        };
        if Instant::now() >= deadline.at {
            return Err(Failure::Running(anyhow!(
                "{what} is not there after GANESH_STARTUP_TIMEOUT={:?}: {error}",
                deadline.allowed
            )));
        }
        if said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            tracing::warn!(%error, "waiting for {what}");
            said_at = Some(Instant::now());
        }
        last_error = Some(error);
        sleep_until(deadline.at.min(Instant::now() + ATTEMPT_EVERY)).await;
    }
}

/// Waits for Postgres, and refuses a server that breaks a promise.
pub(super) async fn wait_for_postgres(pool: &PgPool, deadline: Deadline) -> Result<(), Failure> {
    // Not by the pool, which repeats what fails and then says no more than that it took long.
    let options = pool.connect_options();
    let ask = async || schema::facts(&mut options.connect().await?).await;
    let facts = wait_for("Postgres (POSTGRES_URL)", deadline, || async {
        ask().await.map_err(|error| classify(&error))
    })
    .await?;
    let unfit = facts.unfit();
    if unfit.is_empty() {
        Ok(())
    } else {
        Err(Failure::Usage(unfit.join("\n")))
    }
}

/// A client, and the consumer whose messages it is to bring.
pub(super) struct Nats {
    pub(super) client: Client,
    pub(super) drops: Drops,
    pub(super) consumer: PullConsumer,
    pub(super) seen: Arc<LastSeen>,
    /// It takes the place of one that has broken down.
    pub(super) client_was_lost: bool,
}

/// Waits for NATS with JetStream, makes what is missing there, and refuses what breaks a promise.
pub(super) async fn wait_for_nats(
    config: &Config,
    health: &Health,
    metrics: &Metrics,
    deadline: Deadline,
) -> Result<Nats, Failure> {
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
        Ok((consumer, seen)) => Ok(Nats {
            client,
            drops,
            consumer,
            seen,
            client_was_lost: false,
        }),
        Err(unfit) => {
            let lines: Vec<String> = unfit.iter().map(ToString::to_string).collect();
            Err(Failure::Usage(lines.join("\n")))
        }
    }
}
