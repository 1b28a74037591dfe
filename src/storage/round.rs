//! One round of a write: decides rows of which no two are the same event. A part that fails is tried in
//! smaller ones, where a row of it may be to blame.

use std::ops::Range;
use std::time::Instant;

use strum::VariantArray as _;

use super::bisection::Bisection;
use super::row::Row;
use super::statement::RowOutcome;
use super::write::{AttemptError, EventWriter, FailureCause, WriteFailure, WriteOptions};
use crate::error::{Class, Code};
use crate::labels::WriteMethod;

/// What an answer with a transient code means for the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnTransient {
    /// Nothing: the same rows are tried again.
    #[default]
    Retry,
    /// Some of the rows may be to blame: each part is tried, and those that fail alone stay undecided.
    Search,
    /// The same. Those that fail alone with a conflict or by the server's time limit are to blame, if others
    /// were stored.
    BlameConflicts,
    /// The same, whatever the code.
    BlameAll,
}

impl OnTransient {
    /// Whether a row that fails alone in this way is to blame, if others were stored.
    fn blames(self, failed: &AttemptError) -> bool {
        match self {
            Self::Retry | Self::Search => false,
            Self::BlameConflicts => !failed.is_unanswered() && failed.error.code.is_about_rows(),
            Self::BlameAll => failed.error.code != Code::Upkeep,
        }
    }
}

/// Rows that are too much for the server alone, one after the other without a stored one between them. Then
/// the rest is not tried: where everybody waits for a lock, each part would take the whole time limit.
const TOO_MUCH_ALONE_MAX: usize = 2;

/// What a round has seen.
struct Round {
    options: WriteOptions,
    bisection: Bisection,
    /// Bad JSON was looked for.
    is_inspected: bool,
    /// The number of the first attempt that was refused.
    first_refused: Option<u64>,
    /// Rows that failed alone: the place in the round, and why.
    alone: Vec<(usize, AttemptError)>,
    too_much_alone: usize,
    /// Methods by which a row was stored.
    stored_by: [bool; WriteMethod::VARIANTS.len()],
}

impl EventWriter {
    /// Writes these rows, and decides them all.
    pub(super) async fn write_round(
        &self,
        rows: &[Row<'_>],
        places: &[usize],
        outcomes: &mut [Option<RowOutcome>],
        options: WriteOptions,
    ) -> Result<WriteMethod, WriteFailure> {
        let pending: Vec<Row<'_>> = places.iter().map(|i| rows[*i]).collect();
        let bisection = Bisection::new(pending.len(), self.part_limit().rows());
        let mut round = Round::new(bisection, options);
        let mut method = WriteMethod::Insert;
        while let Some(part) = round.bisection.next_part() {
            let began = Instant::now();
            let failed = match self.write_part(&pending[part.clone()], options).await {
                Ok((written, by)) => {
                    method = by;
                    self.part_limit().stored(part.len(), began.elapsed());
                    round.stored(by, &written);
                    for (row, outcome) in places[part].iter().zip(written) {
                        outcomes[*row] = Some(outcome);
                    }
                    continue;
                }
                Err(failed) => failed,
            };
            if part.len() > 1 && (failed.is_too_much() || failed.is_unanswered()) {
                self.part_limit().too_much(part.len());
            }
            if !round.says_something_of_rows(&failed) {
                return Err(WriteFailure::of_the_whole(failed));
            }
            if round.is_json_to_be_looked_at(&part, &failed)
                && self
                    .reject_invalid_json(rows, &places[part.clone()], outcomes)
                    .await
            {
                // The rest makes the next round, without them.
                return Ok(method);
            }
            if failed.error.code == Code::RejectedRow && part.len() == 1 {
                let rejected = RowOutcome::Rejected(failed.error.detail);
                outcomes[places[part.start]] = Some(rejected);
            } else {
                if failed.is_too_much() && part.len() > 1 {
                    self.say_too_much(&failed.error, part.len());
                }
                if round.narrow(&part, failed) == Narrowed::GivenUp {
                    break;
                }
            }
        }
        round.blame(places, outcomes).map(|()| method)
    }
}

#[derive(PartialEq, Eq)]
enum Narrowed {
    /// There is more to be tried.
    GoOn,
    GivenUp,
}

impl Round {
    fn new(bisection: Bisection, options: WriteOptions) -> Self {
        Self {
            options,
            bisection,
            is_inspected: false,
            first_refused: None,
            alone: Vec::new(),
            too_much_alone: 0,
            stored_by: Default::default(),
        }
    }

