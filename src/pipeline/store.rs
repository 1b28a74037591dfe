//! Store: has a batch written (attempt.rs), and sorts its messages: with a row, dead letters, parked.
//!
//! An ordinary batch has no trial (only a message that was delivered far too often has one), no undecided
//! rows, and nothing for fate.rs to decide.

use std::sync::Arc;

use super::attempt::{self, Undecided, Written};
use super::fate::{self, Ends, Proposal};
use super::scheduler::{BatchHistory, BatchOrigin, NextBatch, SeenFailures};
use super::trial;
use super::writer::Writer;
use crate::error::Error;
use crate::labels::{Outcome, Reason, WriteMethod};
use crate::message::timings::now_nanos;
use crate::message::{Batch, BatchTimings, DeadLetter, Decoded, RejectedRow, StoredBatch};
use crate::storage::{MessageFate, RowOutcome, WriteOptions};

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
    let is_given_up = trial::begin(writer, &mut batch).await?;
    if is_given_up {
        writer
            .scheduler
            .record_outcome(history, &[], Vec::new(), batch.taken_at);
        return decide_given_up(writer, batch).await.map(Some);
    }
    let options = WriteOptions {
        expect_duplicates: history.was_parked
            || batch.messages.iter().any(|d| d.delivery.is_redelivered()),
        advance_epoch: !writer.cache.is_usable(),
        ..WriteOptions::default()
    };
    let written = write_within_trial(writer, &mut batch, &history, options).await?;
    let (rows, method) = (written.outcomes.len(), written.method);
    let Some((decided, history)) = park_undecided(writer, &mut batch, written, history) else {
        return Ok(None);
    };
    let events = decided.len();
    let mut were_rejected: Vec<bool> = decided.iter().filter_map(was_rejected).collect();
    if history.origin == BatchOrigin::Probe {
        were_rejected.extend(std::iter::repeat_n(true, rows - events));
    }
    let SplitBatch {
        outcomes,
        rejected,
        mut proposals,
    } = split_by_outcome(&mut batch.messages, decided);
    let blamed = writer
        .scheduler
        .record_outcome(history, &were_rejected, rejected, batch.taken_at);
    proposals.extend(blamed.into_iter().map(|RejectedRow { decoded, detail }| {
        let fate = MessageFate::DeadLetter(Reason::RejectedRow, detail);
        Proposal { decoded, fate }
    }));
    let ends = fate::decide(writer, proposals, &mut batch.failures).await?;
    let stored = StoredBatch {
        timings: timings(&mut batch, events, method),
        messages: batch.messages,
        outcomes,
        // A row that `fate::decide` found may have been committed after our transaction, whose epoch does not
        // cover it then.
        epoch_advanced: options.advance_epoch && ends.settled.is_empty(),
    };
    Ok(Some(finish(writer, stored, ends)))
}

async fn write_within_trial(
    writer: &Writer,
    batch: &mut Batch,
    history: &BatchHistory,
    options: WriteOptions,
) -> Result<Written, Error> {
    let written = attempt::write_until_decided(writer, batch, history, options).await;
    // Whatever came of it.
    let ended = trial::end(writer, batch).await;
    let written = written?;
    ended.map(|()| written)
}

/// Parks the messages of undecided rows. Gives back the outcomes of the others, which stay in the batch; `None`
/// when there are none.
fn park_undecided(
    writer: &Writer,
    batch: &mut Batch,
    written: Written,
    history: BatchHistory,
) -> Option<(Vec<RowOutcome>, BatchHistory)> {
    let Some(undecided) = written.undecided else {
        return Some((written.outcomes.into_iter().flatten().collect(), history));
    };
    let Undecided {
        failed_alone,
        failures,
        has_answer,
    } = undecided;
    let (decided, [alone, others]) = take_undecided(batch, written.outcomes, &failed_alone);
    let rest = park_untried(writer, &history, alone, others);
    if decided.is_empty() {
        writer
            .scheduler
            .park_again(rest, history, failures, has_answer);
        return None;
    }
    writer.scheduler.park_rest(rest, &history, failures);
    Some((decided, history))
}

/// Adds messages that need no letter to those with rows, and makes the letters.
fn finish(writer: &Writer, mut stored: StoredBatch, ends: Ends) -> (StoredBatch, Vec<DeadLetter>) {
    for (decoded, outcome) in ends.settled {
        stored.messages.push(decoded);
        stored.outcomes.push(outcome);
    }
    writer.scheduler.park_for_later(ends.later);
    let letters = ends.letters.into_iter();
    let letters =
        letters.map(|(decoded, reason, detail)| letter(decoded, reason, detail, &stored.timings));
    let letters = letters.collect();
    (stored, letters)
}

