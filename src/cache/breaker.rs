//! When a connection is given up, and how long after that the next one is tried.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::failure::Failure;

/// Reads in a row without an answer in time, after which the connection is given up.
const LATE_READS_MAX: u32 = 3;
/// Between two attempts, doubled from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A connection that lived so long starts the pauses anew.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Counts what speaks against a connection.
#[derive(Default)]
pub(super) struct Breaker {
    late_reads: AtomicU32,
}

impl Breaker {
    /// The cache answered a read in time, or the connection is a new one.
    pub(super) fn close(&self) {
        self.late_reads.store(0, Ordering::Relaxed);
    }

    /// Counts a failure, and says whether the connection is to be given up after it.
    pub(super) fn note(&self, failure: &Failure, reading: bool) -> bool {
        match failure {
            // An answer: the connection is whole.
            Failure::Refused(_) | Failure::Foreign(_) => false,
            // Nothing depends on the answer to a read: one late answer is no reason to make
            // every batch do without the cache.
            Failure::Late(_) if reading => {
                self.late_reads.fetch_add(1, Ordering::Relaxed) + 1 >= LATE_READS_MAX
            }
            Failure::Late(_) | Failure::Broken(_) => true,
        }
    }
}

/// How long to wait before the next connection.
pub(super) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { next: PAUSE.0 }
    }

    /// The pause after a connection that lived so long; zero for one that was not made.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE_AFTER {
            self.next = PAUSE.0;
        }
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{Class, Code, Dependency, Error};

    /// What can happen to a connection.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Answered,
        Refused,
        LateRead,
        LateWrite,
        Broken,
    }

    fn failure(event: Event) -> Option<(Failure, bool)> {
        let error = Error::new(Dependency::Cache, Class::Transient, Code::Response, "");
        match event {
            Event::Answered => None,
            Event::Refused => Some((Failure::Refused(error), true)),
            Event::LateRead => Some((Failure::Late(error), true)),
            Event::LateWrite => Some((Failure::Late(error), false)),
            Event::Broken => Some((Failure::Broken(error), true)),
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            2 => Just(Event::Answered),
            2 => Just(Event::Refused),
            6 => Just(Event::LateRead),
            1 => Just(Event::LateWrite),
            1 => Just(Event::Broken),
        ]
    }

    proptest! {
        #[test]
        fn a_late_write_a_broken_connection_or_three_late_reads_in_a_row_open_it(
            events in prop::collection::vec(event(), 1..100),
        ) {
            let breaker = Breaker::default();
            let mut late_in_a_row = 0;
            for event in events {
                let Some((failure, reading)) = failure(event) else {
                    breaker.close();
                    late_in_a_row = 0;
                    continue;
                };
                let expected = match event {
                    Event::LateRead => {
                        late_in_a_row += 1;
                        late_in_a_row >= 3
                    }
                    Event::LateWrite | Event::Broken => true,
                    Event::Answered | Event::Refused => false,
                };
                prop_assert_eq!(breaker.note(&failure, reading), expected);
                if expected {
                    // Whoever opens it makes a new connection.
                    breaker.close();
                    late_in_a_row = 0;
                }
            }
        }
    }

    /// A link whose connections live as long as they are told, in paused time.
    async fn attempts(lives: &[Duration], watched: Duration) -> usize {
        let mut pauses = Pauses::new();
        let end = tokio::time::Instant::now() + watched;
        for (attempt, lived) in lives.iter().enumerate() {
            if tokio::time::Instant::now() >= end {
                return attempt;
            }
            tokio::time::sleep(*lived).await;
            tokio::time::sleep(pauses.after(*lived)).await;
        }
        lives.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_is_away_is_asked_again_every_two_seconds_at_least() {
        // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s, then 2 s each.
        let away = [Duration::ZERO; 100];
        assert_eq!(attempts(&away, Duration::from_mins(1)).await, 5 + 29);
    }

    proptest! {
        #[test]
        fn only_a_connection_that_was_stable_starts_the_pauses_anew(
            lives in prop::collection::vec(0u64..20_000, 1..50),
        ) {
            let mut pauses = Pauses::new();
            let mut unstable_in_a_row = 0;
            for lived in lives.into_iter().map(Duration::from_millis) {
                if lived >= STABLE_AFTER {
                    unstable_in_a_row = 0;
                }
                let expected = (PAUSE.0 * 2u32.pow(unstable_in_a_row.min(10))).min(PAUSE.1);
                prop_assert_eq!(pauses.after(lived), expected);
                unstable_in_a_row += 1;
            }
        }
    }
}
