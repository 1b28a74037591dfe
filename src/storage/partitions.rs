//! The partitions of `events`: made ahead of time, dropped after the retention
//! period, by one replica at a time (an advisory lock).

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, Postgres};
use sqlx::{Acquire, Executor, Transaction};

use super::default_rows::{self, Copying};
use super::exclusion;
use crate::config::{PartitionInterval, PostgresConfig};
use crate::event::Timestamp;

/// The advisory lock under which partitions are made and dropped ("ganesh" in ASCII).
const UPKEEP_LOCK: i64 = 0x6761_6e65_7368;
/// A statement that waits for a table's lock blocks those behind it: ingestion.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// How many partitions behind the current one are made, for events that come late.
const PARTITIONS_BEHIND: i64 = 1;
/// Expired rows of the default partition that one statement removes.
const EXPIRED_ROWS_AT_ONCE: i64 = 10_000;

const MICROS_A_HOUR: i64 = 3_600_000_000;
const MICROS_A_DAY: i64 = 24 * MICROS_A_HOUR;

/// One partition: `[from, to)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The table.
    pub name: String,
    /// Its first time.
    pub from: Timestamp,
    /// The first time after it.
    pub to: Timestamp,
}

impl PartitionInterval {
    pub(super) fn micros(self) -> i64 {
        match self {
            Self::Hour => MICROS_A_HOUR,
            Self::Day => MICROS_A_DAY,
        }
    }

    /// A process that stops may come back days later; until then the default
    /// partition takes what no partition covers.
    fn partitions_ahead(self) -> i64 {
        match self {
            Self::Hour => 24,
            Self::Day => 3,
        }
    }
}

/// The partition that covers `time`.
pub fn partition_of(time: Timestamp, interval: PartitionInterval) -> Partition {
    let from = time.micros().div_euclid(interval.micros()) * interval.micros();
    let from = Timestamp::from_micros(from);
    // RFC 3339 begins with the digits of date and hour: 2026-11-23T20:00:00Z.
    let digits = from.to_string().replace(['-', 'T', ':'], "");
    let length = match interval {
        PartitionInterval::Hour => 10,
        PartitionInterval::Day => 8,
    };
    Partition {
        name: format!("{NAME_PREFIX}{}", &digits[..length]),
        from,
        to: Timestamp::from_micros(from.micros() + interval.micros()),
    }
}

/// The comment on a table from its creation until it is attached. A table without this comment
/// belongs to somebody else, and is not dropped.
pub const UNFINISHED: &str = "ganesh: not a partition yet, its rows are copies";

const NAME_PREFIX: &str = "events_p";

/// The partition of this name, if ganesh made it.
fn partition_named(name: &str) -> Option<Partition> {
    let digits = name.strip_prefix(NAME_PREFIX)?;
    let (interval, hour) = match digits.len() {
        8 => (PartitionInterval::Day, "00"),
        10 => (PartitionInterval::Hour, digits.get(8..)?),
        _ => return None,
    };
    let (year, month, day) = (digits.get(..4)?, digits.get(4..6)?, digits.get(6..8)?);
    let from = Timestamp::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:00:00Z"))?;
    Some(partition_of(from, interval))
}

/// How far upkeep came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upkeep {
    /// All is as it should be.
    Done,
    /// Another replica copies rows of a partition that is missing: how that ends is not known.
    LeftToAnother,
}

/// Makes the partitions around now that are missing.
///
/// # Errors
/// When Postgres refuses or does not answer; what was made until then stays.
pub async fn make_ahead(
    pool: &PgPool,
    interval: PartitionInterval,
    now: Timestamp,
) -> Result<Upkeep, sqlx::Error> {
    let mut made = clean_up(pool).await.map(|()| Upkeep::Done);
    let there = partitions(pool).await?;
    for step in -PARTITIONS_BEHIND..=interval.partitions_ahead() {
        let time = Timestamp::from_micros(now.micros() + step * interval.micros());
        let partition = partition_of(time, interval);
        // Or a part of its time is another interval's.
        let is_covered = |other: &Partition| other.from < partition.to && partition.from < other.to;
        if !there.iter().any(is_covered) {
            // One that cannot be made does not keep the others.
            let next = make(pool, &partition).await;
            made = made.and_then(|so_far| Ok(so_far.max(next?)));
        }
    }
    made
}

