//! The epoch as this process knows it, and for how long it may go by that.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::MissedTickBehavior;

use super::Cache;
use crate::error::Error;
use crate::storage::deadline::{Deadline, LentConnection};
use crate::storage::epoch::{self, EpochRow};

/// A read may use an epoch that is at most this old: the second of P5.
const TRUSTED: Duration = Duration::from_secs(1);
/// Twice as often as it must be read, so that one late answer costs nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// A later answer is useless.
const POLL_LIMIT: Duration = TRUSTED;

/// One late answer under load is no outage.
const FAILURES_OF_AN_OUTAGE: u32 = 3;

/// The epoch, and when it was asked for.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) row: EpochRow,
    /// Before the question went out: the epoch was this one at that moment or later.
    pub(super) asked: Asked,
}

/// A moment on two clocks. The monotonic one stands still while the machine sleeps and the
/// wall clock can be set, but a machine that slept shows in one and a clock that was set back
/// in the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    monotonic: Instant,
    wall: SystemTime,
}

impl Asked {
    pub(super) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Returns whether an epoch read at this moment is still fresh at `now`.
    pub(super) fn is_recent(self, now: Self) -> bool {
        let monotonic = now.monotonic.saturating_duration_since(self.monotonic);
        let wall = now.wall.duration_since(self.wall);
        // A wall clock that was set back says nothing; the other one goes on.
        monotonic < TRUSTED && wall.unwrap_or_default() < TRUSTED
    }
}

impl Cache {
    /// Polls the epoch. Nothing else asks Postgres while ganesh is idle, so this poll also tells
    /// whether Postgres answers.
    pub(super) async fn poll_epoch(&self) {
        let mut failures = 0;
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let asked = Asked::now();
            match self.read_epoch(POLL_LIMIT).await {
                Ok(row) => {
                    failures = 0;
                    self.0.health.set_postgres_answers(row.is_read_only);
                    self.learn(row, asked);
                }
                // Reads go to Postgres themselves now and say what they meet.
                Err(error) => {
                    self.0.metrics.dependency_error(&error);
                    tracing::debug!(%error, "cache epoch not read");
                    failures += 1;
                    if failures == FAILURES_OF_AN_OUTAGE {
                        self.0.health.set_postgres_silent();
                    }
                }
            }
        }
    }

    pub(super) async fn read_epoch(&self, limit: Duration) -> Result<EpochRow, Error> {
        let read = async {
            let mut lent = LentConnection::of(&self.0.pool).await?;
            let row = epoch::read(&mut *lent.connection).await?;
            // A new connection may lead to a new primary.
            if !row.is_read_only {
                lent.give_back();
            }
            Ok(row)
        };
        let deadline = Deadline::new(limit, "read of the cache epoch");
        deadline.run(read).await
    }

    /// Keeps the answer to the latest question.
    pub(super) fn learn(&self, row: EpochRow, asked: Asked) {
        let known = Arc::new(Known { row, asked });
        self.0.known.rcu(|current| match current {
            Some(current) if current.asked.monotonic >= asked.monotonic => Some(current.clone()),
            _ => Some(known.clone()),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A clock that was set back leaves the other one; a machine that slept shows in the wall clock.
        #[test]
        fn no_epoch_is_gone_by_for_longer_than_a_second_on_either_clock(
            monotonic_ms in 0u64..3_000,
            wall_ms in -3_000i64..3_000,
        ) {
            let asked = Asked::now();
            let step = Duration::from_millis(wall_ms.unsigned_abs());
            let now = Asked {
                monotonic: asked.monotonic + Duration::from_millis(monotonic_ms),
                wall: if wall_ms < 0 { asked.wall - step } else { asked.wall + step },
            };
            prop_assert_eq!(asked.is_recent(now), monotonic_ms < 1_000 && wall_ms < 1_000);
        }
    }
}
