//! Store: one of several writers, each with one batch at a time; and one that has what they set
//! aside.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender};

use super::Backoff;
use super::batch::Batch;
use super::dead_letter::DeadLetter;
use super::decode::Decoded;
use super::rejections::{Attempt, Refused, Rejections};
use crate::cache::Cache;
use crate::error::{Class, Dependency, Error};
use crate::labels::{Outcome, Reason};
use crate::storage::queries::Reads;
use crate::storage::{EventWriter, Row, RowOutcome, WriteError, WriteOptions};
use crate::telemetry::batch::BatchRecord;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::record::now_nanos;
use crate::telemetry::{Health, Metrics};

/// What every writer works with.
#[derive(Clone)]
pub struct StoreStage {
    /// Writes rows.
    pub writer: EventWriter,
    /// Says whether a message that is given up has a row.
    pub reads: Reads,
    /// Says whether the cache can be written afterwards.
    pub cache: Cache,
    /// Decides what is written next, and what becomes of refused rows.
    pub rejections: Arc<Rejections>,
    /// Tells when Postgres answers again.
    pub health: Health,
    /// Where it counts.
    pub metrics: Metrics,
    /// What fails again and again is mentioned now and then.
    pub log: Arc<RateLimit>,
}

/// A batch whose rows are committed. The messages stay where they are from here to
/// settlement: they are large, and moving them was a tenth of our processor time.
pub struct Committed {
    /// Its messages, but for those that Postgres refused.
    pub messages: Vec<Decoded>,
    /// For each of them [`Outcome::Stored`] or [`Outcome::Duplicate`].
    pub outcomes: Vec<Outcome>,
    /// Whether its transaction advanced the cache's epoch.
    pub epoch_advanced: bool,
    /// When it was where until now, and what failed on the way.
    pub record: Arc<BatchRecord>,
}

/// Where what was stored goes, and what was refused.
#[derive(Clone)]
pub struct Outputs {
    /// To the cache.
    pub committed: Sender<Committed>,
    /// To the dead letters.
    pub dead_letters: Sender<DeadLetter>,
}

/// What became of a batch.
pub(super) enum Written {
    /// Every row is decided.
    Decided(Committed, Vec<DeadLetter>),
    /// Every row was refused for a reason that we do not know, and nobody can say yet whether the
    /// rows or the server are to blame.
    Unexplained(Batch),
}

/// Writes batches until the input closes; hands what nobody can explain to `set_aside`, so that
/// the next batches can show whether it is the rows' fault.
///
/// # Errors
/// Fatal ones of Postgres.
pub async fn run(
    stage: StoreStage,
    input: Arc<Mutex<Receiver<Batch>>>,
    outputs: Outputs,
    set_aside: UnboundedSender<(Batch, Attempt)>,
) -> Result<(), Error> {
    loop {
        // The writers take turns at the queue.
        let mut queue = input.lock().await;
        let Some((batch, attempt)) = stage.rejections.next(&mut queue).await else {
            return Ok(());
        };
        // Held only while waiting, but by a probe until it is judged.
        let _until_judged = (attempt == Attempt::Probe).then_some(queue);
        let ended = match stage.store(batch, attempt).await? {
            Written::Decided(committed, letters) => outputs.take(committed, letters).await,
            Written::Unexplained(batch) if attempt == Attempt::Probe => {
                stage.rejections.put_back(batch);
                Ok(())
            }
            Written::Unexplained(batch) => set_aside.send((batch, attempt)).map_err(|_| Closed),
        };
        if ended.is_err() {
            return Ok(());
        }
    }
}

