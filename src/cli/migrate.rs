//! `ganesh migrate`: brings the database's schema up to date.

use clap::Command;

use super::startup::{StartDeadline, missing_migrations, wait_for_postgres, wait_for_schema};
use super::{Failure, TELEMETRY_SETTINGS, print_line};
use crate::config::{Config, flags, link_flags};
use crate::storage::{classify, partitions, pool, schema};
use crate::telemetry::Metrics;

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
        .args(link_flags(&["PG", "OTEL"]))
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let pool = pool::lazy(&config.postgres, 1, &Metrics::default(), |_| {})?;
    let deadline = StartDeadline::after(config.startup_timeout);
    wait_for_postgres(&pool, &config.postgres, deadline).await?;
    let missing = missing_migrations(&pool, deadline).await?;
    wait_for_schema(&pool, &config.postgres, true, deadline).await?;
    let made = partitions::upkeep(&pool, &config.postgres).await;
    made.map_err(|error| classify(&error))?;
    print_line(format_args!(
        "{missing} migrations applied; the schema is up to date"
    ));
    let newer = schema::newer_migrations(&pool).await;
    let newer = newer.map_err(|error| classify(&error))?;
    if newer > 0 {
        print_line(format_args!(
            "{newer} migrations of a newer version of ganesh were applied before"
        ));
    }
    pool.close().await;
    Ok(())
}
