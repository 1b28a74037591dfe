//! Waiting for dependencies that are not up yet.

use std::future::Future;
use std::time::Duration;

use anyhow::anyhow;
use sqlx::PgPool;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Failure;
use crate::config::PostgresConfig;
use crate::error::{Class, Error};
use crate::storage::deadline::Deadline;
use crate::storage::session::{self, SessionUse};
use crate::storage::{blockers, classify, ownership, pool, refusal, schema};

const ATTEMPT_EVERY: Duration = Duration::from_millis(500);
/// For the check whose tables these are: then it says who holds a lock, and tries again.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// How often a wait says that it goes on.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// The deadline for dependencies at start.
#[derive(Debug, Clone, Copy)]
pub(super) struct StartDeadline {
    at: Instant,
    allowed: Duration,
}

impl StartDeadline {
    pub(super) fn after(allowed: Duration) -> Self {
        Self {
            at: Instant::now() + allowed,
            allowed,
        }
    }

    pub(super) fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// Attempts until it succeeds, fails for good, or the deadline passes.
pub(super) async fn wait_for<T, F>(
    what: &str,
    deadline: StartDeadline,
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

/// Waits for Postgres, and refuses a server that breaks a promise, and a schema that is not ganesh's.
pub(super) async fn wait_for_postgres(
    pool: &PgPool,
    config: &PostgresConfig,
    deadline: StartDeadline,
) -> Result<(), Failure> {
    let options = pool::options(&config.url)?;
    let schema = &config.schema;
    let open = async || {
        let mut connection = session::open(&options, schema).await?;
        session::refuse_shared_sessions(&mut connection, SessionUse::Write, &options, schema)
            .await?;
        let process = session::process_of(&mut connection).await?;
        Ok::<_, sqlx::Error>((connection, process))
    };
    let violation = wait_for("Postgres (POSTGRES_URL)", deadline, || async {
        let opened = open().await.map_err(|error| at_start(&error));
        let (mut connection, process) = opened?;
        let limit = CHECK_LIMIT.min(deadline.left() / 2);
        let look = ownership::violation(&mut connection, schema);
        let found = blockers::within(pool, process, (limit, "whose tables these are"), look);
        found.await?.map_err(|error| classify(&error))
    })
    .await?;
    match violation {
        None => Ok(()),
        Some(why) => Err(Failure::Usage(why)),
    }
}

/// Waiting does not help if one side does not accept the other's certificate.
fn at_start(error: &sqlx::Error) -> Error {
    let mut classified = classify(error);
    if refusal(error).is_some() {
        classified.class = Class::Fatal;
    }
    classified
}

/// Waits for Postgres with the schema that ganesh needs. Makes what is missing of it if `migrate`, again
/// after a lost connection.
pub(super) async fn wait_for_schema(
    pool: &PgPool,
    config: &PostgresConfig,
    migrate: bool,
    deadline: StartDeadline,
) -> Result<(), Failure> {
    loop {
        wait_for_postgres(pool, config, deadline).await?;
        let missing = if migrate {
            let migrated = schema::migrate_within(pool, &config.schema, deadline.left());
            migrated.await.map(|()| 0)
        } else {
            missing_migrations(pool, deadline).await
        };
        match missing {
            Ok(0) => return say_newer_migrations(pool, deadline).await,
            Ok(_) => {
                return Err(Failure::Usage(
                    "GANESH_MIGRATE_ON_START=false, and the schema is not up to date: run `ganesh migrate`"
                        .to_owned(),
                ));
            }
            Err(error) if error.class == Class::Transient && Instant::now() < deadline.at => {
                tracing::warn!(%error, "the schema was not looked after; trying again");
                tokio::time::sleep(ATTEMPT_EVERY).await;
            }
            Err(error) if error.class == Class::Fatal => {
                return Err(Failure::Usage(format!("migrations: {}", error.detail)));
            }
            Err(error) => return Err(Failure::Running(anyhow!(error))),
        }
    }
}

/// A newer version has made the schema. That is fine as long as it has only added to it.
async fn say_newer_migrations(pool: &PgPool, deadline: StartDeadline) -> Result<(), Failure> {
    let limit = Deadline::new(deadline.left(), "migrations of a newer version");
    match limit.run(schema::newer_migrations(pool)).await {
        Ok(0) => {}
        Ok(newer) => tracing::warn!(
            newer,
            "the schema has migrations of a newer version of ganesh"
        ),
        Err(error) => {
            tracing::warn!(%error, "it is not known whether a newer version made the schema");
        }
    }
    Ok(())
}

/// How many migrations the database lacks.
pub(super) async fn missing_migrations(
    pool: &PgPool,
    deadline: StartDeadline,
) -> Result<usize, Error> {
    let limit = Deadline::new(deadline.left(), "which migrations are missing");
    limit.run(schema::missing_migrations(pool)).await
}
