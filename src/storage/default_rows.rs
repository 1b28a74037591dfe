//! Rows that wait in the default partition for the one that covers their time: events from
//! further ahead than partitions are made, or that came while nobody made any.
//!
//! There may be many, and while the default partition is locked, whoever writes to it or reads
//! it waits. So they are copied without a lock, a bounded number of pages at a time, to a table
//! that is no partition yet; they are read and known as duplicates where they are until then.
//! The lock then covers what came meanwhile, and the removal.

use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgConnection, PgExecutor, PgPool};

use super::partitions::{Partition, begin_upkeep, is_attached, make_table};

/// The advisory lock of the replica that copies ("ganesi" in ASCII).
const COPY_LOCK: i64 = 0x6761_6e65_7369;
/// Pages of 8 KiB that one statement copies from: some 50,000 small rows.
const COPIED_AT_ONCE_PAGES: i64 = 2_048;
/// For each statement while the default partition is locked. It is given up beyond that: the
/// rows stay where they are, where they are found as before.
const LOCKED_TIMEOUT: Duration = Duration::from_secs(5);

fn range(partition: &Partition) -> String {
    let Partition { from, to, .. } = partition;
    format!("time >= '{from}' AND time < '{to}'")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// The rows are in the new table, but for those that came meanwhile.
    Done,
    /// It is a partition by now, or its name is taken.
    Needless,
    /// Another replica copies.
    LeftToAnother,
}

/// Returns whether there are any.
pub(super) async fn are_waiting(
    executor: impl PgExecutor<'_>,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    let range = range(partition);
    sqlx::query_scalar(&format!(
        "SELECT EXISTS (SELECT FROM events_default WHERE {range})"
    ))
    .fetch_one(executor)
    .await
}

/// Makes the table and copies them there, each part in a transaction of its own.
pub(super) async fn copy_to_new_table(
    pool: &PgPool,
    partition: &Partition,
) -> Result<Copying, sqlx::Error> {
    let name = &partition.name;
    let mut connection = pool.acquire().await?;
    // The lock of who copies ends with its session, however that ends.
    connection.close_on_drop();
    let is_mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(COPY_LOCK)
        .fetch_one(&mut *connection)
        .await?;
    if !is_mine {
        return Ok(Copying::LeftToAnother);
    }
    let mut transaction = begin_upkeep(&mut *connection).await?;
    if is_attached(&mut transaction, name).await? || !make_table(&mut transaction, name).await? {
        transaction.rollback().await?;
        return Ok(Copying::Needless);
    }
    transaction.commit().await?;
    let pages: i64 = sqlx::query_scalar(
        "SELECT pg_relation_size('events_default') / current_setting('block_size')::bigint + 1",
    )
    .fetch_one(&mut *connection)
    .await?;
    let range = range(partition);
    let mut first = 0;
    while first < pages {
        let end = first + COPIED_AT_ONCE_PAGES;
        let copy = format!(
            "INSERT INTO {name} SELECT * FROM events_default \
             WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid AND {range} \
             ON CONFLICT DO NOTHING"
        );
        connection.execute(copy.as_str()).await?;
        first = end;
    }
    Ok(Copying::Done)
}

/// Takes the rest over and removes them all from the default partition, which takes no rows
/// until the transaction ends, or `ATTACH` would meet them.
pub(super) async fn take_over(
    transaction: &mut PgConnection,
    partition: &Partition,
) -> Result<(), sqlx::Error> {
    if !are_waiting(&mut *transaction, partition).await? {
        return Ok(());
    }
    let (name, range) = (&partition.name, range(partition));
    let timeout = LOCKED_TIMEOUT.as_millis();
    let take_over = format!(
        "LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE; \
         SET LOCAL statement_timeout = '{timeout}ms'; \
         INSERT INTO {name} SELECT * FROM events_default AS late WHERE {range} AND NOT EXISTS \
             (SELECT FROM {name} AS copied WHERE copied.id = late.id \
              AND copied.source = late.source AND copied.time = late.time); \
         DELETE FROM events_default WHERE {range}"
    );
    transaction.execute(take_over.as_str()).await?;
    Ok(())
}