/// All partitions that ganesh made, except the default one.
async fn partitions(pool: &PgPool) -> Result<Vec<Partition>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass",
    )
    .fetch_all(pool)
    .await?;
    Ok(names.iter().filter_map(|n| partition_named(n)).collect())
}

/// Returns whether it is a partition by now; a table of this name alone is none.
pub(super) async fn is_attached(
    connection: &mut PgConnection,
    name: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_inherits \
         WHERE inhrelid = to_regclass($1) AND inhparent = 'events'::regclass)",
    )
    .bind(name)
    .fetch_one(connection)
    .await
}

/// Makes one partition. `CREATE TABLE … PARTITION OF` would wait for readers of any
/// partition, and ingestion would wait behind it; `ATTACH` does not.
///
/// Rows of its time that wait in the default partition are copied first, without holding
/// anything up; only then is the default partition locked, for what came or changed meanwhile. Without
/// such rows, a large default partition is excluded beforehand. Who dies
/// in the middle leaves a table that is no partition, which the next one begins anew.
async fn make(pool: &PgPool, partition: &Partition) -> Result<Upkeep, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let are_waiting = default_rows::are_waiting(&mut connection, partition).await?;
    let is_large = default_rows::is_attached_default(&mut *connection).await?
        && exclusion::is_default_large(&mut connection).await?;
    if !are_waiting && !is_large {
        return attach(&mut connection, partition, false).await;
    }
    // The notes of what was copied end with the session, and at the latest then the lock.
    connection.close_on_drop();
    if !default_rows::is_mine_to_move(&mut connection).await? {
        return Ok(Upkeep::LeftToAnother);
    }
    let made = if are_waiting {
        make_with_copies(&mut connection, partition).await
    } else {
        make_excluded(&mut connection, partition).await
    };
    default_rows::let_others_move(&mut connection).await;
    made
}

async fn make_with_copies(
    connection: &mut PgConnection,
    partition: &Partition,
) -> Result<Upkeep, sqlx::Error> {
    match default_rows::copy_to_new_table(connection, partition).await? {
        Copying::Done => attach(connection, partition, true).await,
        Copying::Needless => Ok(Upkeep::Done),
    }
}

async fn make_excluded(
    connection: &mut PgConnection,
    partition: &Partition,
) -> Result<Upkeep, sqlx::Error> {
    let made = match exclusion::make(connection, partition).await {
        Ok(()) => attach(connection, partition, false).await,
        Err(error) => Err(error),
    };
    let removed = exclusion::remove(connection).await;
    made.and_then(|made| removed.map(|()| made))
}

/// Removes what a replica left that died while it made a partition.
async fn clean_up(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if exclusion::is_left(&mut connection).await? {
        connection.close_on_drop();
        if default_rows::is_mine_to_move(&mut connection).await? {
            let removed = exclusion::remove(&mut connection).await;
            default_rows::let_others_move(&mut connection).await;
            removed?;
        }
    }
    Ok(())
}

async fn attach(
    connection: &mut PgConnection,
    partition: &Partition,
    have_copies: bool,
) -> Result<Upkeep, sqlx::Error> {
    let Partition { name, from, to } = partition;
    let mut transaction = begin_upkeep(connection).await?;
    if is_attached(&mut transaction, name).await?
        || !have_copies && !make_table(&mut transaction, name).await?
    {
        transaction.rollback().await?;
        return Ok(Upkeep::Done);
    }
    default_rows::take_over(&mut transaction, partition, have_copies).await?;
    let attach = format!(
        "ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}'); \
         COMMENT ON TABLE {name} IS NULL"
    );
    match transaction.execute(attach.as_str()).await {
        Ok(_) => {}
        // 42P17: a partition that somebody else made covers a part of this time already.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P17") => {
            tracing::debug!(partition = name, "time is covered already");
            transaction.rollback().await?;
            return Ok(Upkeep::Done);
        }
        Err(error) => return Err(error),
    }
    transaction.commit().await?;
    tracing::info!(partition = name, "partition made");
    Ok(Upkeep::Done)
}

