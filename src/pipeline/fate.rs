//! Fate: messages that get no row end as dead letters, or as skipped, once Postgres has it in writing.

use super::attempt::row;
use super::writer::Writer;
use crate::backoff::Backoff;
use crate::error::{Class, Dependency, Error};
use crate::event::Event;
use crate::labels::{Outcome, Reason};
use crate::message::Decoded;
use crate::message::timings::Failures;
use crate::storage::{MessageFate, Row};

/// A message without a row, and how it should end.
pub(crate) struct Proposal {
    pub(crate) decoded: Decoded,
    pub(crate) fate: MessageFate,
}

/// How messages end.
#[derive(Default)]
pub(crate) struct Ends {
    pub(crate) letters: Vec<(Decoded, Reason, String)>,
    /// They need no letter.
    pub(crate) settled: Vec<(Decoded, Outcome)>,
    /// To be decided later: another statement may still write their rows.
    pub(crate) later: Vec<Decoded>,
}

/// Decides how messages end that have no row, as far as this writer knows.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn decide(
    writer: &Writer,
    proposals: Vec<Proposal>,
    failures: &mut Failures,
) -> Result<Ends, Error> {
    let mut ends = Ends::default();
    if proposals.is_empty() {
        return Ok(ends);
    }
    let (messages, proposed): (Vec<Decoded>, Vec<MessageFate>) = proposals
        .into_iter()
        .map(|proposal| (proposal.decoded, proposal.fate))
        .unzip();
    let fates = {
        let rows: Vec<Row<'_>> = messages
            .iter()
            .map(|decoded| row(writer, decoded))
            .collect();
        let ask = || writer.storage.decide(&rows, &proposed);
        until_answered(writer, failures, ask).await?
    };
    let Some(fates) = fates else {
        ends.later = messages;
        return Ok(ends);
    };
    // Now no other one can come: whoever wrote before the decision has committed.
    let have_rows = have_rows(writer, &messages, failures).await?;
    for ((decoded, fate), has_row) in messages.into_iter().zip(fates).zip(have_rows) {
        match fate {
            _ if has_row => ends.settled.push((decoded, Outcome::Duplicate)),
            MessageFate::Skipped => ends.settled.push((decoded, Outcome::Skipped)),
            MessageFate::DeadLetter(reason, detail) => ends.letters.push((decoded, reason, detail)),
        }
    }
    Ok(ends)
}

/// Whether the events of these messages have rows.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn have_rows(
    writer: &Writer,
    messages: &[Decoded],
    failures: &mut Failures,
) -> Result<Vec<bool>, Error> {
    let events: Vec<&Event> = messages.iter().map(|decoded| &decoded.event).collect();
    until_answered(writer, failures, || writer.reads.have_rows(&events)).await
}

/// Asks until Postgres answers.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn until_answered<T, F: Future<Output = Result<T, Error>>>(
    writer: &Writer,
    failures: &mut Failures,
    ask: impl Fn() -> F,
) -> Result<T, Error> {
    let mut backoff = Backoff::new();
    loop {
        let recovery = writer.health.recovery(Dependency::Postgres);
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        writer.metrics.dependency_error(&error);
        if error.class == Class::Fatal {
            tracing::error!(%error, "Postgres refuses what we ask; stopping");
            return Err(error);
        }
        tracing::warn!(%error, "cannot read or write fates or trials; trying again");
        failures.add(&error);
        backoff.wait_or(recovery).await;
    }
}