    fn stored(&mut self, method: WriteMethod, written: &[RowOutcome]) {
        self.too_much_alone = 0;
        self.stored_by[method as usize] |= written.contains(&RowOutcome::Stored);
    }

    /// Whether a smaller part can tell more.
    fn says_something_of_rows(&self, failed: &AttemptError) -> bool {
        match failed.error.class {
            Class::Poison => true,
            Class::Transient => {
                let is_sent = failed.attempt > 0;
                failed.is_too_much() || is_sent && self.options.on_transient != OnTransient::Retry
            }
            Class::Fatal => false,
        }
    }

    /// Once for a round, when several rows were refused.
    fn is_json_to_be_looked_at(&mut self, part: &Range<usize>, failed: &AttemptError) -> bool {
        part.len() > 1
            && !std::mem::replace(&mut self.is_inspected, true)
            && failed.error.code == Code::RejectedRow
    }

    /// Smaller parts of this one are tried next; a row that failed alone is put aside.
    fn narrow(&mut self, part: &Range<usize>, failed: AttemptError) -> Narrowed {
        self.first_refused.get_or_insert(failed.attempt);
        if part.len() > 1 {
            let line = failed.line.filter(|_| !failed.is_too_much());
            self.bisection.narrow(part, line);
            return Narrowed::GoOn;
        }
        let is_too_much = failed.is_too_much() || failed.error.code == Code::Timeout;
        self.too_much_alone += usize::from(is_too_much);
        self.alone.push((part.start, failed));
        if self.too_much_alone >= TOO_MUCH_ALONE_MAX {
            Narrowed::GivenUp
        } else {
            Narrowed::GoOn
        }
    }

    /// Rejects the rows that failed alone while others were stored by the same method. Before an outage
    /// ends, rows fail alone, too: those with a transient code are blamed by what was stored before only.
    fn blame(
        self,
        places: &[usize],
        outcomes: &mut [Option<RowOutcome>],
    ) -> Result<(), WriteFailure> {
        let mut undecided: Option<WriteFailure> = None;
        for (row, failed) in self.alone {
            let others_stored_by = self.options.others_stored_by == Some(failed.method);
            let is_unknown = failed.error.class == Class::Poison;
            let is_to_blame = if is_unknown {
                others_stored_by || self.stored_by[failed.method as usize]
            } else {
                others_stored_by && self.options.on_transient.blames(&failed)
            };
            if is_to_blame {
                outcomes[places[row]] = Some(RowOutcome::Rejected(failed.error.detail));
                continue;
            }
            let cause = if is_unknown {
                FailureCause::Unknown(self.first_refused.unwrap_or_default())
            } else {
                FailureCause::of_transient(&failed)
            };
            let failure = undecided.get_or_insert_with(|| WriteFailure {
                error: failed.error,
                cause,
                failed_alone: Vec::new(),
            });
            failure.failed_alone.push(places[row]);
        }
        undecided.map_or(Ok(()), Err)
    }
}

impl FailureCause {
    fn of_transient(failed: &AttemptError) -> Self {
        if failed.is_unanswered() {
            Self::Unanswered
        } else if failed.is_answer {
            Self::Transient
        } else {
            Self::NotSent
        }
    }
}

impl WriteFailure {
    fn of_the_whole(failed: AttemptError) -> Self {
        Self {
            cause: if failed.error.class == Class::Transient {
                FailureCause::of_transient(&failed)
            } else {
                FailureCause::NotSent
            },
            error: failed.error,
            failed_alone: Vec::new(),
        }
    }
}
