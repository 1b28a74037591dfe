//! Writes a batch: `COPY` from 16 rows on, `INSERT` for fewer and where events may be rows already. A part
//! that fails is split (round.rs).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};
use strum::VariantArray as _;

use super::classify::{classify, copy_line, sqlstate};
use super::clock::ServerClock;
use super::deadline::{Deadline, LentConnection};
use super::fates::MAY_BE_DECIDED;
use super::part_limit::PartLimit;
use super::round::OnTransient;
use super::row::Row;
use super::statement::{RowOutcome, write_rows};
use super::trials::OwnTrials;
use super::{epoch, inspect};
use crate::error::{Class, Code, Dependency, Error};
use crate::labels::WriteMethod;
use crate::telemetry::Metrics;

/// After a batch with duplicates, this many batches go by `INSERT` at once. A `COPY`
/// that fails costs its rows twice and leaves them behind as dead ones; `INSERT`
/// costs about 40 % more than `COPY`. Duplicates come in runs (a redelivery, a
/// producer that sends again), so the next batches are likely to have some too.
const INSERTS_AFTER_DUPLICATES: u32 = 16;
/// Fewer rows go by `INSERT` at once: one round trip instead of two, and no failure on duplicates.
/// Medians of `cargo bench --bench writing` on two cores, `COPY` and `INSERT`: 1 row 0.51 and 0.46 ms,
/// 16 rows 0.78 and 0.82, 128 rows 2.5 and 3.7, 1,024 rows 12.6 and 18.2.
const COPY_MIN_ROWS: usize = 16;
/// feature_not_supported.
const UNSUPPORTED: &str = "0A000";
/// Longer than the server's own statement timeout, which answers more clearly.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(35);

/// Writes batches. Cloned into every writer.
#[derive(Clone)]
pub struct EventWriter {
    pool: PgPool,
    metrics: Metrics,
    clock: Arc<ServerClock>,
    inserts_left: Arc<AtomicU32>,
    /// Where rows are slow.
    part_limit: Arc<PartLimit>,
    /// `COPY` is refused whatever the rows are: row-level security applies to our role.
    copy_is_refused: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
    /// For each method the newest attempt that stored a row.
    newest_success: Arc<[AtomicU64; WriteMethod::VARIANTS.len()]>,
    /// What this process noted in `trials`.
    pub(super) own_trials: Arc<OwnTrials>,
}

/// How to write one batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Some of its messages were delivered before: their events may be rows.
    pub expect_duplicates: bool,
    /// Advance the cache's epoch in the batch's own transaction.
    pub advance_epoch: bool,
    /// Others were stored by this method since this batch failed ([`EventWriter::evidence_since`]): a row
    /// that fails alone by the same method is then to blame itself.
    pub others_stored_by: Option<WriteMethod>,
    /// What an answer means whose code passes by itself elsewhere.
    pub on_transient: OnTransient,
}

impl EventWriter {
    /// A writer on this pool.
    pub fn new(pool: PgPool, metrics: Metrics) -> Self {
        Self {
            pool,
            metrics,
            clock: Arc::default(),
            inserts_left: Arc::default(),
            part_limit: Arc::default(),
            copy_is_refused: Arc::default(),
            attempts: Arc::default(),
            newest_success: Arc::default(),
            own_trials: Arc::default(),
        }
    }

