//! Store: retries a batch until each row is stored, a duplicate, skipped or rejected.

use std::sync::Arc;

use super::parking::{BatchHistory, NextBatch};
use super::writer::Writer;
use crate::backoff::Backoff;
use crate::error::{Class, Dependency, Error};
use crate::event::Event;
use crate::labels::{Outcome, Reason, WriteMethod};
use crate::message::timings::{Failures, now_nanos};
use crate::message::{Batch, BatchTimings, DeadLetter, Decoded, RejectedRow, StoredBatch};
use crate::storage::{Row, RowOutcome, WriteError, WriteOptions};

/// Writes a batch. Gives back the messages that have a row or need none, and the dead letters; `None` when the
/// batch was parked.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn store(
    writer: &Writer,
    next: NextBatch,
) -> Result<Option<(StoredBatch, Vec<DeadLetter>)>, Error> {
    let NextBatch { mut batch, history } = next;
    if batch.messages.iter().any(|d| writer.is_exhausted(d)) {
        writer
            .parking
            .record_outcome(history, &[], Vec::new(), batch.taken_at);
        return decide_exhausted(writer, batch).await.map(Some);
    }
    let options = WriteOptions {
        expect_duplicates: history.was_parked
            || batch.messages.iter().any(|d| d.delivery.is_redelivered()),
        advance_epoch: !writer.cache.is_usable(),
        others_succeed: false,
    };
    let (outcomes, method) =
        match write_until_durable(writer, &mut batch, &history, options).await? {
            Written::Decided(outcomes, method) => (outcomes, method),
            Written::UnknownCause(attempt) => {
                writer.parking.park_again(batch, history, Some(attempt));
                return Ok(None);
            }
            Written::RetryLater => {
                writer.parking.park_again(batch, history, None);
                return Ok(None);
            }
        };
    let timings = timings(&mut batch, method);
    let rejected = take_rejected(&mut batch.messages, &outcomes);
    let rows: Vec<bool> = outcomes.iter().filter_map(was_rejected).collect();
    let blamed = writer
        .parking
        .record_outcome(history, &rows, rejected, batch.taken_at);
    let letters = blamed.into_iter().map(|rejected| {
        let RejectedRow { decoded, detail } = rejected;
        letter(decoded, Reason::RejectedRow, detail, &timings)
    });
    let letters = letters.collect();
    let stored = StoredBatch {
        messages: batch.messages,
        outcomes: outcomes.iter().filter_map(durable_outcome).collect(),
        epoch_advanced: options.advance_epoch,
        timings,
    };
    Ok(Some((stored, letters)))
}

/// How an attempt to write a batch ended.
enum Written {
    /// Every row is decided.
    Decided(Vec<RowOutcome>, WriteMethod),
    /// Every row was rejected for an unknown cause, first in the attempt of this number.
    UnknownCause(u64),
    /// It was parked, and failed with nobody to blame.
    RetryLater,
}

/// Retries until every row has an outcome, and the stored ones are committed. Meanwhile the keepalive
/// keeps the messages, and the source pauses for lack of capacity. Returns early if all rows are rejected
/// for an unknown cause, or if a parked batch fails.
async fn write_until_durable(
    writer: &Writer,
    batch: &mut Batch,
    history: &BatchHistory,
    mut options: WriteOptions,
) -> Result<Written, Error> {
    let (rows, order) = rows_in_write_order(&batch.messages);
    let mut outcomes = vec![None; rows.len()];
    let mut backoff = Backoff::new();
    loop {
        let recovery = writer.health.recovery(Dependency::Postgres);
        let since = |attempt| writer.storage.has_succeeded_since(attempt);
        options.others_succeed = history.rejected_in_attempt.is_some_and(since);
        let (error, unknown_cause) = match writer.storage.write(&rows, &mut outcomes, options).await
        {
            Ok(method) => return Ok(Written::Decided(in_batch_order(outcomes, &order), method)),
            Err(WriteError::Failed(error)) => (error, None),
            Err(WriteError::UnknownCause { error, attempt }) => (error, Some(attempt)),
        };
        writer.metrics.dependency_error(&error);
        if error.class == Class::Fatal {
            tracing::error!(%error, "Postgres refuses what we do; stopping");
            return Err(error);
        }
        // Each held message can be a batch of its own: limit the line.
        if let Some(suppressed) = writer.log.allow() {
            let events = rows.len();
            tracing::warn!(%error, events, suppressed, "a batch was not stored; trying again");
        }
        batch.failures.add(&error);
        if let Some(attempt) = unknown_cause {
            return Ok(Written::UnknownCause(attempt));
        }
        if history.was_parked {
            return Ok(Written::RetryLater);
        }
        // The failed attempt may have committed.
        options.expect_duplicates = true;
        backoff.wait_or(recovery).await;
    }
}

