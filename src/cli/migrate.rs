//! `ganesh migrate`: brings the database's schema up to date.

use clap::Command;

use super::startup::{StartDeadline, wait_for_postgres};
use super::{Failure, TELEMETRY_SETTINGS, print_line};
use crate::config::{Config, flags};
use crate::storage::{classify, partitions, pool, schema};

pub(super) fn command() -> Command {
    Command::new("migrate")
        .about("Bring the database's schema up to date, and make the partitions around now")
        .args(flags([
            "POSTGRES_URL",
            "GANESH_STARTUP_TIMEOUT",
            "GANESH_PARTITION_INTERVAL",
            "GANESH_RETENTION_DAYS",
        ]))
        .args(flags(TELEMETRY_SETTINGS))
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let pool = pool::lazy(&config.postgres, 1)?;
    wait_for_postgres(&pool, StartDeadline::after(config.startup_timeout)).await?;
    let missing = schema::missing_migrations(&pool).await;
    let missing = missing.map_err(|error| classify(&error))?;
    schema::migrate(&pool)
        .await
        .map_err(schema::migrate_error)?;
    let made = partitions::upkeep(&pool, &config.postgres).await;
    made.map_err(|error| classify(&error))?;
    print_line(format_args!(
        "{missing} migrations applied; the schema is up to date"
    ));
    pool.close().await;
    Ok(())
}
