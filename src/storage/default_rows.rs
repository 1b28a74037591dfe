//! Rows that wait in the default partition for the one that covers their time: events from
//! further ahead than partitions are made, or that came while nobody made any.
//!
//! There may be many, and while the default partition is locked, whoever writes to it or reads
//! it waits. So they are copied without a lock, a bounded number of pages at a time, to a table
//! that is no partition yet; they are read and known as duplicates where they are until then.
//! The lock then covers what came or changed meanwhile, and the removal.
//!
//! Others may delete and change rows after they were copied. The session that copies notes which
//! version of each row it copied; under the lock, a copy whose version is gone is dropped, and the
//! row copied anew if it is still there.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgExecutor};
use sqlx::{Connection, Executor};

use super::partitions::{Partition, begin_upkeep, is_attached, make_table};

/// The advisory lock of the replica that moves rows ("ganesi" in ASCII).
const MOVE_LOCK: i64 = 0x6761_6e65_7369;
/// Pages of 8 KiB that one statement copies from: some 50,000 small rows.
const COPIED_AT_ONCE_PAGES: i64 = 2_048;
/// For each statement while the default partition is locked. It is given up beyond that: the
/// rows stay where they are, where they are found as before.
const LOCKED_TIMEOUT: Duration = Duration::from_secs(5);
/// For `ATTACH`, which looks through the default partition: some ten million rows.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);

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
}

/// Returns whether `events_default` is the default partition of `events`. Rows of a detached table are no events.
pub(super) async fn is_attached_default(
    executor: impl PgExecutor<'_>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = 'events'::regclass \
         AND partdefid = to_regclass('events_default'))",
    )
    .fetch_one(executor)
    .await
}

/// Returns whether there are any.
pub(super) async fn are_waiting(
    connection: &mut PgConnection,
    partition: &Partition,
) -> Result<bool, sqlx::Error> {
    if !is_attached_default(&mut *connection).await? {
        return Ok(false);
    }
    let range = range(partition);
    sqlx::query_scalar(&format!(
        "SELECT EXISTS (SELECT FROM events_default WHERE {range})"
    ))
    .fetch_one(connection)
    .await
}

/// Takes the lock of who moves rows, until the session ends. Returns `false` where another replica has it.
pub(super) async fn is_mine_to_move(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(MOVE_LOCK)
        .fetch_one(connection)
        .await
}

/// Gives the lock of [`is_mine_to_move`] back. Postgres ends a closed session a moment later: the next
/// partition of the same round would find the lock taken, and be left for a minute.
pub(super) async fn let_others_move(connection: &mut PgConnection) {
    let unlock = sqlx::query("SELECT pg_advisory_unlock($1)").bind(MOVE_LOCK);
    if let Err(error) = unlock.execute(connection).await {
        tracing::debug!(%error, "the lock of who moves rows ends with its session");
    }
}

/// Makes the table and copies them there, each part in a transaction of its own. The session has to be
/// closed in the end, whatever happens: the notes for [`take_over`] end with it.
pub(super) async fn copy_to_new_table(
    connection: &mut PgConnection,
    partition: &Partition,
) -> Result<Copying, sqlx::Error> {
    let name = &partition.name;
    let mut transaction = begin_upkeep(&mut *connection).await?;
    if is_attached(&mut transaction, name).await? || !make_table(&mut transaction, name).await? {
        transaction.rollback().await?;
        return Ok(Copying::Needless);
    }
    let notes = "CREATE TEMP TABLE copied AS \
         SELECT ctid AS place, xmin AS version, id, source, time FROM events_default WITH NO DATA";
    transaction.execute(notes).await?;
    transaction.commit().await?;
    // Statistics, here and below: what reads pages must not go by the index, and what runs under the lock
    // must not take long.
    connection.execute("ANALYZE events_default").await?;
    let pages: i64 = sqlx::query_scalar(
        "SELECT pg_relation_size('events_default') / current_setting('block_size')::bigint + 1",
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut first = 0;
    while first < pages {
        copy_pages(connection, partition, first).await?;
        first += COPIED_AT_ONCE_PAGES;
    }
    let analyze = format!("ANALYZE pg_temp.copied; ANALYZE {name}");
    connection.execute(analyze.as_str()).await?;
    Ok(Copying::Done)
}

/// Both statements see the same rows.
async fn copy_pages(
    connection: &mut PgConnection,
    partition: &Partition,
    first: i64,
) -> Result<(), sqlx::Error> {
    let (name, range) = (&partition.name, range(partition));
    let end = first + COPIED_AT_ONCE_PAGES;
    let rows = format!(
        "FROM events_default \
         WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid AND {range}"
    );
    let mut transaction = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await?;
    let copy = format!(
        "INSERT INTO pg_temp.copied SELECT ctid, xmin, id, source, time {rows}; \
         INSERT INTO {name} SELECT * {rows} ON CONFLICT DO NOTHING"
    );
    transaction.execute(copy.as_str()).await?;
    transaction.commit().await
}

/// Drops copies of what was deleted or changed, takes the rest over, and removes them all from the default
/// partition, which takes no rows until the transaction ends, or `ATTACH` would meet them.
///
/// The lock of `events` itself is for those who change or delete rows: they wait there before they decide
/// in which partitions to look, and then know the new one. It holds writers up, too. Readers need not wait
/// for it.
pub(super) async fn take_over(
    transaction: &mut PgConnection,
    partition: &Partition,
    have_copies: bool,
) -> Result<(), sqlx::Error> {
    if !have_copies && !are_waiting(&mut *transaction, partition).await? {
        return Ok(());
    }
    let (name, range) = (&partition.name, range(partition));
    let timeout = LOCKED_TIMEOUT.as_millis();
    let lock = format!(
        "LOCK TABLE ONLY events IN EXCLUSIVE MODE; \
         LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE; \
         SET LOCAL statement_timeout = '{timeout}ms'"
    );
    transaction.execute(lock.as_str()).await?;
    if have_copies {
        let drop_outdated = format!(
            "WITH outdated AS ( \
                 SELECT id, source, time FROM pg_temp.copied WHERE NOT EXISTS \
                     (SELECT FROM events_default AS there WHERE {range} \
                      AND there.ctid = copied.place AND there.xmin = copied.version)) \
             DELETE FROM {name} AS copy USING outdated \
             WHERE copy.id = outdated.id AND copy.source = outdated.source \
             AND copy.time = outdated.time"
        );
        transaction.execute(drop_outdated.as_str()).await?;
    }
    let take_over = format!(
        "INSERT INTO {name} SELECT * FROM events_default AS late WHERE {range} AND NOT EXISTS \
             (SELECT FROM {name} AS copied WHERE copied.id = late.id \
              AND copied.source = late.source AND copied.time = late.time); \
         DELETE FROM events_default WHERE {range}; \
         SET LOCAL statement_timeout = '{attach}ms'",
        attach = ATTACH_TIMEOUT.as_millis()
    );
    transaction.execute(take_over.as_str()).await?;
    Ok(())
}
