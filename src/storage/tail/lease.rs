//! Rows are marked with the transaction that stored them only while somebody reads the tail, and for an hour after.
//!
//! 1. Whoever begins to read commits until when marks are wanted. A trigger of `events` looks at that once for each
//!    statement (`migrations/0005_tail.sql`), whichever program runs it.
//! 2. Statements that looked before that commit hold their lock on `events` still, and are waited for. From then on
//!    the marking is complete: no row can come that is not marked, as long as it goes on.
//! 3. Streams renew it. When it ends once, the next one is another one. Each page of a stream sees which one is in
//!    force, and each `id` names one: so none goes on across a gap.
//!
//! The server's clock alone decides. A renewal whose commit takes long must not hide a gap. So streams rely on a
//! marking only until `sure_until`: that moves on to an earlier `wanted_until` in a statement that saw it in force
//! before `sure_until` was over. Whatever looks later sees it, too.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{Executor, Row};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use super::clock::number;
use super::marks::{self, basis};
use crate::error::Error;
use crate::storage::deadline::{Deadline, LentConnection};
use crate::storage::identity::identity;

/// For all of it, also for the turn: each process begins or renews one at a time.
const LIMIT: Duration = Duration::from_secs(2);
/// Of it, for what comes after the wait for statements.
const MARGIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Each beginning writes a version of the row of `tail`, which every statement that stores events reads.
const BEGIN_EVERY: Duration = Duration::from_millis(20);
/// A marking that has less left than this is renewed: a minute less than it gets. That takes two renewals: by the second
/// one it is sure.
pub(super) const RENEW_BELOW: Duration = Duration::from_mins(59);

/// No answer of a standby is waited for: no event becomes durable by it.
macro_rules! briefly {
    () => {
        "SET LOCAL synchronous_commit = local; SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '1s'; "
    };
}

/// All of it is one transaction. When it has ended, the end of every one before `running` is on disk.
const WANT: &str = concat!(
    briefly!(),
    "INSERT INTO tail AS marking (wanted_until, sure_until, begun_in, basis) \
     SELECT until, until, pg_current_xact_id(), ",
    basis!(),
    " FROM (SELECT clock_timestamp() + interval '1 hour') AS it (until) \
     ON CONFLICT (singleton) DO UPDATE SET \
         (wanted_until, sure_until, begun_in, basis, has_others, is_complete) = (SELECT excluded.wanted_until, \
             CASE WHEN goes_on THEN marking.wanted_until ELSE excluded.sure_until END, \
             CASE WHEN goes_on THEN marking.begun_in ELSE excluded.begun_in END, excluded.basis, \
             marking.has_others OR NOT is_same, goes_on AND marking.is_complete \
         FROM (SELECT marking.basis = excluded.basis AND clock_timestamp() < marking.sure_until, \
                      marking.basis = excluded.basis) AS it (goes_on, is_same)) \
     RETURNING begun_in::text, is_complete, has_others, pg_snapshot_xmin(pg_current_snapshot())::text AS running, ",
    identity!(),
    " AS database"
);
const COMPLETE: &str = concat!(
    briefly!(),
    "UPDATE tail SET is_complete = true, has_others = false \
     WHERE begun_in = '{marking}' AND clock_timestamp() < sure_until \
     RETURNING pg_snapshot_xmin(pg_current_snapshot())::text AS running"
);

/// Transactions that write to `events` now, whoever runs them. A prepared one has no process.
macro_rules! writers {
    () => {
        "FROM pg_locks WHERE locktype = 'relation' AND relation = 'events'::regclass AND granted \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()"
    };
}
const WRITERS: &str = concat!("SELECT DISTINCT virtualtransaction ", writers!());
/// One of them may have been prepared meanwhile, under another name.
const ARE_THERE: &str = concat!(
    "SELECT EXISTS (SELECT ",
    writers!(),
    " AND (virtualtransaction = ANY ($1) OR pid IS NULL))"
);
const WHO: &str = concat!(
    "SELECT string_agg(DISTINCT CASE WHEN pid IS NULL THEN 'a prepared transaction (pg_prepared_xacts)' \
         ELSE format('process %s (application \"%s\")', pid, application_name) END, ', ') \
     FROM (SELECT pid ",
    writers!(),
    " AND (virtualtransaction = ANY ($1) OR pid IS NULL)) AS writer LEFT JOIN pg_stat_activity USING (pid)"
);

/// Where a stream begins: what is stored later is marked.
#[derive(Debug, Clone, Copy)]
pub struct TailEnd {
    /// Which database this is. A number, as cursors hold it.
    pub database: u64,
    /// Which marking is in force: the transaction that began it.
    pub marking: u64,
    /// The oldest transaction that ran, or else the next one. All before it have ended, and after a crash, too,
    /// no other one gets one of their numbers.
    pub running: u64,
}

