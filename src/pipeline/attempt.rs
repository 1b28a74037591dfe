//! Tries to write one batch until its rows are decided. Gives up early when waiting would block other batches.

use tokio::time::Instant;

use super::scheduler::{BatchHistory, SeenFailures};
use super::transient::TransientFailure;
use super::writer::Writer;
use crate::backoff::Backoff;
use crate::error::{Class, Dependency, Error};
use crate::labels::WriteMethod;
use crate::message::{Batch, Decoded};
use crate::storage::{FailureCause, OnTransient, Row, RowOutcome, WriteFailure, WriteOptions};

/// What became of a batch.
pub(crate) struct Written {
    /// For each of its messages in their order; `None` is undecided.
    pub(crate) outcomes: Vec<Option<RowOutcome>>,
    /// The method that succeeded last; `INSERT` where rows are undecided.
    pub(crate) method: WriteMethod,
    /// Why some are undecided.
    pub(crate) undecided: Option<Undecided>,
}

/// Why rows are undecided, and what to do with them.
pub(crate) struct Undecided {
    /// For each message of the batch whether its row failed alone.
    pub(crate) failed_alone: Vec<bool>,
    pub(crate) failures: SeenFailures,
    /// Postgres answered.
    pub(crate) has_answer: bool,
}

/// Retries until each row has an outcome, and the stored ones are committed. Meanwhile the keepalive keeps the
/// messages, and the source pauses for lack of capacity. Gives up early, with undecided rows, if the cause is
/// unknown, a transient error repeats, or a parked batch fails once.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn write_until_decided(
    writer: &Writer,
    batch: &mut Batch,
    history: &BatchHistory,
    mut options: WriteOptions,
) -> Result<Written, Error> {
    let (rows, order) = rows_in_write_order(writer, &batch.messages);
    let mut outcomes = vec![None; rows.len()];
    let mut failures = history.failures;
    let mut backoff = Backoff::new();
    let last_failure = loop {
        let recovery = writer.health.recovery(Dependency::Postgres);
        failures.guide(writer, &mut options);
        let failure = match writer.storage.write(&rows, &mut outcomes, options).await {
            Ok(method) => {
                return Ok(Written {
                    outcomes: in_batch_order(outcomes, &order),
                    method,
                    undecided: None,
                });
            }
            Err(failure) => failure,
        };
        report(writer, &failure.error, rows.len())?;
        batch.failures.add(&failure.error);
        failures.add(writer, &failure);
        if history.was_parked || failures.is_for_later(writer, &failure) {
            break failure;
        }
        // The failed attempt may have committed.
        options.expect_duplicates = true;
        backoff.wait_or(recovery).await;
    };
    let mut failed_alone = vec![false; rows.len()];
    for place in last_failure.failed_alone {
        failed_alone[order[place]] = true;
    }
    Ok(Written {
        outcomes: in_batch_order(outcomes, &order),
        method: WriteMethod::Insert,
        undecided: Some(Undecided {
            failed_alone,
            failures,
            has_answer: matches!(
                last_failure.cause,
                FailureCause::Transient | FailureCause::Unknown(_)
            ),
        }),
    })
}

impl SeenFailures {
    /// What the next attempt may conclude.
    fn guide(&self, writer: &Writer, options: &mut WriteOptions) {
        let evidence = |attempt| writer.storage.evidence_since(attempt);
        options.on_transient = self.transient.next_attempt(self.others_stored(writer));
        options.others_stored_by = match options.on_transient {
            blame @ (OnTransient::BlameConflicts | OnTransient::BlameAll) => {
                evidence(self.transient.evidence_begins(blame))
            }
            OnTransient::Retry | OnTransient::Search => self.rejected_in_attempt.and_then(evidence),
        };
    }

    fn add(&mut self, writer: &Writer, failure: &WriteFailure) {
        match failure.cause {
            FailureCause::NotSent => {}
            FailureCause::Transient | FailureCause::Unanswered => {
                let failed = TransientFailure {
                    code: failure.error.code,
                    has_answer: failure.cause == FailureCause::Transient,
                    newest: writer.storage.newest_attempt(),
                    others_stored: self.others_stored(writer),
                };
                self.transient.add(failed, Instant::now());
            }
            FailureCause::Unknown(attempt) => self.rejected_in_attempt = Some(attempt),
        }
    }

    /// Whether others get the writer now.
    fn is_for_later(&self, writer: &Writer, failure: &WriteFailure) -> bool {
        match failure.cause {
            FailureCause::NotSent => false,
            FailureCause::Unknown(_) => true,
            FailureCause::Transient | FailureCause::Unanswered => {
                !failure.failed_alone.is_empty()
                    || self.transient.is_to_be_parked(self.others_stored(writer))
            }
        }
    }

    /// Since the last failure with a transient code.
    fn others_stored(&self, writer: &Writer) -> bool {
        let last = self.transient.last();
        writer.storage.evidence_since(last).is_some()
    }
}

/// Counts and logs a failed attempt.
fn report(writer: &Writer, error: &Error, events: usize) -> Result<(), Error> {
    writer.metrics.dependency_error(error);
    if error.class == Class::Fatal {
        tracing::error!(%error, "Postgres refuses what we do; stopping");
        return Err(error.clone());
    }
    // Each held message can be a batch of its own: limit the line.
    if let Some(suppressed) = writer.log.allow() {
        tracing::warn!(%error, events, suppressed, "a batch was not stored; trying again");
    }
    Ok(())
}

/// The batch's rows as they are written, and for each its place in the batch.
fn rows_in_write_order<'a>(writer: &'a Writer, batch: &'a [Decoded]) -> (Vec<Row<'a>>, Vec<usize>) {
    let rows: Vec<Row<'_>> = batch.iter().map(|decoded| row(writer, decoded)).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by(|a, b| rows[*a].write_order(&rows[*b]));
    let sorted = order.iter().map(|i| rows[*i]).collect();
    (sorted, order)
}

fn in_batch_order(outcomes: Vec<Option<RowOutcome>>, order: &[usize]) -> Vec<Option<RowOutcome>> {
    let mut in_order = vec![None; outcomes.len()];
    for (outcome, place) in outcomes.into_iter().zip(order) {
        in_order[*place] = outcome;
    }
    in_order
}

pub(crate) fn row<'a>(writer: &'a Writer, decoded: &'a Decoded) -> Row<'a> {
    let Decoded { delivery, event } = decoded;
    Row {
        event,
        stream: &writer.stream,
        nats_subject: &delivery.message.subject,
        stream_seq: delivery.stream_sequence,
        published_at: delivery.published_at,
        trace_id: delivery.trace_id,
    }
}
