//! `ATTACH` looks through the default partition for rows of the new partition's time, and locks it
//! meanwhile: for seconds, where millions of rows wait there. A constraint which says that there are none
//! spares that. It is checked beforehand, while others read and write.
//!
//! As long as it is there, a row of that time is refused, and tried again by who writes it.

use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::partitions::{Partition, begin_upkeep};

/// The constraint of the default partition.
pub(crate) const CONSTRAINT: &str = "ganesh_attaching";
/// A smaller default partition is looked through at once.
const LARGE_BYTES: i64 = 16 * 1_024 * 1_024;

pub(super) async fn is_default_large(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let size = "SELECT coalesce(pg_relation_size(to_regclass('events_default')), 0)";
    let size: i64 = sqlx::query_scalar(size).fetch_one(connection).await?;
    Ok(size > LARGE_BYTES)
}

/// Makes the constraint, and has Postgres check it, which takes as long as the scan. The caller makes the
/// partition, and calls [`remove`] whatever happens.
pub(super) async fn make(
    connection: &mut PgConnection,
    partition: &Partition,
) -> Result<(), sqlx::Error> {
    let Partition { from, to, .. } = partition;
    let add = format!(
        "ALTER TABLE events_default ADD CONSTRAINT {CONSTRAINT} \
         CHECK (time < '{from}' OR time >= '{to}') NOT VALID"
    );
    let mut transaction = begin_upkeep(&mut *connection).await?;
    transaction.execute(add.as_str()).await?;
    transaction.commit().await?;
    // It holds nobody up, however long it takes.
    let mut transaction = begin_upkeep(&mut *connection).await?;
    let check = format!(
        "SET LOCAL statement_timeout = '10min'; \
         ALTER TABLE events_default VALIDATE CONSTRAINT {CONSTRAINT}"
    );
    transaction.execute(check.as_str()).await?;
    transaction.commit().await
}

/// Returns whether there is one; one that nobody works with was left by a replica that died.
pub(super) async fn is_left(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let is_there = "SELECT EXISTS (SELECT FROM pg_constraint \
         WHERE conrelid = to_regclass('events_default') AND conname = $1)";
    sqlx::query_scalar(is_there)
        .bind(CONSTRAINT)
        .fetch_one(connection)
        .await
}

/// Removes the constraint, if it is there.
pub(super) async fn remove(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = begin_upkeep(connection).await?;
    let remove = format!("ALTER TABLE events_default DROP CONSTRAINT IF EXISTS {CONSTRAINT}");
    transaction.execute(remove.as_str()).await?;
    transaction.commit().await
}
