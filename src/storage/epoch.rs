//! The cache's epoch (interim: the cache's branch replaces this file).

use sqlx::PgExecutor;

/// Advances the epoch.
pub async fn advance(executor: impl PgExecutor<'_>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE cache_epoch SET epoch = epoch + 1, made_at = clock_timestamp() RETURNING epoch",
    )
    .fetch_one(executor)
    .await
}
