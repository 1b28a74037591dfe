//! Postgres: the server, the schema, and what our role may do.

use std::time::Duration;

use sqlx::{Connection, PgPool};

use super::{ANSWER_TIMEOUT, Findings, links, reads};
use crate::config::Config;
use crate::storage::session::{self, SessionUse};
use crate::storage::tail::marks;
use crate::storage::{blockers, classify, ownership, pool, schema};
use crate::telemetry::Metrics;

pub(super) async fn check(config: &Config, findings: &mut Findings) {
    let url = &config.postgres.url;
    match tokio::time::timeout(ANSWER_TIMEOUT, ask(config, findings)).await {
        Ok(Ok(())) => {}
        Ok(Err(error @ sqlx::Error::Configuration(_))) => {
            findings.failed(format_args!("POSTGRES_URL: {}", classify(&error).detail));
        }
        Ok(Err(error)) => {
            let detail = classify(&error).detail;
            let fix = fix(&error, &config.postgres.schema);
            findings.failed(format_args!("{url}: {detail}: {fix}"));
        }
        Err(_) => findings.failed(format_args!("{url} does not answer in time: {START}")),
    }
}

/// Less than [`ANSWER_TIMEOUT`]: says who holds a lock.
const CHECK_LIMIT: Duration = Duration::from_secs(3);
const START: &str = "start it, or correct POSTGRES_URL";

/// What to do, by SQLSTATE.
fn fix(error: &sqlx::Error, schema: &str) -> String {
    let state = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .unwrap_or_default();
    match state.as_ref() {
        "42501" => format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO this role, or name the tables' owner in POSTGRES_URL"
        ),
        state if state.starts_with("28") => "correct user and password in POSTGRES_URL".to_owned(),
        state if state.starts_with("3D") => "CREATE DATABASE, or correct POSTGRES_URL".to_owned(),
        _ => START.to_owned(),
    }
}

async fn ask(config: &Config, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let schema = &config.postgres.schema;
    let options = pool::options(&config.postgres.url)?;
    let mut connection = session::open(&options, schema).await?;
    let facts = schema::facts(&mut connection).await?;
    session::refuse_shared_sessions(&mut connection, SessionUse::Write, &options, schema).await?;
    let pool = pool::lazy(&config.postgres, 1, &Metrics::default(), |_| {})?;
    let process = session::process_of(&mut connection).await?;
    let look = ownership::violation(&mut connection, schema);
    let looked = blockers::within(
        &pool,
        process,
        (CHECK_LIMIT, "whose tables these are"),
        look,
    );
    let foreign = match looked.await {
        Ok(foreign) => foreign?,
        Err(late) => {
            findings.failed(late.detail);
            return Ok(());
        }
    };
    connection.close().await?;
    let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
    findings.ok(format_args!(
        "server {major}.{minor} at {}",
        config.postgres.url
    ));
    if facts.read_only {
        findings
            .failed("the server refuses writes: name the primary in POSTGRES_URL if it is a standby, or reset default_transaction_read_only");
    }
    if !facts.full_page_writes {
        findings
            .warning("full_page_writes is off: a power failure can corrupt pages; set it to on");
    }
    links::postgres(config, &pool, findings).await?;
    match foreign {
        Some(foreign) => findings.failed(foreign),
        None => check_schema(&pool, config, findings).await?,
    }
    check_free_connections(&pool, config, findings).await?;
    pool.close().await;
    Ok(())
}

