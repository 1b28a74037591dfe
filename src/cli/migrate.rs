//! `ganesh migrate`: brings the database's schema up to date.

use clap::Command;

use super::startup::{StartDeadline, migrate, wait_for_postgres};
use super::{Failure, TELEMETRY_SETTINGS, print_line};
use crate::config::{Config, flags};
use crate::error::Class;
use crate::storage::{classify, partitions, pool, schema};

pub(super) fn command() -> Command {
    Command::new("migrate")
        .about("Bring the database's schema up to date, and make the partitions around now")
        .args(flags([
            "POSTGRES_URL",
            "GANESH_STARTUP_TIMEOUT",
            "GANESH_POSTGRES_SCHEMA",
            "GANESH_PARTITION_INTERVAL",
            "GANESH_RETENTION_DAYS",
        ]))
        .args(flags(TELEMETRY_SETTINGS))
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let pool = pool::lazy(&config.postgres, 1)?;
    let deadline = StartDeadline::after(config.startup_timeout);
    wait_for_postgres(&config.postgres, deadline).await?;
    let missing = schema::missing_migrations(&pool).await;
    let missing = missing.map_err(|error| classify(&error))?;
    match migrate(&pool, &config.postgres).await {
        Err(error) if error.class == Class::Fatal => {
            return Err(Failure::Usage(format!("migrations: {}", error.detail)));
        }
        result => result?,
    }
    let made = partitions::upkeep(&pool, &config.postgres).await;
    made.map_err(|error| classify(&error))?;
    print_line(format_args!(
        "{missing} migrations applied; the schema is up to date"
    ));
    pool.close().await;
    Ok(())
}
