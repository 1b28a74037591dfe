//! Answers of Postgres with a code that passes by itself elsewhere. They are retried. When such a code comes
//! back for the same rows, again and again, while others are stored, the rows are to blame: soon for a
//! conflict or the time limit of statements. No room, a lock that somebody holds, or a server that does not
//! write usually say nothing of the rows, so somebody gets an hour to mend that. Pure.

use crate::error::Code;
use crate::storage::OnTransient;

/// Attempts in a row by the writer that has the batch. Then the batch is parked, so that others get the
/// writer.
const ATTEMPTS_IN_PLACE: u32 = 3;
/// The same where the code says that the server writes nothing: more than a minute. A trigger can say so, too.
const ATTEMPTS_OF_SERVER_IN_PLACE: u32 = 20;
/// Rows are not blamed before so many attempts at them have failed: some 20 s, or minutes where each one
/// runs into the time limit.
const ATTEMPTS_MIN: u32 = 10;
/// Nor before others were stored so often between two attempts. Once may be the end of one outage before
/// the next one.
const OTHERS_STORED_MIN: u32 = 2;

/// The same where the code usually says nothing of the rows, such as a full disk: an hour, as a parked batch
/// is tried every 5 s.
const ATTEMPTS_OF_SERVER_MIN: u32 = 720;
const OTHERS_STORED_OF_SERVER_MIN: u32 = 100;

/// What the attempts at a batch showed that failed with such a code.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransientFailures {
    attempts: u32,
    /// After how many of them others were stored.
    others_stored: u32,
    /// The newest attempt of any writer when the first one of these and the last one had failed.
    first: u64,
    last: u64,
    /// Its code usually says something of the rows: a part of them may pass.
    is_about_rows: bool,
    /// Its code says that the server writes nothing for now, whatever the rows.
    is_about_server: bool,
}

impl TransientFailures {
    /// Notes a failed attempt. `newest`: the newest attempt of any writer; `others_stored`: whether one
    /// since [`Self::last`] has stored a row.
    pub(crate) fn add(&mut self, code: Code, newest: u64, others_stored: bool) {
        if self.attempts == 0 {
            self.first = newest;
        } else {
            self.others_stored += u32::from(others_stored);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.last = newest;
        self.is_about_rows = matches!(code, Code::Conflict | Code::Timeout);
        self.is_about_server = matches!(code, Code::Unavailable | Code::Connection);
    }

    /// Evidence that others are stored is asked for since this attempt.
    pub(crate) fn first(&self) -> Option<u64> {
        (self.attempts > 0).then_some(self.first)
    }

    /// The same since the last failure.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether nobody was stored between the failures, as in an outage of all. Such rows are tried at once
    /// when others are stored: at most once, so that rows are blamed no sooner.
    pub(crate) fn are_of_an_outage(&self) -> bool {
        self.attempts > 0 && self.others_stored == 0
    }

    /// How the next attempt takes such an answer.
    pub(crate) fn next_attempt(&self, others_stored: bool) -> OnTransient {
        let often = self.others_stored + u32::from(others_stored);
        let (attempts_min, others_stored_min) = if self.is_about_rows {
            (ATTEMPTS_MIN, OTHERS_STORED_MIN)
        } else {
            (ATTEMPTS_OF_SERVER_MIN, OTHERS_STORED_OF_SERVER_MIN)
        };
        let is_lasting = self.attempts >= attempts_min && often >= others_stored_min;
        let is_third = self.attempts == ATTEMPTS_IN_PLACE && (self.is_about_rows || often > 0);
        if is_lasting {
            OnTransient::Blame
        } else if is_third || self.attempts > ATTEMPTS_IN_PLACE && others_stored {
            OnTransient::Search
        } else {
            OnTransient::Retry
        }
    }

    /// Whether the writer goes on to others. If these cannot be stored either, it waits with its batch for
    /// longer, and goes on as soon as the server does.
    pub(crate) fn is_to_be_parked(&self, others_stored: bool) -> bool {
        let in_place = if self.is_about_server {
            ATTEMPTS_OF_SERVER_IN_PLACE
        } else {
            ATTEMPTS_IN_PLACE
        };
        self.attempts >= in_place && self.next_attempt(others_stored) == OnTransient::Retry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(attempts: u32, code: Code, others_stored: bool) -> TransientFailures {
        let mut failures = TransientFailures::default();
        for newest in 1..=attempts {
            failures.add(code, newest.into(), others_stored);
        }
        failures
    }

    #[test]
    fn rows_are_searched_once_and_blamed_after_ten_attempts_between_which_others_were_stored() {
        for (attempts, others_stored, next) in [
            (0, false, OnTransient::Retry),
            (2, true, OnTransient::Retry),
            (3, false, OnTransient::Search),
            (4, true, OnTransient::Retry),
            (9, true, OnTransient::Retry),
            (10, true, OnTransient::Blame),
            (1_000, false, OnTransient::Retry),
        ] {
            let failures = failed(attempts, Code::Conflict, others_stored);
            assert_eq!(failures.next_attempt(false), next, "{attempts}");
        }
    }

    #[test]
    fn a_server_that_is_short_of_something_is_not_asked_for_each_row() {
        let failures = failed(3, Code::Resources, false);
        assert_eq!(failures.next_attempt(false), OnTransient::Retry);
        assert!(failures.is_to_be_parked(false));
        assert_eq!(failures.next_attempt(true), OnTransient::Search);
    }

    #[test]
    fn a_writer_waits_with_its_batch_for_a_server_that_writes_nothing() {
        assert!(!failed(19, Code::Unavailable, false).is_to_be_parked(false));
        assert!(failed(20, Code::Unavailable, false).is_to_be_parked(false));
    }

    #[test]
    fn a_batch_is_searched_whenever_others_were_stored_since() {
        let failures = failed(7, Code::Resources, false);
        assert_eq!(failures.next_attempt(false), OnTransient::Retry);
        assert_eq!(failures.next_attempt(true), OnTransient::Search);
    }

    #[test]
    fn rows_for_which_a_server_is_short_of_something_are_blamed_after_an_hour_in_which_others_were_stored()
     {
        for code in [Code::Resources, Code::Unavailable] {
            assert_ne!(
                failed(719, code, true).next_attempt(true),
                OnTransient::Blame
            );
            assert_eq!(
                failed(720, code, true).next_attempt(false),
                OnTransient::Blame
            );
            // Nothing else was stored: the server is to blame.
            assert_ne!(
                failed(10_000, code, false).next_attempt(true),
                OnTransient::Blame
            );
        }
    }
}
