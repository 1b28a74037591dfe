//! Statements with a deadline. A connection with an unanswered statement, late or dropped, is closed:
//! the answer may still arrive, and must not meet the next statement or occupy a place in the pool.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use tokio::time::{Instant, timeout_at};

use super::classify;
use crate::error::{Dependency, Error};

/// One deadline for waiting for a connection and all statements on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    /// Names the operation in the error.
    what: &'static str,
}

impl Deadline {
    /// `limit` from now.
    pub(crate) fn new(limit: Duration, what: &'static str) -> Self {
        Self {
            at: Instant::now() + limit,
            what,
        }
    }

    /// How long it is until then.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(crate) async fn wait_for<F: Future>(self, future: F) -> Result<F::Output, Error> {
        timeout_at(self.at, future)
            .await
            .map_err(|_| Error::timeout(Dependency::Postgres, self.what))
    }

    pub(crate) async fn run<T>(
        self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        let answer = self.wait_for(statements).await?;
        answer.map_err(|error| classify(&error))
    }
}

/// A connection that is closed when it is dropped without being given back.
pub(crate) struct LentConnection {
    pub(crate) connection: PoolConnection<Postgres>,
    is_given_back: bool,
}

impl LentConnection {
    pub(crate) async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            is_given_back: false,
        })
    }

    /// One that is open and not in use.
    pub(super) fn idle(pool: &PgPool) -> Option<Self> {
        Some(Self {
            connection: pool.try_acquire()?,
            is_given_back: false,
        })
    }

    /// To be called after the answer to the last statement.
    pub(crate) fn give_back(mut self) {
        self.is_given_back = true;
    }
}

impl Drop for LentConnection {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.connection.close_on_drop();
        }
    }
}
