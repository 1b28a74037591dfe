//! Which transactions have ended, and of which of them that is on the server's disk.

use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::TailPosition;
use super::marks::basis;

/// `written` after `running`, and `on_disk` after that.
const NOW: &str = concat!(
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS running, \
     pg_snapshot_xmax(pg_current_snapshot())::text AS next, \
     pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS written, \
     pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint AS on_disk, \
     CASE WHEN is_complete AND basis = ",
    basis!(),
    " THEN begun_in::text END AS marking, \
     greatest(0, extract(epoch FROM sure_until - clock_timestamp()))::bigint AS seconds_left \
     FROM (SELECT) AS nothing LEFT JOIN tail ON true"
);

/// Pages of the log and the sizes of their headers. `written` can end with one that is not flushed yet.
const PAGE_BYTES: i64 = 8_192;
const HEADERS_BYTES: [i64; 2] = [24, 40];

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    /// The end of every older transaction is on disk.
    passed: u64,
    /// Every older transaction has ended, and that is on disk when the log is, up to this place.
    noted: Option<(u64, i64)>,
    /// The oldest one that runs while newer ones do, and since when it is known.
    held: Option<(u64, Instant)>,
}

/// What the server said.
pub(super) struct TailNow {
    /// The oldest transaction that runs, or else the next one.
    pub(super) running: u64,
    /// Which marking is in force and complete, and how long it will be, if nobody renews it.
    pub(super) marking: Option<(u64, Duration)>,
}

impl Clock {
    pub(super) async fn read(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<TailNow, sqlx::Error> {
        let row = sqlx::query(NOW).fetch_one(connection).await?;
        let running = number(row.try_get("running")?)?;
        self.note(running, row.try_get("written")?, row.try_get("on_disk")?);
        self.note_held(running, number(row.try_get("next")?)?);
        let marking: Option<&str> = row.try_get("marking")?;
        let seconds: Option<i64> = row.try_get("seconds_left")?;
        let left = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let left = Duration::from_secs(left.unwrap_or(0));
        let marking = marking.map(number).transpose()?;
        Ok(TailNow {
            running,
            // The rest of its last second is not counted on.
            marking: marking.filter(|_| !left.is_zero()).map(|it| (it, left)),
        })
    }

    /// The transaction before which the tail ends, and since when, if it is always the same.
    pub(super) fn held(self) -> Option<(u64, Instant)> {
        self.held
    }

    fn note_held(&mut self, running: u64, next: u64) {
        self.held.take_if(|(held, _)| *held != running);
        if running < next {
            self.held.get_or_insert_with(|| (running, Instant::now()));
        }
    }

    fn note(&mut self, running: u64, written: i64, on_disk: i64) {
        let header = written % PAGE_BYTES;
        let is_header = HEADERS_BYTES.contains(&header);
        let written = if is_header { written - header } else { written };
        // The server has crashed, and lost what was not on disk, or another one has taken over.
        if running < self.passed {
            self.passed = 0;
        }
        self.noted
            .take_if(|(transaction, place)| running < *transaction || written < *place);
        let (transaction, place) = *self.noted.get_or_insert((running, written));
        if place <= on_disk {
            self.passed = transaction;
            self.noted = (written > on_disk).then_some((running, written));
            if self.noted.is_none() {
                self.passed = running;
            }
        }
    }

    /// Where to go on: at `end`, if that passes only transactions whose end is on disk, or else as far behind
    /// `last` as possible.
    pub(super) fn passed(self, end: TailPosition, last: TailPosition) -> TailPosition {
        match end {
            TailPosition::Before(transaction) if transaction > self.passed => {
                if last.transaction() < self.passed {
                    TailPosition::Before(self.passed)
                } else {
                    last
                }
            }
            end => end,
        }
    }
}

/// The number of a transaction, which sqlx has no type for.
pub(super) fn number(text: &str) -> Result<u64, sqlx::Error> {
    text.parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_passed_when_the_log_up_to_its_end_is_on_disk() {
        let mut clock = Clock::default();
        clock.note(7, 1_000, 900);
        assert_eq!(clock.passed, 0);
        clock.note(9, 1_200, 990);
        assert_eq!(clock.passed, 0);
        clock.note(12, 1_300, 1_100);
        assert_eq!(clock.passed, 7);
        clock.note(13, 1_300, 1_300);
        assert_eq!(clock.passed, 13);
        // It comes back after a crash, with less of its log.
        clock.note(14, 1_500, 1_400);
        clock.note(13, 1_450, 1_400);
        clock.note(13, 1_600, 1_500);
        assert_eq!(clock.passed, 13);
        // Another one has taken over, which has seen less.
        clock.note(5, 1_700, 1_600);
        assert_eq!(clock.passed, 0);
        // The next page has begun, and has nothing but its header.
        let mut clock = Clock::default();
        clock.note(7, 8_192 + 24, 8_192);
        assert_eq!(clock.passed, 7);
    }

    #[test]
    fn a_position_passes_no_transaction_whose_end_is_not_on_disk() {
        let clock = Clock {
            passed: 7,
            ..Clock::default()
        };
        let before = TailPosition::Before;
        assert_eq!(clock.passed(before(7), before(3)), before(7));
        assert_eq!(clock.passed(before(9), before(3)), before(7));
        assert_eq!(clock.passed(before(9), before(8)), before(8));
    }
}