/// If some rows failed alone, parks the other undecided ones without a history of failures. Returns the batch
/// that the caller has to park.
fn park_untried(
    writer: &Writer,
    history: &BatchHistory,
    alone: Option<Batch>,
    others: Option<Batch>,
) -> Batch {
    match (alone, others) {
        (Some(alone), Some(others)) => {
            let untried = SeenFailures::default();
            writer.scheduler.park_rest(others, history, untried);
            alone
        }
        (alone, others) => alone.or(others).expect("a row is undecided"),
    }
}

/// Takes the undecided messages out of the batch: those whose row failed alone, and the others, each as a
/// batch. Gives back the outcomes of what stays.
fn take_undecided(
    batch: &mut Batch,
    outcomes: Vec<Option<RowOutcome>>,
    failed_alone: &[bool],
) -> (Vec<RowOutcome>, [Option<Batch>; 2]) {
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
    let rest = [alone, others].map(|messages| {
        (!messages.is_empty()).then(|| Batch {
            messages,
            taken_at: batch.taken_at,
            failures: batch.failures.clone(),
        })
    });
    (decided, rest)
}

/// Decides a message that is given up, without another write. If the event has a row, the message is a
/// duplicate whose acknowledgement was lost. Otherwise it becomes a dead letter, unless a trigger skipped
/// its row.
async fn decide_given_up(
    writer: &Writer,
    mut batch: Batch,
) -> Result<(StoredBatch, Vec<DeadLetter>), Error> {
    let events = batch.messages.len();
    let have_rows = fate::have_rows(writer, &batch.messages, &mut batch.failures).await?;
    let (mut duplicates, mut proposals) = (Vec::new(), Vec::new());
    for (decoded, has_row) in batch.messages.drain(..).zip(have_rows) {
        if has_row {
            duplicates.push((decoded, Outcome::Duplicate));
        } else {
            let detail = format!(
                "delivered {} times; {} processes died while they wrote it; it has no row",
                decoded.delivery.delivered,
                trial::DIED_MAX
            );
            let fate = MessageFate::DeadLetter(Reason::MaxDeliveries, detail);
            proposals.push(Proposal { decoded, fate });
        }
    }
    let mut ends = fate::decide(writer, proposals, &mut batch.failures).await?;
    ends.settled.append(&mut duplicates);
    let stored = StoredBatch {
        messages: Vec::new(),
        outcomes: Vec::new(),
        epoch_advanced: false,
        timings: timings(&mut batch, events, WriteMethod::Insert),
    };
    Ok(finish(writer, stored, ends))
}

/// Of a batch whose rows are all decided by now.
fn timings(batch: &mut Batch, events: usize, method: WriteMethod) -> Arc<BatchTimings> {
    Arc::new(BatchTimings {
        taken_at: batch.taken_at,
        durable_at: now_nanos(),
        events,
        method,
        failures: std::mem::take(&mut batch.failures),
        observed: std::sync::OnceLock::new(),
    })
}

/// `None` for a row that Postgres did not try: it counts neither as stored nor as rejected.
fn was_rejected(outcome: &RowOutcome) -> Option<bool> {
    match outcome {
        RowOutcome::Stored => Some(false),
        RowOutcome::Duplicate | RowOutcome::Skipped | RowOutcome::DeadLetter(..) => None,
        RowOutcome::Rejected(_) => Some(true),
    }
}

/// What becomes of the decided messages of a batch.
#[derive(Default)]
struct SplitBatch {
    /// Of those that stay in the batch.
    outcomes: Vec<Outcome>,
    rejected: Vec<RejectedRow>,
    proposals: Vec<Proposal>,
}

/// Takes the messages out of the batch whose end is to be decided; the others keep their order.
fn split_by_outcome(batch: &mut Vec<Decoded>, outcomes: Vec<RowOutcome>) -> SplitBatch {
    let as_settled = |outcome: &RowOutcome| match outcome {
        RowOutcome::Stored => Some(Outcome::Stored),
        RowOutcome::Duplicate => Some(Outcome::Duplicate),
        _ => None,
    };
    let mut split = SplitBatch::default();
    // The ordinary case: all have rows, and stay where they are.
    if let Some(settled) = outcomes.iter().map(as_settled).collect() {
        split.outcomes = settled;
        return split;
    }
    let messages = std::mem::take(batch);
    for (decoded, outcome) in messages.into_iter().zip(outcomes) {
        let is_redelivered = decoded.delivery.is_redelivered();
        let fate = match outcome {
            RowOutcome::Rejected(detail) => {
                split.rejected.push(RejectedRow { decoded, detail });
                continue;
            }
            RowOutcome::DeadLetter(reason, detail) => MessageFate::DeadLetter(reason, detail),
            // It may be on its way to too many deliveries: its end is written down.
            RowOutcome::Skipped if is_redelivered => MessageFate::Skipped,
            stays => {
                let settled = as_settled(&stays).unwrap_or(Outcome::Skipped);
                split.outcomes.push(settled);
                batch.push(decoded);
                continue;
            }
        };
        split.proposals.push(Proposal { decoded, fate });
    }
    split
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
