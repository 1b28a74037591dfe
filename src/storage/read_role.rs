//! What the role of the API's reads needs: SELECT on what they read.

use sqlx::postgres::PgConnection;

use super::identity::{ServerIdentity, identity, started};

/// What reads read. A partition goes by the privileges of `events`, but for a lock of the default one.
const TABLES: &str = "events, events_default, cache_epoch, fates";
// A list of privileges asks whether the role has any of them.
const LOOK: &str = concat!(
    "SELECT ",
    identity!(),
    ", ",
    started!(),
    ", bool_and(coalesce(has_table_privilege(of_reads, 'SELECT'), false)), \
     (SELECT coalesce(bool_or(has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')), false) \
      FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p')), \
     coalesce(bool_or(row_security_active(of_reads)), false) \
     FROM (SELECT to_regclass(name)::oid FROM unnest('{events,cache_epoch,fates}'::text[]) AS name \
           UNION ALL SELECT partdefid FROM pg_partitioned_table \
           WHERE partrelid = to_regclass('events') AND partdefid <> 0) AS tables (of_reads)"
);

const ANOTHER_DATABASE: &str = "POSTGRES_READ_URL leads to another database than POSTGRES_URL: expected the same \
    one, as another role";
pub(super) const ANOTHER_SERVER: &str = "POSTGRES_READ_URL leads to another server than POSTGRES_URL, with a copy of the \
    database: expected the same server. After a failover name the new primary";

/// What a session of the role found.
#[derive(Debug)]
pub(crate) struct ReadRole {
    server: ServerIdentity,
    may_read: bool,
    /// Any table of the schema.
    pub(crate) may_write: bool,
    /// Row-level security hides rows from it.
    pub(crate) sees_a_part: bool,
}

impl ReadRole {
    /// # Errors
    /// When Postgres does not answer.
    pub(crate) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let look = sqlx::query_as(LOOK).persistent(false);
        let (database, started, may_read, may_write, sees_a_part) =
            look.fetch_one(connection).await?;
        Ok(Self {
            server: ServerIdentity { database, started },
            may_read,
            may_write,
            sees_a_part,
        })
    }

    /// Why it is none of the server in use, where `POSTGRES_URL` leads, if it is not.
    pub(crate) fn is_elsewhere(&self, in_use: &ServerIdentity) -> Option<&'static str> {
        if self.server.database != in_use.database {
            Some(ANOTHER_DATABASE)
        } else if self.server.started != in_use.started {
            Some(ANOTHER_SERVER)
        } else {
            None
        }
    }

    /// What it may not read once tables are made, and how to let it, if there is something.
    pub(crate) fn lacks(&self, schema: &str) -> Option<String> {
        (!self.may_read).then(|| {
            format!(
                "the role of POSTGRES_READ_URL may not read all that reads need: GRANT USAGE ON SCHEMA {schema} \
                 and SELECT ON {TABLES} TO it (deploy/postgres/roles.sql)"
            )
        })
    }
}
