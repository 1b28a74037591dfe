//! Which database this is: no copy of its tables has the same name.

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