/// Why no stream begins.
#[derive(Debug)]
pub enum MarkingError {
    /// These transactions began before it, and may still store rows that are not marked.
    Held(String),
    /// Not every row would be marked, or some have marks of another server. Says what to do.
    Unfit(String),
    /// Postgres failed.
    Failed(Error),
}

impl From<Error> for MarkingError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Has rows marked. Cloning clones handles.
#[derive(Clone)]
pub struct TailLease {
    /// One that can write.
    pool: PgPool,
    turn: Arc<Semaphore>,
}

impl TailLease {
    /// Over the pipeline's pool, of which it uses one connection at a time.
    pub fn new(pool: PgPool) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { pool, turn }
    }

    /// Has rows marked for an hour, and waits until every statement does.
    ///
    /// # Errors
    /// When some take long, or Postgres does not answer.
    pub async fn begin(&self) -> Result<TailEnd, MarkingError> {
        let deadline = Deadline::new(LIMIT, "marking of rows for streams");
        let turn = deadline.wait_for(self.turn.clone().acquire_owned()).await?;
        let begun = deadline.run(async {
            let mut lent = LentConnection::of(&self.pool).await?;
            let begun = begin(&mut lent.connection, deadline).await?;
            lent.give_back();
            Ok(begun)
        });
        let begun = begun.await;
        tokio::spawn(async move {
            sleep(BEGIN_EVERY).await;
            drop(turn);
        });
        begun?
    }

    /// Has rows marked for another hour, unless this process is about it already.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn renew(&self) -> Result<(), Error> {
        let Ok(_turn) = self.turn.try_acquire() else {
            return Ok(());
        };
        let deadline = Deadline::new(LIMIT, "marking of rows for streams");
        let renewed = deadline.run(async {
            let mut lent = LentConnection::of(&self.pool).await?;
            lent.connection.execute(WANT).await?;
            lent.give_back();
            Ok(())
        });
        renewed.await
    }
}

async fn begin(
    connection: &mut PgConnection,
    deadline: Deadline,
) -> Result<Result<TailEnd, MarkingError>, sqlx::Error> {
    let row = match connection.fetch_one(WANT).await {
        Ok(row) => row,
        // It may be the reason.
        Err(error @ sqlx::Error::Database(_)) => {
            let defect = marks::defect(connection).await?;
            return defect.map_or(Err(error), |defect| Ok(Err(MarkingError::Unfit(defect))));
        }
        Err(error) => return Err(error),
    };
    let database: String = row.try_get("database")?;
    let end = TailEnd {
        database: xxh3_64(database.as_bytes()),
        marking: number(row.try_get("begun_in")?)?,
        running: running(&row)?,
    };
    let is_complete: bool = row.try_get("is_complete")?;
    if is_complete {
        return Ok(Ok(end));
    }
    // After it: what somebody changes from now on is seen by `basis`.
    if let Some(defect) = marks::defect(connection).await? {
        return Ok(Err(MarkingError::Unfit(defect)));
    }
    if row.try_get("has_others")? && marks::are_ahead(&mut *connection).await? {
        return Ok(Err(MarkingError::Unfit(marks::AHEAD.to_owned())));
    }
    if let Some(who) = wait_for_writers(connection, deadline).await? {
        return Ok(Err(MarkingError::Held(who)));
    }
    let complete = COMPLETE.replace("{marking}", &end.marking.to_string());
    let row = connection.fetch_optional(complete.as_str()).await?;
    let running = row.as_ref().map(running).transpose()?;
    let newer = "another process, which began a newer marking";
    Ok(running.map_or_else(
        || Err(MarkingError::Held(newer.to_owned())),
        |running| Ok(TailEnd { running, ..end }),
    ))
}

/// Waits until those that write to `events` have ended, and names who has not in time.
async fn wait_for_writers(
    connection: &mut PgConnection,
    deadline: Deadline,
) -> Result<Option<String>, sqlx::Error> {
    let writers: Vec<String> = sqlx::query_scalar(WRITERS)
        .fetch_all(&mut *connection)
        .await?;
    loop {
        let are_there = sqlx::query_scalar(ARE_THERE).bind(&writers);
        if !are_there.fetch_one(&mut *connection).await? {
            return Ok(None);
        }
        if deadline.left() < MARGIN {
            let who = sqlx::query_scalar(WHO).bind(&writers);
            let who: Option<String> = who.fetch_one(&mut *connection).await?;
            return Ok(Some(who.unwrap_or_default()));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn running(row: &PgRow) -> Result<u64, sqlx::Error> {
    number(row.try_get("running")?)
}
