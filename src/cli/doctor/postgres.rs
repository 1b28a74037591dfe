//! Postgres: the server, the schema, and what our role may do.

use sqlx::{Connection, PgPool};

use super::{ANSWER_TIMEOUT, Findings};
use crate::config::Config;
use crate::storage::{classify, ownership, pool, schema, session};

pub(super) async fn check(config: &Config, findings: &mut Findings) {
    let url = &config.postgres.url;
    match tokio::time::timeout(ANSWER_TIMEOUT, ask(config, findings)).await {
        Ok(Ok(())) => {}
        Ok(Err(error @ sqlx::Error::Configuration(_))) => {
            findings.failed(classify(&error).detail);
        }
        Ok(Err(error)) => {
            let detail = classify(&error).detail;
            let fix = fix(&error, &config.postgres.schema);
            findings.failed(format_args!("{url}: {detail}: {fix}"));
        }
        Err(_) => findings.failed(format_args!("{url} does not answer in time: {START}")),
    }
}

const START: &str = "start it, or correct POSTGRES_URL";

/// What to do, by SQLSTATE.
fn fix(error: &sqlx::Error, schema: &str) -> String {
    let state = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default();
    match state.as_ref() {
        "42501" => format!(
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO this role, or name the tables' owner in POSTGRES_URL"
        ),
        state if state.starts_with("28") => "correct user and password in POSTGRES_URL".to_owned(),
        state if state.starts_with("3D") => "CREATE DATABASE, or correct POSTGRES_URL".to_owned(),
        _ => START.to_owned(),
    }
}

async fn ask(config: &Config, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let schema = &config.postgres.schema;
    let options = pool::options(&config.postgres)?;
    let mut connection = session::open(&options, schema).await?;
    let facts = schema::facts(&mut connection).await?;
    let foreign = ownership::violation(&mut connection, schema).await?;
    connection.close().await?;
    let violations = facts.violations();
    if violations.is_empty() {
        let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
        findings.ok(format_args!(
            "server {major}.{minor} at {}",
            config.postgres.url
        ));
    }
    for violation in violations {
        findings.failed(violation);
    }
    if facts.read_only {
        findings
            .failed("the server is a standby and refuses writes: name the primary in POSTGRES_URL");
    }
    if !facts.full_page_writes {
        findings
            .warning("full_page_writes is off: a power failure can corrupt pages; set it to on");
    }
    let pool = pool::lazy(&config.postgres, 1)?;
    match foreign {
        Some(foreign) => findings.failed(foreign),
        None => check_schema(&pool, schema, findings).await?,
    }
    check_free_connections(&pool, config, findings).await?;
    pool.close().await;
    Ok(())
}

async fn check_schema(
    pool: &PgPool,
    schema: &str,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    match schema::missing_migrations(pool).await? {
        0 => check_permissions(pool, schema, findings).await,
        missing => say_missing_migrations(missing, pool, schema, findings).await,
    }
}

async fn say_missing_migrations(
    missing: usize,
    pool: &PgPool,
    schema: &str,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let (is_there, may_create): (bool, bool) = sqlx::query_as(
        "SELECT oid IS NOT NULL, coalesce(has_schema_privilege(oid, 'CREATE'), \
             has_database_privilege(current_database(), 'CREATE')) \
         FROM (SELECT to_regnamespace($1)::oid) AS schema (oid)",
    )
    .bind(session::quoted(schema))
    .fetch_one(pool)
    .await?;
    if !is_there && !may_create {
        findings.failed(format_args!(
            "schema {schema} does not exist, and this role may not make it: CREATE SCHEMA \"{schema}\" AUTHORIZATION this role, or correct GANESH_POSTGRES_SCHEMA"
        ));
    } else if may_create {
        findings.warning(format_args!(
            "{missing} migrations are missing: run `ganesh migrate` (serve does it at start unless told not to)"
        ));
    } else {
        findings.failed(format_args!(
            "{missing} migrations are missing, and this role may not create tables: GRANT CREATE ON SCHEMA {schema}, or migrate as another role"
        ));
    }
    Ok(())
}

async fn check_permissions(
    pool: &PgPool,
    schema: &str,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
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
    if !may_write {
        findings.failed(
            "this role may not read and write events and cache_epoch: GRANT SELECT, INSERT, UPDATE ON them TO it",
        );
    } else if !may_partition {
        findings.failed(format_args!(
            "this role cannot make partitions: ALTER TABLE events OWNER TO it, and GRANT CREATE ON SCHEMA {schema} TO it"
        ));
    } else {
        findings.ok("the schema is up to date, and this role may use it");
    }
    Ok(())
}

async fn check_free_connections(
    pool: &PgPool,
    config: &Config,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let free: i64 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::bigint \
              - current_setting('superuser_reserved_connections')::bigint \
              - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')",
    )
    .fetch_one(pool)
    .await?;
    let wanted = i64::from(pool::max_connections(config.pipeline.all_writers()));
    if free < wanted {
        findings.warning(format_args!(
            "{free} connections are free and a process uses up to {wanted}: raise max_connections"
        ));
    } else {
        findings.ok(format_args!(
            "{free} connections are free, a process uses up to {wanted}"
        ));
    }
    Ok(())
}
