//! Statements with a deadline. A connection with an unanswered statement, late or dropped, is closed:
//! the answer may still arrive, and must not meet the next statement or occupy a place in the pool.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::error::Elapsed;
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

    pub(crate) async fn apply<F: Future>(self, future: F) -> Result<F::Output, Elapsed> {
        timeout_at(self.at, future).await
    }

    pub(crate) async fn connection(self, pool: &PgPool) -> Result<LentConnection, Error> {
        let Ok(connection) = self.apply(pool.acquire()).await else {
            return Err(self.passed());
        };
        let connection = connection.map_err(|error| classify(&error))?;
        Ok(LentConnection {
            connection,
            is_answered: true,
        })
    }

    pub(crate) fn answer<T>(
        self,
        connection: &mut LentConnection,
        answer: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, Error> {
        let Ok(answer) = answer else {
            return Err(self.passed());
        };
        connection.is_answered = true;
        answer.map_err(|error| classify(&error))
    }

    pub(crate) fn passed(self) -> Error {
        Error::timeout(Dependency::Postgres, self.what)
    }
}

/// A connection that goes back to the pool if its last statement was answered.
pub(crate) struct LentConnection {
    connection: PoolConnection<Postgres>,
    is_answered: bool,
}

impl Deref for LentConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for LentConnection {
    /// A mutable borrow sends a statement.
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.is_answered = false;
        &mut self.connection
    }
}

impl Drop for LentConnection {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.close_on_drop();
        }
    }
}
