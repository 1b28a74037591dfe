//! Store: retries a batch until each row is stored, a duplicate, skipped or rejected.

use std::sync::Arc;

use super::attempt::{self, Undecided, Written};
use super::parking::{Attempt, NextBatch};
use super::writer::Writer;
use crate::backoff::Backoff;
use crate::error::{Class, Dependency, Error};
use crate::event::Event;
use crate::labels::{Outcome, Reason, WriteMethod};
use crate::message::timings::{Failures, now_nanos};
use crate::message::{Batch, BatchTimings, DeadLetter, Decoded, RejectedRow, StoredBatch};
use crate::storage::{RowOutcome, WriteOptions};

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
        ..WriteOptions::default()
    };
    let Written {
        outcomes,
        method,
        undecided,
    } = attempt::write(writer, &mut batch, &history, options).await?;
    let mut undecided_rows = 0;
    let outcomes = if let Some(undecided) = undecided {
        let outcomes_before = outcomes.len();
        let (outcomes, rest) = take_undecided(&mut batch, outcomes, &undecided.failed_alone);
        let Undecided {
            failures,
            is_refused,
            ..
        } = undecided;
        if outcomes.is_empty() {
            writer
                .parking
                .park_again(rest, history, failures, is_refused);
            return Ok(None);
        }
        undecided_rows = outcomes_before - outcomes.len();
        writer.parking.park_rest(rest, &history, failures);
        outcomes
    } else {
        outcomes.into_iter().flatten().collect()
    };
    let timings = timings(&mut batch, method);
    let rejected = take_rejected(&mut batch.messages, &outcomes);
    let mut rows: Vec<bool> = outcomes.iter().filter_map(was_rejected).collect();
    if history.attempt == Attempt::Probe {
        rows.extend(std::iter::repeat_n(true, undecided_rows));
    }
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

/// Takes the undecided messages out of the batch: those whose row failed alone, and the others, each as a
/// batch. Gives back the outcomes of what stays.
fn take_undecided(
    batch: &mut Batch,
    outcomes: Vec<Option<RowOutcome>>,
    failed_alone: &[bool],
) -> (Vec<RowOutcome>, Vec<Batch>) {
    let mut decided = Vec::new();
    let (mut stay, mut alone, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let messages = std::mem::take(&mut batch.messages).into_iter();
    for ((message, outcome), failed_alone) in messages.zip(outcomes).zip(failed_alone) {
        match outcome {
            Some(outcome) => {
                stay.push(message);
                decided.push(outcome);
            }
            None if *failed_alone => alone.push(message),
            None => others.push(message),
        }
    }
    batch.messages = stay;
    let rest = [alone, others].into_iter().filter(|part| !part.is_empty());
    let rest = rest.map(|messages| Batch {
        messages,
        taken_at: batch.taken_at,
        failures: batch.failures.clone(),
    });
    (decided, rest.collect())
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
