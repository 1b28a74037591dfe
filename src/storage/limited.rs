//! Statements with a time limit. A connection on which one ran late is closed: its answer may
//! still come, and must not meet the next statement.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::classify;
use crate::error::{Dependency, Error};

/// One limit over waiting for a connection and all statements on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    deadline: Instant,
    /// What is being done, for the words of the error.
    what: &'static str,
}

impl Limit {
    /// Starts now.
    pub(crate) fn new(limit: Duration, what: &'static str) -> Self {
        Self {
            deadline: Instant::now() + limit,
            what,
        }
    }

    /// What `future` gives, if it does in time.
    pub(crate) async fn apply<F: Future>(self, future: F) -> Result<F::Output, Elapsed> {
        timeout_at(self.deadline, future).await
    }

    /// A connection of the pool.
    pub(crate) async fn connection(self, pool: &PgPool) -> Result<PoolConnection<Postgres>, Error> {
        let Ok(connection) = self.apply(pool.acquire()).await else {
            return Err(self.passed());
        };
        connection.map_err(|error| classify(&error))
    }

    /// The answer to a statement; closes the connection if there was none in time.
    pub(crate) fn answer<T>(
        self,
        connection: &mut PoolConnection<Postgres>,
        answer: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, Error> {
        let Ok(answer) = answer else {
            connection.close_on_drop();
            return Err(self.passed());
        };
        answer.map_err(|error| classify(&error))
    }

    /// The error of a limit that passed.
    pub(crate) fn passed(self) -> Error {
        Error::timeout(Dependency::Postgres, self.what)
    }
}
