//! Answers of Postgres with a code that passes by itself elsewhere, and statements without an answer. They are
//! retried. When that comes back for the same rows, again and again, while others are stored, the rows are to
//! blame: soon for a conflict or the time limit of statements. No room, a lock that somebody holds, a server
//! that does not write, or a connection that breaks usually say nothing of the rows, so somebody gets an hour
//! to mend that. Pure.

use tokio::time::Instant;

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
/// The same, and the time, where the failure usually says nothing of the rows, such as a full disk. One that is
/// parked alone is tried every 5 s, and behind a lock after 25 s more.
const ATTEMPTS_OF_SERVER_MIN: u32 = 100;
const OTHERS_STORED_OF_SERVER_MIN: u32 = 100;
const SECONDS_OF_SERVER_MIN: u32 = 3_600;

/// One failed attempt at a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransientFailure {
    pub(crate) code: Code,
    /// Otherwise the connection broke, or the answer did not come in time.
    pub(crate) has_answer: bool,
    /// The newest attempt of any writer.
    pub(crate) newest: u64,
    /// One since [`TransientFailures::last`] has stored a row.
    pub(crate) others_stored: bool,
}

impl TransientFailure {
    fn is_about_rows(self) -> bool {
        self.has_answer && self.code.is_about_rows()
    }
}

/// What such attempts at a batch showed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransientFailures {
    all: Repeated,
    /// Those that usually say something of the rows.
    about_rows: Repeated,
    /// Those that usually say something of the server, or of the way to it.
    about_server: Repeated,
    /// When the first of those had failed, and how long after it the last one.
    server_failed_at: Option<Instant>,
    server_lasted_seconds: u32,
    /// The newest attempt of any writer when the first one of all and the last one had failed.
    first: u64,
    last: u64,
    last_is_about_rows: bool,
    /// By its answer.
    last_server_writes_nothing: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Repeated {
    attempts: u32,
    /// Before how many of them, but the first one of all, others were stored since the failure before.
    others_stored: u32,
}

impl Repeated {
    fn add(&mut self, others_stored: bool) {
        self.attempts = self.attempts.saturating_add(1);
        self.others_stored += u32::from(others_stored);
    }
}

impl TransientFailures {
    /// Notes an attempt that failed at `now`.
    pub(crate) fn add(&mut self, failed: TransientFailure, now: Instant) {
        let is_first = self.all.attempts == 0;
        if is_first {
            self.first = failed.newest;
        }
        let others_stored = failed.others_stored && !is_first;
        self.all.add(others_stored);
        if failed.is_about_rows() {
            self.about_rows.add(others_stored);
        } else if failed.code != Code::Upkeep {
            self.about_server.add(others_stored);
            let began = *self.server_failed_at.get_or_insert(now);
            let seconds = now.duration_since(began).as_secs();
            self.server_lasted_seconds = seconds.try_into().unwrap_or(u32::MAX);
        }
        self.last = failed.newest;
        self.last_is_about_rows = failed.is_about_rows();
        self.last_server_writes_nothing = failed.has_answer && failed.code == Code::Unavailable;
    }

    /// Since which attempt others have to be stored, so that rows are blamed.
    pub(crate) fn evidence_begins(&self, blame: OnTransient) -> u64 {
        if blame == OnTransient::BlameAll {
            // An outage can have begun an hour after the first failure.
            self.last
        } else {
            self.first
        }
    }

    /// The same since the last failure.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether nobody was stored between the failures, as in an outage of all. Such rows are tried at once
    /// when others are stored: at most once, so that rows are blamed no sooner.
    pub(crate) fn are_of_an_outage(&self) -> bool {
        self.all.attempts > 0 && self.all.others_stored == 0
    }

    /// How the next attempt takes such an answer.
    pub(crate) fn next_attempt(&self, others_stored: bool) -> OnTransient {
        let Self {
            all,
            about_rows,
            about_server,
            ..
        } = self;
        let often = |kind: &Repeated| kind.others_stored + u32::from(others_stored);
        let is_third =
            all.attempts == ATTEMPTS_IN_PLACE && (self.last_is_about_rows || often(all) > 0);
        if others_stored
            && about_server.attempts >= ATTEMPTS_OF_SERVER_MIN
            && about_server.others_stored >= OTHERS_STORED_OF_SERVER_MIN
            && self.server_lasted_seconds >= SECONDS_OF_SERVER_MIN
        {
            OnTransient::BlameAll
        } else if about_rows.attempts >= ATTEMPTS_MIN && often(about_rows) >= OTHERS_STORED_MIN {
            OnTransient::BlameConflicts
        } else if is_third || all.attempts > ATTEMPTS_IN_PLACE && others_stored {
            OnTransient::Search
        } else {
            OnTransient::Retry
        }
    }

