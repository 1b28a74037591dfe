//! The role of `POSTGRES_READ_URL`: it can read what the API reads, and cannot change it.

use std::time::Duration;

use sqlx::PgPool;

use super::Findings;
use crate::config::Config;
use crate::storage::read_access::look_at_role;
use crate::storage::{classify, identity, pool, sqlstate_in};

/// Less than the time for all of Postgres.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// `pool` is of `POSTGRES_URL`.
pub(super) async fn check(
    pool: &PgPool,
    config: &Config,
    are_tables_made: bool,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    if config.postgres.read_url.is_none() {
        return Ok(());
    }
    let in_use = identity::server(pool).await?;
    let options = pool::options(config.postgres.url_of_reads())?;
    let look = look_at_role(&options, &config.postgres.schema, true);
    let Ok(role) = tokio::time::timeout(ANSWER_LIMIT, look).await else {
        findings.failed("POSTGRES_READ_URL: no answer in time: start the server, or correct it");
        return Ok(());
    };
    let role = match role {
        Ok(role) => role,
        Err(error) => {
            findings.failed(format_args!(
                "POSTGRES_READ_URL: {}: {}",
                classify(&error).detail,
                fix(&error)
            ));
            return Ok(());
        }
    };
    if let Some(why) = role.is_elsewhere(&in_use) {
        findings.failed(why);
        return Ok(());
    }
    if !are_tables_made {
        return Ok(());
    }
    if let Some(why) = role.lacks(&config.postgres.schema) {
        findings.failed(why);
        return Ok(());
    }
    if role.sees_a_part {
        findings.warning(
            "row-level security applies to the role of POSTGRES_READ_URL, so reads miss rows: ALTER ROLE … BYPASSRLS",
        );
    }
    if role.may_write {
        findings.warning(
            "the role of POSTGRES_READ_URL may write, which no read needs: REVOKE INSERT, UPDATE, DELETE, TRUNCATE \
             from it, or make one that may only read (deploy/postgres/roles.sql)",
        );
    } else {
        findings
            .ok("the role of POSTGRES_READ_URL can read ganesh's tables, and cannot change them");
    }
    Ok(())
}

/// What to do, by SQLSTATE.
fn fix(error: &sqlx::Error) -> &'static str {
    match sqlstate_in(&classify(error).detail) {
        Some("53300") => "raise its CONNECTION LIMIT: each replica uses 4 connections",
        _ => "correct it, or make its role (deploy/postgres/roles.sql)",
    }
}