impl Writer {
    /// Whether it was delivered more than 2 × `GANESH_MAX_DELIVERIES` times. It failed alone, too, so it
    /// is to blame, not its batch.
    fn is_exhausted(&self, decoded: &Decoded) -> bool {
        decoded.delivery.delivered > self.max_deliveries * 2
    }
}

/// Decides messages that were delivered too often, without another write. If the event has a row, the
/// message is a duplicate whose acknowledgement was lost. Otherwise it becomes a dead letter.
async fn decide_exhausted(
    writer: &Writer,
    mut batch: Batch,
) -> Result<(StoredBatch, Vec<DeadLetter>), Error> {
    let mut has_row = Vec::with_capacity(batch.messages.len());
    for decoded in &batch.messages {
        has_row.push(find_row(writer, &decoded.event, &mut batch.failures).await?);
    }
    let mut stored = StoredBatch {
        messages: Vec::new(),
        outcomes: Vec::new(),
        epoch_advanced: false,
        timings: timings(&mut batch, WriteMethod::Insert),
    };
    let mut letters = Vec::new();
    for (decoded, has_row) in batch.messages.into_iter().zip(has_row) {
        if has_row {
            stored.messages.push(decoded);
            stored.outcomes.push(Outcome::Duplicate);
        } else {
            let detail = format!(
                "delivered {} times, more than twice GANESH_MAX_DELIVERIES, and it has no row",
                decoded.delivery.delivered
            );
            let reason = Reason::MaxDeliveries;
            letters.push(letter(decoded, reason, detail, &stored.timings));
        }
    }
    Ok((stored, letters))
}

/// Asks until Postgres answers.
async fn find_row(writer: &Writer, event: &Event, failures: &mut Failures) -> Result<bool, Error> {
    let mut backoff = Backoff::new();
    loop {
        let recovery = writer.health.recovery(Dependency::Postgres);
        let error = match writer.reads.has_event(event).await {
            Ok(has_row) => return Ok(has_row),
            Err(error) => error,
        };
        writer.metrics.dependency_error(&error);
        if error.class == Class::Fatal {
            tracing::error!(%error, "Postgres refuses what we ask; stopping");
            return Err(error);
        }
        tracing::warn!(%error, "cannot ask whether an event has a row; trying again");
        failures.add(&error);
        backoff.wait_or(recovery).await;
    }
}

/// Of a batch whose rows are all decided by now.
fn timings(batch: &mut Batch, method: WriteMethod) -> Arc<BatchTimings> {
    Arc::new(BatchTimings {
        taken_at: batch.taken_at,
        durable_at: now_nanos(),
        events: batch.messages.len(),
        method,
        failures: std::mem::take(&mut batch.failures),
        observed: std::sync::OnceLock::new(),
    })
}

/// `None` for a duplicate or a skipped row, which says nothing: Postgres did not try it.
fn was_rejected(outcome: &RowOutcome) -> Option<bool> {
    match outcome {
        RowOutcome::Stored => Some(false),
        RowOutcome::Duplicate | RowOutcome::Skipped => None,
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
        RowOutcome::Skipped => Some(Outcome::Skipped),
        RowOutcome::Rejected(_) => None,
    }
}

/// Takes the messages out of the batch that Postgres rejected; the others keep their order.
fn take_rejected(batch: &mut Vec<Decoded>, outcomes: &[RowOutcome]) -> Vec<RejectedRow> {
    let mut details = outcomes.iter().map(|outcome| match outcome {
        RowOutcome::Rejected(detail) => Some(detail),
        RowOutcome::Stored | RowOutcome::Duplicate | RowOutcome::Skipped => None,
    });
    if details.clone().all(|detail| detail.is_none()) {
        return Vec::new();
    }
    let mut rejected = Vec::new();
    for (decoded, detail) in std::mem::take(batch).into_iter().zip(&mut details) {
        match detail.cloned() {
            None => batch.push(decoded),
            Some(detail) => rejected.push(RejectedRow { decoded, detail }),
        }
    }
    rejected
}

fn letter(
    decoded: Decoded,
    reason: Reason,
    detail: String,
    timings: &Arc<BatchTimings>,
) -> DeadLetter {
    let Decoded { delivery, event } = decoded;
    DeadLetter {
        reason,
        detail,
        delivery,
        event: Some(event),
        batch: Some(timings.clone()),
    }
}