    /// Whether the writer goes on to others. If these cannot be stored either, it waits with its batch for
    /// longer, and goes on as soon as the server does.
    pub(crate) fn is_to_be_parked(&self, others_stored: bool) -> bool {
        let in_place = if self.last_server_writes_nothing {
            ATTEMPTS_OF_SERVER_IN_PLACE
        } else {
            ATTEMPTS_IN_PLACE
        };
        self.all.attempts >= in_place && self.next_attempt(others_stored) == OnTransient::Retry
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One attempt every 36 s.
    fn failed(attempts: u32, code: Code, others_stored: bool) -> TransientFailures {
        let mut failures = TransientFailures::default();
        add(&mut failures, attempts, code, others_stored);
        failures
    }

    fn add(failures: &mut TransientFailures, attempts: u32, code: Code, others_stored: bool) {
        let began = failures.server_failed_at.unwrap_or_else(Instant::now);
        for _ in 0..attempts {
            let number = failures.all.attempts + 1;
            let now = began + Duration::from_secs(36) * number;
            let failed = TransientFailure {
                code,
                has_answer: code != Code::Connection,
                newest: number.into(),
                others_stored,
            };
            failures.add(failed, now);
        }
    }

    #[test]
    fn rows_are_searched_once_and_blamed_after_ten_attempts_between_which_others_were_stored() {
        for (attempts, others_stored, next) in [
            (0, false, OnTransient::Retry),
            (2, true, OnTransient::Retry),
            (3, false, OnTransient::Search),
            (4, true, OnTransient::Retry),
            (9, true, OnTransient::Retry),
            (10, true, OnTransient::BlameConflicts),
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
    fn rows_for_which_a_server_is_short_of_something_are_blamed_after_an_hour_while_others_are_stored()
     {
        for code in [Code::Resources, Code::Unavailable, Code::Connection] {
            assert_eq!(
                failed(100, code, true).next_attempt(true),
                OnTransient::Search
            );
            let hour = failed(101, code, true);
            assert_eq!(hour.next_attempt(true), OnTransient::BlameAll);
            assert_eq!(hour.evidence_begins(OnTransient::BlameAll), 101);
            // An outage of all has begun since.
            assert_eq!(hour.next_attempt(false), OnTransient::Retry);
            let mut outage = failed(50, code, true);
            add(&mut outage, 1_000, code, false);
            assert_eq!(outage.next_attempt(true), OnTransient::Search);
            let mut quick = failed(1_000, code, true);
            quick.server_lasted_seconds = SECONDS_OF_SERVER_MIN - 1;
            assert_eq!(quick.next_attempt(true), OnTransient::Search);
        }
    }

    #[test]
    fn one_conflict_among_failures_of_the_server_blames_no_row() {
        let mut failures = failed(50, Code::Resources, true);
        add(&mut failures, 9, Code::Timeout, true);
        assert_eq!(failures.next_attempt(true), OnTransient::Search);
        add(&mut failures, 1, Code::Timeout, true);
        assert_eq!(failures.next_attempt(true), OnTransient::BlameConflicts);
    }

    /// The connection may have swallowed it.
    #[test]
    fn an_answer_that_does_not_come_is_no_time_limit_of_the_server() {
        let mut failures = TransientFailures::default();
        for number in 1..=50 {
            let failed = TransientFailure {
                code: Code::Timeout,
                has_answer: false,
                newest: number,
                others_stored: true,
            };
            failures.add(failed, Instant::now());
        }
        assert_eq!(failures.next_attempt(true), OnTransient::Search);
    }

    #[test]
    fn upkeep_is_waited_for_however_long() {
        let failures = failed(10_000, Code::Upkeep, true);
        assert_eq!(failures.next_attempt(true), OnTransient::Search);
    }
}
