//! When a connection is given up.

use std::sync::atomic::{AtomicU32, Ordering};

use super::failure::CacheFailure;

/// Reads in a row without an answer in time, after which the connection is given up.
const LATE_READS_MAX: u32 = 3;

/// Counts failures of a connection.
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
    pub(super) fn note(&self, failure: &CacheFailure, reading: bool) -> bool {
        match failure {
            // An answer: the connection is whole.
            CacheFailure::Refused(_) | CacheFailure::Foreign(_) => false,
            // Nothing depends on the answer to a read: one late answer is no reason to make
            // every batch do without the cache.
            CacheFailure::Late(_) if reading => {
                self.late_reads.fetch_add(1, Ordering::Relaxed) + 1 >= LATE_READS_MAX
            }
            CacheFailure::Late(_) | CacheFailure::Broken(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{Class, Code, Dependency, Error};

    /// An event of a connection.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Answered,
        Refused,
        LateRead,
        LateWrite,
        Broken,
    }

    fn failure(event: Event) -> Option<(CacheFailure, bool)> {
        let error = Error::new(Dependency::Cache, Class::Transient, Code::Response, "");
        match event {
            Event::Answered => None,
            Event::Refused => Some((CacheFailure::Refused(error), true)),
            Event::LateRead => Some((CacheFailure::Late(error), true)),
            Event::LateWrite => Some((CacheFailure::Late(error), false)),
            Event::Broken => Some((CacheFailure::Broken(error), true)),
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
}
