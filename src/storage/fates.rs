//! How messages end that get no row. It is decided here once, for all replicas.
//!
//! Another replica may hold a message, too, and write its row at any time, however late. So that no
//! message is both a row and a dead letter:
//!
//! 1. Whoever would make a dead letter of a message commits its fate first. The first one counts.
//! 2. A statement that writes rows looks for fates when it has its lock on `events`. An `INSERT` leaves
//!    those messages out. A `COPY` that may hold one is refused by a trigger, and left to `INSERT`.
//! 3. Statements that looked before that commit still hold their lock, and are waited for. After that no
//!    row of the message can come. If there is one by then, the message is a duplicate, else a letter.
//!
//! Nothing is locked for that, and a batch costs one more look into a small table.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgExecutor, PgPool};
use tokio::time::{Instant, sleep};

use super::deadline::{Deadline, LentConnection};
use super::row::Row;
use super::write::{EventWriter, WRITE_TIMEOUT};
use crate::error::Error;
use crate::labels::Reason;

/// Statements under way are waited for this long; most take milliseconds.
const UNDER_WAY_MAX: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The trigger's refusal of a `COPY`.
pub(super) const MAY_BE_DECIDED: &str = "GN001";
const SKIPPED: &str = "skipped";

const RECORD: &str = "\
    INSERT INTO fates (stream, stream_seq, published_at, fate, detail) \
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[]) \
    ORDER BY 2, 3, 1 \
    ON CONFLICT DO NOTHING";
const READ: &str = "\
    SELECT place, fate, detail \
    FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) \
         WITH ORDINALITY AS key (stream, stream_seq, published_at, place) \
         JOIN fates USING (stream, stream_seq, published_at)";
/// Transactions that write to `events` now, and may have looked before the fate was committed: within a
/// minute after it was written at the latest. A replica's sessions have this name.
const UNDER_WAY: &str = "\
    SELECT DISTINCT virtualtransaction \
    FROM pg_locks JOIN pg_stat_activity AS session USING (pid) \
    WHERE locktype = 'relation' AND relation = 'events'::regclass AND granted \
    AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid() AND application_name = 'ganesh' \
    AND xact_start <= (SELECT max(decided_at) + interval '1 minute' FROM fates \
                       JOIN unnest($1::text[], $2::bigint[], $3::timestamptz[]) \
                            AS key (stream, stream_seq, published_at) \
                       USING (stream, stream_seq, published_at))";
const ARE_UNDER_WAY: &str =
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'virtualxid' AND virtualxid = ANY ($1))";
/// Longer than a letter waits for a full dead-letter stream, or a message is held by a replica that hangs.
const FORGET: &str = "DELETE FROM fates WHERE decided_at < now() - interval '7 days'";

/// How a message ends that has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageFate {
    /// It becomes a dead letter; the words say why.
    DeadLetter(Reason, String),
    /// A trigger of the table skipped its row.
    Skipped,
}

impl MessageFate {
    fn named(name: &str, detail: String) -> Self {
        match name {
            SKIPPED => Self::Skipped,
            name if name == Reason::MaxDeliveries.into_str() => {
                Self::DeadLetter(Reason::MaxDeliveries, detail)
            }
            _ => Self::DeadLetter(Reason::RejectedRow, detail),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::DeadLetter(reason, _) => reason.into_str(),
            Self::Skipped => SKIPPED,
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::DeadLetter(_, detail) => detail,
            Self::Skipped => "",
        }
    }
}

impl EventWriter {
    /// Commits the fates of messages that have none, and returns the fate of each. `None`: statements are
    /// under way that may still write rows of those that become letters; ask again later.
    ///
    /// # Errors
    /// When Postgres refuses or does not answer.
    pub(crate) async fn decide(
        &self,
        rows: &[Row<'_>],
        proposed: &[MessageFate],
    ) -> Result<Option<Vec<MessageFate>>, Error> {
        let decide = async {
            let mut lent = LentConnection::of(self.pool()).await?;
            let connection = &mut *lent.connection;
            sqlx::query(RECORD)
                .bind(streams(rows))
                .bind(sequences(rows))
                .bind(published(rows))
                .bind(proposed.iter().map(MessageFate::name).collect::<Vec<_>>())
                .bind(proposed.iter().map(MessageFate::detail).collect::<Vec<_>>())
                .execute(&mut *connection)
                .await?;
            let decided = read(connection, rows).await?;
            // One that is missing was forgotten between the two statements.
            let fates: Vec<MessageFate> = decided
                .into_iter()
                .zip(proposed)
                .map(|(decided, proposed)| decided.unwrap_or_else(|| proposed.clone()))
                .collect();
            let is_settled = fates.iter().all(|fate| *fate == MessageFate::Skipped)
                || are_writers_done(connection, rows).await?;
            lent.give_back();
            Ok(is_settled.then_some(fates))
        };
        let deadline = Deadline::new(WRITE_TIMEOUT, "decision on messages without a row");
        deadline.run(decide).await
    }
}

/// The fates of these rows' messages.
pub(super) async fn read(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<Vec<Option<MessageFate>>, sqlx::Error> {
    let found: Vec<(i64, String, String)> = sqlx::query_as(READ)
        .bind(streams(rows))
        .bind(sequences(rows))
        .bind(published(rows))
        .fetch_all(connection)
        .await?;
    let mut fates = vec![None; rows.len()];
    for (place, fate, detail) in found {
        let index = usize::try_from(place - 1).expect("ordinality counts from 1");
        fates[index] = Some(MessageFate::named(&fate, detail));
    }
    Ok(fates)
}

/// Waits for the statements that write to `events` now. False if one of them takes long.
async fn are_writers_done(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<bool, sqlx::Error> {
    let under_way: Vec<String> = sqlx::query_scalar(UNDER_WAY)
        .bind(streams(rows))
        .bind(sequences(rows))
        .bind(published(rows))
        .fetch_all(&mut *connection)
        .await?;
    if under_way.is_empty() {
        return Ok(true);
    }
    let began = Instant::now();
    loop {
        let are_under_way: bool = sqlx::query_scalar(ARE_UNDER_WAY)
            .bind(&under_way)
            .fetch_one(&mut *connection)
            .await?;
        if !are_under_way || began.elapsed() >= UNDER_WAY_MAX {
            return Ok(!are_under_way);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Forgets those that nobody can ask for any more.
pub(super) async fn forget_old(pool: &PgPool) -> Result<(), sqlx::Error> {
    execute(pool, FORGET).await
}

async fn execute<'a>(executor: impl PgExecutor<'a>, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(executor).await.map(|_| ())
}

fn streams<'a>(rows: &[Row<'a>]) -> Vec<&'a str> {
    rows.iter().map(|row| row.stream).collect()
}

fn sequences(rows: &[Row<'_>]) -> Vec<i64> {
    rows.iter().map(Row::stream_seq_i64).collect()
}

fn published(rows: &[Row<'_>]) -> Vec<crate::event::Timestamp> {
    rows.iter().map(|row| row.published_at).collect()
}