async fn check_schema(
    pool: &PgPool,
    config: &Config,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let schema = &config.postgres.schema;
    let missing = schema::missing_migrations(pool).await?;
    if missing == 0 {
        let newer = schema::newer_migrations(pool).await?;
        if newer > 0 {
            findings.warning(format_args!(
                "{newer} migrations of a newer version of ganesh were applied: update this one, too"
            ));
        }
        check_permissions(pool, schema, findings).await?;
        check_default_partition(pool, findings).await?;
        let have_room = check_locks(pool, findings).await?;
        check_marks(pool, have_room, findings).await?;
    } else {
        say_missing_migrations(missing, pool, schema, findings).await?;
    }
    reads::check(pool, config, missing == 0, findings).await
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
                has_table_privilege('cache_epoch', 'UPDATE') AND \
                has_table_privilege('fates', 'SELECT') AND \
                has_table_privilege('fates', 'INSERT') AND \
                has_table_privilege('fates', 'DELETE') AND \
                has_table_privilege('trials', 'SELECT') AND \
                has_table_privilege('trials', 'INSERT') AND \
                has_table_privilege('trials', 'UPDATE') AND \
                has_table_privilege('trials', 'DELETE'), \
                pg_has_role(c.relowner, 'USAGE') AND \
                has_database_privilege(current_database(), 'TEMPORARY') AND \
                has_schema_privilege(c.relnamespace, 'CREATE') \
         FROM pg_class c WHERE c.oid = 'events'::regclass",
    )
    .fetch_one(pool)
    .await?;
    if !may_write {
        findings.failed(
            "this role may not read and write all of ganesh's tables: GRANT SELECT, INSERT, UPDATE, DELETE ON events, cache_epoch, fates, trials TO it",
        );
    } else if !may_partition {
        findings.failed(format_args!(
            "this role cannot make partitions: ALTER TABLE events OWNER TO it, GRANT CREATE ON SCHEMA {schema} and TEMPORARY on the database TO it"
        ));
    } else {
        findings.ok("the schema is up to date, and this role may use it");
    }
    check_row_security(pool, findings).await
}

async fn check_row_security(pool: &PgPool, findings: &mut Findings) -> Result<(), sqlx::Error> {
    let is_active: bool = sqlx::query_scalar("SELECT row_security_active('events')")
        .fetch_one(pool)
        .await?;
    if is_active {
        findings.warning(
            "row-level security applies to this role, and COPY does not work under it: INSERT costs about 40 % more; \
             ALTER ROLE … BYPASSRLS",
        );
    }
    Ok(())
}

/// Without it an event of a time that no partition covers is tried again and again, and may become a dead letter.
/// With another one, upkeep moves no rows out of it.
async fn check_default_partition(
    pool: &PgPool,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let (attached, is_there): (Option<String>, bool) = sqlx::query_as(
        "SELECT nullif(partdefid, 0)::regclass::text, to_regclass('events_default') IS NOT NULL \
         FROM pg_partitioned_table WHERE partrelid = 'events'::regclass",
    )
    .fetch_one(pool)
    .await?;
    match attached.as_deref() {
        Some("events_default") => {}
        Some(other) => {
            let aside = if is_there {
                "ALTER TABLE events_default RENAME TO events_detached; "
            } else {
                ""
            };
            findings.warning(format_args!(
                "{other} is the default partition, but ganesh moves rows to their own partitions only out of events_default: \
                 {aside}ALTER TABLE {other} RENAME TO events_default"
            ));
        }
        None => {
            let fix = if is_there {
                "ALTER TABLE events ATTACH PARTITION events_default DEFAULT"
            } else {
                "CREATE TABLE events_default PARTITION OF events DEFAULT"
            };
            findings.failed(format_args!(
                "events has no default partition, so events of times that no partition covers cannot be stored: {fix}"
            ));
        }
    }
    Ok(())
}

/// A statement takes a lock for each partition that it touches, and for each of its indexes. Returns whether there is
/// room for one that touches all.
async fn check_locks(pool: &PgPool, findings: &mut Findings) -> Result<bool, sqlx::Error> {
    let (partitions, locks, room): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), \
             count(*) * (1 + (SELECT count(*) FROM pg_index WHERE indrelid = 'events'::regclass)), \
             current_setting('max_locks_per_transaction')::bigint \
             * (current_setting('max_connections')::bigint \
                + current_setting('max_prepared_transactions')::bigint) \
         FROM pg_inherits WHERE inhparent = 'events'::regclass",
    )
    .fetch_one(pool)
    .await?;
    if locks * 2 > room {
        findings.warning(format_args!(
            "a statement of yours that touches all {partitions} partitions takes {locks} locks, and the server has room for {room}: raise max_locks_per_transaction, or have fewer partitions (GANESH_PARTITION_INTERVAL=day, GANESH_RETENTION_DAYS)"
        ));
    }
    Ok(locks * 2 <= room)
}

async fn check_marks(
    pool: &PgPool,
    have_room: bool,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if let Some(defect) = marks::defect(&mut connection).await? {
        findings.failed(defect);
        return Ok(());
    }
    if have_room && marks::are_ahead(&mut *connection).await? {
        findings.warning(marks::AHEAD);
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
    let of_pipeline = pool::max_connections(config.pipeline.all_writers());
    let wanted = i64::from(of_pipeline + pool::MAX_OF_READS);
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