/// Tries what was set aside again and again, one batch after the other, until the writers have ended;
/// what is left then is dropped, and so released. Bounded by `GANESH_MAX_IN_FLIGHT`, as everything that
/// carries a delivery.
///
/// # Errors
/// Fatal ones of Postgres.
pub async fn run_set_aside(
    stage: StoreStage,
    mut input: UnboundedReceiver<(Batch, Attempt)>,
    outputs: Outputs,
) -> Result<(), Error> {
    let mut waiting = VecDeque::new();
    let mut backoff = Backoff::new();
    loop {
        {
            let mut pause = std::pin::pin!(backoff.wait());
            loop {
                tokio::select! {
                    batch = input.recv() => match batch {
                        Some(batch) => waiting.push_back(batch),
                        None => return Ok(()),
                    },
                    () = &mut pause, if !waiting.is_empty() => break,
                }
            }
        }
        let Some((batch, attempt)) = waiting.pop_front() else {
            continue;
        };
        match stage.store(batch, attempt).await? {
            Written::Unexplained(batch) => waiting.push_back((batch, attempt)),
            Written::Decided(committed, letters) => {
                // What has made a difference to this one does to the next one.
                backoff = Backoff::new();
                if outputs.take(committed, letters).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Nobody takes our output any more.
struct Closed;

impl Outputs {
    async fn take(&self, committed: Committed, letters: Vec<DeadLetter>) -> Result<(), Closed> {
        for letter in letters {
            self.dead_letters.send(letter).await.map_err(|_| Closed)?;
        }
        if committed.messages.is_empty() {
            return Ok(());
        }
        self.committed.send(committed).await.map_err(|_| Closed)
    }
}

impl StoreStage {
    async fn store(&self, mut batch: Batch, attempt: Attempt) -> Result<Written, Error> {
        if batch.is_exhausted {
            return self.decide_exhausted(batch).await;
        }
        let store_began = now_nanos();
        let options = WriteOptions {
            expect_duplicates: batch.messages.iter().any(|d| d.delivery.is_redelivered()),
            advance_epoch: !self.cache.is_usable(),
            others_succeed: false,
        };
        let Some(outcomes) = self.write_until_durable(&mut batch, options).await? else {
            return Ok(Written::Unexplained(batch));
        };
        let Batch {
            mut messages,
            closed_at,
            failures,
            ..
        } = batch;
        let (durable, events) = (now_nanos(), messages.len());
        let record = BatchRecord::new(closed_at, store_began, durable, events, failures);
        let record = Arc::new(record);
        let refused = take_refused(&mut messages, &outcomes);
        let rows: Vec<bool> = outcomes.iter().filter_map(was_refused).collect();
        let dead = self.rejections.judge(attempt, &rows, refused, closed_at);
        let letters = dead.into_iter().map(|refused| letter(refused, &record));
        let letters = letters.collect();
        let committed = Committed {
            messages,
            outcomes: outcomes.iter().filter_map(durable_outcome).collect(),
            epoch_advanced: options.advance_epoch,
            record,
        };
        Ok(Written::Decided(committed, letters))
    }

    /// Tries until every row is decided, however long Postgres is away: the keeper
    /// keeps what we hold, and the source finds no room and pauses. `None` for rows that are refused
    /// for a reason that we do not know, unless others were taken since they were the last time.
    async fn write_until_durable(
        &self,
        batch: &mut Batch,
        mut options: WriteOptions,
    ) -> Result<Option<Vec<RowOutcome>>, Error> {
        let (rows, order) = rows_in_write_order(&batch.messages);
        let mut outcomes = vec![None; rows.len()];
        let mut backoff = Backoff::new();
        loop {
            let recovery = self.health.recovery(Dependency::Postgres);
            let since = |attempt| self.writer.has_succeeded_since(attempt);
            options.others_succeed = batch.set_aside_at.is_some_and(since);
            let written = self.writer.write(&rows, &mut outcomes, options).await;
            let (error, refused_at) = match written {
                Ok(()) => break,
                Err(WriteError::Failed(error)) => (error, None),
                Err(WriteError::Unexplained { error, attempt }) => (error, Some(attempt)),
            };
            self.metrics.dependency_error(&error);
            if error.class == Class::Fatal {
                tracing::error!(%error, "Postgres refuses what we do; stopping");
                return Err(error);
            }
            // There may be as many batches as are held.
            if let Some(suppressed) = self.log.allow() {
                let events = rows.len();
                tracing::warn!(%error, events, suppressed, "a batch was not stored; trying again");
            }
            batch.failures.add(&error);
            if refused_at.is_some() {
                batch.set_aside_at = refused_at;
                return Ok(None);
            }
            // What failed may have been committed all the same.
            options.expect_duplicates = true;
            backoff.wait_or(recovery).await;
        }
        Ok(Some(in_batch_order(outcomes, &order)))
    }
}

/// `None` for a duplicate, which says nothing: Postgres did not try its row.
fn was_refused(outcome: &RowOutcome) -> Option<bool> {
    match outcome {
        RowOutcome::Stored => Some(false),
        RowOutcome::Duplicate => None,
        RowOutcome::Rejected(_) => Some(true),
    }
}

/// The batch's rows as they are written, and for each its place in the batch.
fn rows_in_write_order(batch: &[Decoded]) -> (Vec<Row<'_>>, Vec<usize>) {
    let rows: Vec<Row<'_>> = batch.iter().map(row).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by(|a, b| rows[*a].write_order(&rows[*b]));
    let sorted = order.iter().map(|i| rows[*i]).collect();
    (sorted, order)
}

fn in_batch_order(outcomes: Vec<Option<RowOutcome>>, order: &[usize]) -> Vec<RowOutcome> {
    let mut in_order = vec![RowOutcome::Duplicate; outcomes.len()];
    for (outcome, place) in outcomes.into_iter().zip(order) {
        in_order[*place] = outcome.expect("a write without error decides every row");
    }
    in_order
}

fn row(decoded: &Decoded) -> Row<'_> {
    let Decoded { delivery, event } = decoded;
    Row {
        event,
        nats_subject: &delivery.message.subject,
        stream_seq: delivery.stream_sequence,
        published_at: delivery.published_at,
        trace_id: delivery.trace_id,
    }
}

fn durable_outcome(outcome: &RowOutcome) -> Option<Outcome> {
    match outcome {
        RowOutcome::Stored => Some(Outcome::Stored),
        RowOutcome::Duplicate => Some(Outcome::Duplicate),
        RowOutcome::Rejected(_) => None,
    }
}

/// Takes the messages out of the batch that Postgres refused; the others keep their order.
fn take_refused(batch: &mut Vec<Decoded>, outcomes: &[RowOutcome]) -> Vec<Refused> {
    let mut details = outcomes.iter().map(|outcome| match outcome {
        RowOutcome::Rejected(detail) => Some(detail),
        RowOutcome::Stored | RowOutcome::Duplicate => None,
    });
    if details.clone().all(|detail| detail.is_none()) {
        return Vec::new();
    }
    let mut refused = Vec::new();
    for (decoded, detail) in std::mem::take(batch).into_iter().zip(&mut details) {
        match detail.cloned() {
            None => batch.push(decoded),
            Some(detail) => refused.push(Refused { decoded, detail }),
        }
    }
    refused
}

fn letter(refused: Refused, record: &Arc<BatchRecord>) -> DeadLetter {
    let Refused { decoded, detail } = refused;
    DeadLetter {
        reason: Reason::RejectedRow,
        detail,
        delivery: decoded.delivery,
        event: Some(decoded.event),
        batch: Some(record.clone()),
    }
}