    pub(super) fn part_limit(&self) -> &PartLimit {
        &self.part_limit
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The number of the newest attempt of any writer.
    pub(crate) fn newest_attempt(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Returns the method by which a later attempt, of any batch, stored a row: `INSERT` if both did.
    pub(crate) fn evidence_since(&self, attempt: u64) -> Option<WriteMethod> {
        let newest =
            |method: &WriteMethod| self.newest_success[*method as usize].load(Ordering::Relaxed);
        let by_preference = [WriteMethod::Insert, WriteMethod::Copy];
        by_preference
            .into_iter()
            .find(|method| newest(method) > attempt)
    }

    /// Writes the rows that have no outcome yet, and notes how each ended. `rows`
    /// are in [`Row::write_order`]. After an error it can be called again with the
    /// same `outcomes`: what was decided stays decided.
    ///
    /// # Errors
    /// Why rows are undecided. A rejected row is an outcome, not an error.
    pub async fn write(
        &self,
        rows: &[Row<'_>],
        outcomes: &mut [Option<RowOutcome>],
        options: WriteOptions,
    ) -> Result<WriteMethod, WriteFailure> {
        self.reject_suspects(rows, outcomes).await;
        let mut method = WriteMethod::Insert;
        loop {
            let to_write = rows_to_write(rows, outcomes);
            if to_write.is_empty() {
                return Ok(method);
            }
            // round.rs: one part with all of them, and smaller ones where one fails.
            method = self.write_round(rows, &to_write, outcomes, options).await?;
        }
    }

    /// Finds rows that Postgres would reject before they are written: otherwise one bad row in
    /// 10,000 costs 10 % of the throughput, as its batch is written twice.
    async fn reject_suspects(&self, rows: &[Row<'_>], outcomes: &mut [Option<RowOutcome>]) {
        let is_suspect = |i: &usize| outcomes[*i].is_none() && inspect::is_suspect(&rows[*i]);
        let places: Vec<usize> = (0..rows.len()).filter(is_suspect).collect();
        if !places.is_empty() {
            // Where that fails, the write that follows says why.
            self.reject_invalid_json(rows, &places, outcomes).await;
        }
    }

    /// Rejects what can be found at once. False when that is nothing, or when the search itself
    /// fails: then halves are tried.
    pub(super) async fn reject_invalid_json(
        &self,
        rows: &[Row<'_>],
        places: &[usize],
        outcomes: &mut [Option<RowOutcome>],
    ) -> bool {
        let suspects: Vec<Row<'_>> = places.iter().map(|i| rows[*i]).collect();
        let search = async {
            let mut lent = LentConnection::of(&self.pool).await?;
            let invalid = inspect::invalid_json(&mut lent.connection, &suspects).await?;
            lent.give_back();
            Ok(invalid)
        };
        let deadline = Deadline::new(WRITE_TIMEOUT, "search for invalid JSON");
        let invalid = deadline.run(search).await.unwrap_or_default();
        let found = !invalid.is_empty();
        for (suspect, why) in invalid {
            outcomes[places[suspect]] = Some(RowOutcome::Rejected(why));
        }
        found
    }

    /// Writes a part of a round by the method that is likely to be quicker, and by `INSERT` where `COPY` is refused.
    pub(super) async fn write_part(
        &self,
        rows: &[Row<'_>],
        options: WriteOptions,
    ) -> Result<(Vec<RowOutcome>, WriteMethod), AttemptError> {
        let is_large = rows.len() >= COPY_MIN_ROWS;
        if self.copy_goes_first(is_large, options) {
            match self.try_write(rows, WriteMethod::Copy, options).await {
                Err(failed) if failed.error.code == Code::Duplicate => {}
                Err(failed) if failed.is(MAY_BE_DECIDED) => {}
                Err(failed) if failed.is(UNSUPPORTED) => self.give_up_copy(&failed.error),
                result => return result.map(|written| (written, WriteMethod::Copy)),
            }
        }
        let written = self.try_write(rows, WriteMethod::Insert, options).await?;
        if is_large && written.contains(&RowOutcome::Duplicate) {
            self.inserts_left
                .store(INSERTS_AFTER_DUPLICATES, Ordering::Relaxed);
        }
        Ok((written, WriteMethod::Insert))
    }

    fn copy_goes_first(&self, is_large: bool, options: WriteOptions) -> bool {
        if self.copy_is_refused.load(Ordering::Relaxed) {
            return false;
        }
        // Where others were stored by COPY alone, an INSERT that fails blames nobody.
        options.others_stored_by == Some(WriteMethod::Copy)
            || is_large && !options.expect_duplicates && !self.use_up_insert()
    }

    pub(super) fn say_too_much(&self, error: &Error, rows: usize) {
        self.metrics.dependency_error(error);
        self.part_limit.warn(error, rows);
    }

    fn give_up_copy(&self, error: &Error) {
        if !self.copy_is_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error,
                "Postgres refuses COPY, as it does under row-level security: all rows are inserted from now \
                 on, which costs about 40 % more"
            );
        }
    }

    /// Returns whether the last duplicates are so recent that `INSERT` comes first.
    fn use_up_insert(&self) -> bool {
        self.inserts_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }

    /// Makes one attempt. Closes the connection where it may be unusable.
    async fn try_write(
        &self,
        rows: &[Row<'_>],
        method: WriteMethod,
        options: WriteOptions,
    ) -> Result<Vec<RowOutcome>, AttemptError> {
        let acquired = self.pool.acquire().await;
        let mut connection = acquired.map_err(|error| AttemptError::without(&error, method))?;
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        self.metrics.batch_writes[method].increment(1);
        let write = self.run_statement(&mut connection, rows, method, options.advance_epoch);
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(written)) => {
                // Rows that are there already or skipped prove nothing: Postgres does not even try them.
                if written.contains(&RowOutcome::Stored) {
                    self.newest_success[method as usize].fetch_max(number, Ordering::Relaxed);
                }
                Ok(written)
            }
            Ok(Err(error)) => {
                let failed = AttemptError::by(&error, number, method);
                if needs_new_connection(&error, &failed.error) {
                    drop(connection.detach());
                }
                Err(failed)
            }
            Err(_) => {
                drop(connection.detach());
                Err(AttemptError {
                    error: Error::timeout(Dependency::Postgres, "writing a batch"),
                    line: None,
                    attempt: number,
                    method,
                    is_answer: false,
                    sqlstate: None,
                })
            }
        }
    }

    /// One statement commits by itself. Only advancing the cache's epoch needs a transaction around it.
    async fn run_statement(
        &self,
        connection: &mut PgConnection,
        rows: &[Row<'_>],
        method: WriteMethod,
        advance_epoch: bool,
    ) -> Result<Vec<RowOutcome>, sqlx::Error> {
        if !advance_epoch {
            return write_rows(connection, rows, method, &self.clock).await;
        }
        // Dropped on an error, it rolls back before the connection's next use.
        let mut transaction = connection.begin().await?;
        let written = write_rows(&mut transaction, rows, method, &self.clock).await?;
        // Last, so that other writers wait for this row's lock as briefly as can be.
        epoch::advance(&mut transaction).await?;
        transaction.commit().await?;
        Ok(written)
    }
}

/// Why rows of a batch are undecided.
#[derive(Debug)]
pub struct WriteFailure {
    /// Of the first row that failed alone, or of the whole.
    pub error: Error,
    /// What the error says of who is to blame.
    pub cause: FailureCause,
    /// Places of rows that failed alone. Other undecided rows were not tried alone.
    pub failed_alone: Vec<usize>,
}

/// What a failure says of who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// Nothing: the statement was not sent, or the error is fatal.
    NotSent,
    /// The statement was sent, and its connection broke or no answer came in time: the server, or what is
    /// between, may break on these rows.
    Unanswered,
    /// The server answered with a code that passes by itself elsewhere.
    Transient,
    /// The code says nothing: the rows or the server may be to blame. The number of the first attempt that
    /// was refused: [`EventWriter::evidence_since`].
    Unknown(u64),
}

/// An error, the row that it names, and the attempt.
pub(super) struct AttemptError {
    pub(super) error: Error,
    pub(super) line: Option<usize>,
    pub(super) attempt: u64,
    pub(super) method: WriteMethod,
    /// The server answered the statement.
    pub(super) is_answer: bool,
    sqlstate: Option<String>,
}

impl AttemptError {
    /// There was no connection to be had.
    fn without(error: &sqlx::Error, method: WriteMethod) -> Self {
        Self {
            is_answer: false,
            ..Self::by(error, 0, method)
        }
    }

    fn by(error: &sqlx::Error, attempt: u64, method: WriteMethod) -> Self {
        let mut failed = Self {
            error: classify(error),
            line: copy_line(error),
            attempt,
            method,
            is_answer: matches!(error, sqlx::Error::Database(_)),
            sqlstate: sqlstate(error).map(Cow::into_owned),
        };
        // `INSERT` passes over what our key has, so a key that is there already is another index's, and the
        // row is to blame. `COPY` names the index of a partition, which anybody may have named: `INSERT`
        // decides.
        if method == WriteMethod::Insert && failed.error.code == Code::Duplicate {
            failed.error.class = Class::Poison;
            failed.error.code = Code::RejectedRow;
        }
        failed
    }

    fn is(&self, sqlstate: &str) -> bool {
        self.sqlstate.as_deref() == Some(sqlstate)
    }

    /// The statement ran into the server's time limit, or its room for locks (53200): a smaller one may not.
    pub(super) fn is_too_much(&self) -> bool {
        self.is_answer && (self.error.code == Code::Timeout || self.is("53200"))
    }

    /// The connection broke under the statement, or no answer came in time. It may have committed. A pooler
    /// says with class 08 that its own connection broke.
    pub(super) fn is_unanswered(&self) -> bool {
        self.attempt > 0 && (!self.is_answer || self.error.code == Code::Connection)
    }
}

/// Anything but a plain answer of the server, and read-only sessions (25006: the
/// server became a standby; another connection may lead to the new primary).
fn needs_new_connection(error: &sqlx::Error, ours: &Error) -> bool {
    !matches!(error, sqlx::Error::Database(_))
        || matches!(ours.code, Code::Unavailable | Code::Timeout)
}

/// The rows to write next: of rows that are the same event, the first that Postgres
/// has not rejected or skipped. Once one of them is there, the others are duplicates.
fn rows_to_write(rows: &[Row<'_>], outcomes: &mut [Option<RowOutcome>]) -> Vec<usize> {
    let mut round = Vec::new();
    let (mut present, mut chosen) = (false, false);
    for i in 0..rows.len() {
        if i == 0 || !rows[i].is_same_event(&rows[i - 1]) {
            (present, chosen) = (false, false);
        }
        match &outcomes[i] {
            Some(RowOutcome::Stored | RowOutcome::Duplicate) => present = true,
            Some(RowOutcome::Skipped | RowOutcome::Rejected(_) | RowOutcome::DeadLetter(..)) => {}
            None if present => outcomes[i] = Some(RowOutcome::Duplicate),
            None if chosen => {}
            None => {
                chosen = true;
                round.push(i);
            }
        }
    }
    round
}
