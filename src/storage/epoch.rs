//! The cache epoch: one row that says under which prefix the cache's keys are valid, and in
//! which process of the cache server.
//!
//! The number comes from the clock and only ever grows, so that neither a new database nor one
//! that was restored from a backup names keys that another history has written. It moves on at every
//! start, so that a copy of the database leaves the epoch of its original.

use sqlx::postgres::{PgConnection, PgExecutor};

use super::identity::identity;

/// A standby's transactions are read-only, too.
const READ: &str = "SELECT database, epoch, server, \
    current_setting('transaction_read_only')::bool AS is_read_only FROM cache_epoch";

/// Makes the row too, if it was deleted.
const ADVANCE: &str = concat!(
    "INSERT INTO cache_epoch AS current (epoch, database) \
     VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, ",
    identity!(),
    ") ON CONFLICT (singleton) DO UPDATE \
     SET epoch = greatest(current.epoch + 1, excluded.epoch), database = excluded.database, \
         made_at = clock_timestamp()",
);

const CLAIM: &str = concat!(
    "INSERT INTO cache_epoch AS current (epoch, server, database) \
     VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $1, ",
    identity!(),
    ") ON CONFLICT (singleton) DO UPDATE \
     SET epoch = greatest(current.epoch + 1, excluded.epoch), database = excluded.database, \
         server = excluded.server, made_at = clock_timestamp() \
     WHERE current.server IS DISTINCT FROM excluded.server OR $2",
);

/// The row of the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRow {
    /// The database that the epoch belongs to: the beginning of all valid keys.
    pub database: String,
    /// What follows in them.
    pub epoch: i64,
    /// The process of the cache server that the epoch belongs to, as that server names itself;
    /// `None` before the first one was seen.
    pub(crate) server: Option<String>,
    /// The session that read it cannot write.
    pub(crate) is_read_only: bool,
}

/// Reads the row. A missing row belongs to no server, so nobody uses the cache by it.
///
/// # Errors
/// When Postgres does not answer.
pub async fn read(executor: impl PgExecutor<'_>) -> Result<EpochRow, sqlx::Error> {
    let row = sqlx::query_as(READ).fetch_optional(executor).await?;
    let (database, epoch, server, is_read_only) = row.unwrap_or_default();
    Ok(EpochRow {
        database,
        epoch,
        server,
        is_read_only,
    })
}

/// Makes every key that is in the cache unreachable.
///
/// In a batch's own transaction it must be the last statement before the commit: it locks the
/// row, and a transaction that goes on to wait for another's keys could then deadlock.
pub(crate) async fn advance(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(ADVANCE).execute(connection).await?;
    Ok(())
}

/// Binds the epoch to this process of the cache server: advances it unless it is bound already. A
/// server that was restarted, restored or promoted may hold old states, which no later epoch
/// reaches. `at_start` advances it all the same: this database may be a copy of another one.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    server: &str,
    at_start: bool,
) -> Result<EpochRow, sqlx::Error> {
    let row = read(&mut *connection).await?;
    if row.server.as_deref() == Some(server) && !at_start {
        return Ok(row);
    }
    sqlx::query(CLAIM)
        .bind(server)
        .bind(at_start)
        .execute(&mut *connection)
        .await?;
    read(connection).await
}
