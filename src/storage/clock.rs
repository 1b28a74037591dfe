//! What Postgres's clock says, without asking it for every batch. `COPY` takes no expression for a column,
//! and a default that changes within a statement makes it insert row by row.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use crate::event::Timestamp;

/// An answer is gone by for so long; two monotonic clocks drift apart by microseconds in it.
const ANSWER_LASTS: Duration = Duration::from_secs(1);

/// The last answer, for all connections to the server.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Option<ClockReading>>);

/// What the clock said, and when by ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    time: Timestamp,
    at: Instant,
}

impl ServerClock {
    /// The last answer, or a new one.
    pub(super) async fn read(
        &self,
        connection: &mut PgConnection,
    ) -> Result<ClockReading, sqlx::Error> {
        if let Some(reading) = self.last() {
            return Ok(reading);
        }
        let asked = Instant::now();
        let time = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(connection)
            .await?;
        // The server looked at its clock somewhere in between.
        let reading = ClockReading {
            time,
            at: asked + asked.elapsed() / 2,
        };
        *self.lock() = Some(reading);
        Ok(reading)
    }

    fn last(&self) -> Option<ClockReading> {
        let last = *self.lock();
        last.filter(|reading| reading.at.elapsed() < ANSWER_LASTS)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ClockReading>> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

impl ClockReading {
    /// The time by that clock now.
    pub(super) fn now(self) -> Timestamp {
        let since = i64::try_from(self.at.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.time.micros().saturating_add(since))
    }
}