/// Makes the table of a partition that is not attached. The caller holds the upkeep lock. A table
/// that a crashed replica left is dropped: its rows are copies, and may be outdated. Returns
/// `false` if another table has this name, such as a partition that somebody detached.
pub(super) async fn make_table(
    transaction: &mut PgConnection,
    name: &str,
) -> Result<bool, sqlx::Error> {
    let comment = "SELECT obj_description(oid, 'pg_class') FROM pg_class \
         WHERE oid = to_regclass($1)";
    let there: Option<Option<String>> = sqlx::query_scalar(comment)
        .bind(name)
        .fetch_optional(&mut *transaction)
        .await?;
    match there {
        None => {}
        Some(comment) if comment.as_deref() == Some(UNFINISHED) => {
            let drop = format!("DROP TABLE {name}");
            transaction.execute(drop.as_str()).await?;
        }
        Some(_) => {
            tracing::error!(
                table = name,
                "a table has the name of a partition and is none: give it another name (its rows can then \
                 be inserted into events); until then events of its time go to the default partition"
            );
            return Ok(false);
        }
    }
    let make = format!(
        "CREATE TABLE {name} (LIKE events INCLUDING ALL); \
         COMMENT ON TABLE {name} IS '{UNFINISHED}'"
    );
    transaction.execute(make.as_str()).await?;
    Ok(true)
}

/// Drops the partitions that ended before the retention period, and removes expired
/// rows from the default one.
///
/// # Errors
/// When Postgres refuses or does not answer, for instance because a long query reads
/// an expired partition: the next round tries again.
pub async fn drop_expired(
    pool: &PgPool,
    retention_days: u32,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let cutoff = Timestamp::from_micros(now.micros() - i64::from(retention_days) * MICROS_A_DAY);
    let mut dropped = Ok(());
    let there = partitions(pool).await?;
    for partition in there.iter().filter(|partition| partition.to <= cutoff) {
        // One that is read for long does not keep the others.
        dropped = dropped.and(drop_partition(pool, &partition.name).await);
    }
    remove_expired_default_rows(pool, cutoff).await?;
    dropped
}

async fn remove_expired_default_rows(pool: &PgPool, cutoff: Timestamp) -> Result<(), sqlx::Error> {
    if !default_rows::is_attached_default(pool).await? {
        return Ok(());
    }
    loop {
        let removed = sqlx::query(
            "DELETE FROM events_default WHERE ctid = ANY (ARRAY( \
                 SELECT ctid FROM events_default \
                 WHERE time < $1 LIMIT $2))",
        )
        .bind(cutoff)
        .bind(EXPIRED_ROWS_AT_ONCE)
        .execute(pool)
        .await?;
        if removed.rows_affected() == 0 {
            return Ok(());
        }
    }
}

async fn drop_partition(pool: &PgPool, name: &str) -> Result<(), sqlx::Error> {
    let mut transaction = begin_upkeep(pool).await?;
    // LOCK before the parent's lock, which DETACH takes first: whoever reads this partition for long
    // must not make ingestion wait for us. Not DETACH CONCURRENTLY: Postgres refuses that where a
    // default partition exists.
    let drop = format!(
        "LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE; \
         ALTER TABLE events DETACH PARTITION {name}; \
         DROP TABLE {name}"
    );
    transaction.execute(drop.as_str()).await?;
    transaction.commit().await?;
    tracing::info!(partition = name, "expired partition dropped");
    Ok(())
}

/// Begins a transaction that holds the upkeep lock. Names, bounds and settings in its statements
/// cannot be parameters; ganesh makes all of them.
pub(super) async fn begin_upkeep<'c>(
    connection: impl Acquire<'c, Database = Postgres>,
) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let lock = format!(
        "SET LOCAL lock_timeout = '{}ms'; SELECT pg_advisory_xact_lock({UPKEEP_LOCK})",
        LOCK_TIMEOUT.as_millis()
    );
    transaction.execute(lock.as_str()).await?;
    Ok(transaction)
}

/// The server's clock, for all replicas: a host's clock that is days ahead would drop partitions
/// that have not expired.
async fn server_time(pool: &PgPool) -> Result<Timestamp, sqlx::Error> {
    sqlx::query_scalar("SELECT now()").fetch_one(pool).await
}

/// One round of upkeep.
///
/// # Errors
/// See [`make_ahead`] and [`drop_expired`].
pub(crate) async fn upkeep(pool: &PgPool, config: &PostgresConfig) -> Result<Upkeep, sqlx::Error> {
    let now = server_time(pool).await?;
    let made = make_ahead(pool, config.partition_interval, now).await;
    match config.retention_days {
        Some(days) => {
            let dropped = drop_expired(pool, days, now).await;
            made.and_then(|made| dropped.map(|()| made))
        }
        None => made,
    }
}
