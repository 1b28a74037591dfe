//! Which database this is: no copy of its tables has the same name. And which server: none that is or was a standby
//! of it is the same.

use sqlx::Row;
use sqlx::postgres::PgExecutor;

/// The cluster, the database, and the schema in which the tables are or will be. A copy of all the
/// cluster's files has the same: what it must not share begins with an epoch, too.
macro_rules! identity {
    () => {
        "(SELECT system_identifier FROM pg_control_system()) || '-' || \
         (SELECT oid FROM pg_database WHERE datname = current_database()) || '-' || \
         coalesce(current_schema(), trim('\" ' from split_part(current_setting('search_path'), ',', 1)))"
    };
}
pub(super) use identity;

/// Without a prepared statement: a pooler would keep it for others.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn database(executor: impl PgExecutor<'_>) -> Result<String, sqlx::Error> {
    let row = executor.fetch_one(concat!("SELECT ", identity!())).await?;
    row.try_get(0)
}

/// What a session leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    pub(crate) database: String,
    /// When the server started: no two have the same.
    pub(crate) started: String,
}

/// When the server started, to the microsecond.
macro_rules! started {
    () => {
        "extract(epoch FROM pg_postmaster_start_time())::text"
    };
}
pub(super) use started;

/// Without a prepared statement, too.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn server(executor: impl PgExecutor<'_>) -> Result<ServerIdentity, sqlx::Error> {
    const LOOK: &str = concat!(
        "SELECT ",
        identity!(),
        " AS database, ",
        started!(),
        " AS started"
    );
    let row = executor.fetch_one(LOOK).await?;
    Ok(ServerIdentity {
        database: row.try_get("database")?,
        started: row.try_get("started")?,
    })
}
