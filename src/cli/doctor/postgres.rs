//! Postgres: the server, the schema, and what our role may do.

use sqlx::{ConnectOptions, Connection, PgPool};

use super::{ANSWER_TIMEOUT, Finding, failed, ok, warning};
use crate::config::Config;
use crate::storage::{classify, pool, schema};

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match tokio::time::timeout(ANSWER_TIMEOUT, findings(config)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![failed(
            "postgres",
            format!(
                "{}: {}: {}",
                config.postgres.url,
                classify(&error).detail,
                fix(&error)
            ),
        )],
        Err(_) => vec![failed(
            "postgres",
            format!("{} does not answer in time: {START}", config.postgres.url),
        )],
    }
}

const START: &str = "start it, or correct POSTGRES_URL";

/// What to do, by SQLSTATE.
fn fix(error: &sqlx::Error) -> &'static str {
    let state = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default();
    match state.as_ref() {
        "42501" => {
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO this role, or name the tables' owner in POSTGRES_URL"
        }
        state if state.starts_with("28") => "correct user and password in POSTGRES_URL",
        state if state.starts_with("3D") => "CREATE DATABASE, or correct POSTGRES_URL",
        _ => START,
    }
}

async fn findings(config: &Config) -> Result<Vec<Finding>, sqlx::Error> {
    let pool = pool::lazy(&config.postgres, 1)?;
    // Not by the pool, which repeats what fails and then says no more than that it took long.
    let mut connection = pool.connect_options().connect().await?;
    let facts = schema::facts(&mut connection).await?;
    connection.close().await?;
    let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
    let mut findings: Vec<Finding> = facts
        .violations()
        .into_iter()
        .map(|problem| failed("postgres", problem))
        .collect();
    if findings.is_empty() {
        findings.push(ok(
            "postgres",
            format!("server {major}.{minor} at {}", config.postgres.url),
        ));
    }
    if facts.read_only {
        findings.push(failed(
            "postgres",
            "the server is a standby and refuses writes: name the primary in POSTGRES_URL",
        ));
    }
    if !facts.full_page_writes {
        findings.push(warning(
            "postgres",
            "full_page_writes is off: a power failure can corrupt pages; set it to on",
        ));
    }
    findings.push(schema_finding(&pool).await?);
    findings.push(room_for_connections(&pool, config).await?);
    pool.close().await;
    Ok(findings)
}

async fn schema_finding(pool: &PgPool) -> Result<Finding, sqlx::Error> {
    let missing = schema::missing_migrations(pool).await?;
    if missing > 0 {
        let may_create: bool = sqlx::query_scalar(
            "SELECT has_schema_privilege(current_user, current_schema()::text, 'CREATE')",
        )
        .fetch_one(pool)
        .await?;
        return Ok(if may_create {
            warning(
                "postgres",
                format!(
                    "{missing} migrations are missing: run `ganesh migrate` (serve does it at start unless told not to)"
                ),
            )
        } else {
            failed(
                "postgres",
                format!(
                    "{missing} migrations are missing, and this role may not create tables: GRANT CREATE ON SCHEMA public, or migrate as another role"
                ),
            )
        });
    }
    // Partitions can be attached and dropped by the table's owner only.
    let (may_write, may_partition): (bool, bool) = sqlx::query_as(
        // A list of privileges would ask whether the role has any of them.
        "SELECT has_table_privilege('events', 'SELECT') AND \
                has_table_privilege('events', 'INSERT') AND \
                has_table_privilege('cache_epoch', 'SELECT') AND \
                has_table_privilege('cache_epoch', 'INSERT') AND \
                has_table_privilege('cache_epoch', 'UPDATE'), \
                pg_has_role(c.relowner, 'USAGE') AND \
                has_schema_privilege(c.relnamespace, 'CREATE') \
         FROM pg_class c WHERE c.oid = 'events'::regclass",
    )
    .fetch_one(pool)
    .await?;
    Ok(if !may_write {
        failed(
            "postgres",
            "this role may not read and write events and cache_epoch: GRANT SELECT, INSERT, UPDATE ON them TO it",
        )
    } else if !may_partition {
        failed(
            "postgres",
            "this role cannot make partitions: ALTER TABLE events OWNER TO it, and GRANT CREATE ON SCHEMA public TO it",
        )
    } else {
        ok(
            "postgres",
            "the schema is up to date, and this role may use it",
        )
    })
}

async fn room_for_connections(pool: &PgPool, config: &Config) -> Result<Finding, sqlx::Error> {
    let free: i64 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::bigint \
              - current_setting('superuser_reserved_connections')::bigint \
              - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')",
    )
    .fetch_one(pool)
    .await?;
    let wanted = i64::from(pool::max_connections(config.pipeline.writers));
    Ok(if free < wanted {
        warning(
            "postgres",
            format!(
                "{free} connections are free and a process uses up to {wanted}: raise max_connections"
            ),
        )
    } else {
        ok(
            "postgres",
            format!("{free} connections are free, a process uses up to {wanted}"),
        )
    })
}
