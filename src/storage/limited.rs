//! Statements with a time limit. A connection on which one was not answered, because that came too
//! late or because nobody waits for it any more, is closed: its answer may still come, and must not
//! meet the next statement, nor keep the pool's place until then.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
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
    pub(crate) async fn connection(self, pool: &PgPool) -> Result<Lent, Error> {
        let Ok(connection) = self.apply(pool.acquire()).await else {
            return Err(self.passed());
        };
        let connection = connection.map_err(|error| classify(&error))?;
        Ok(Lent {
            connection,
            is_answered: true,
        })
    }

    /// The answer to a statement.
    pub(crate) fn answer<T>(
        self,
        connection: &mut Lent,
        answer: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, Error> {
        let Ok(answer) = answer else {
            return Err(self.passed());
        };
        connection.is_answered = true;
        answer.map_err(|error| classify(&error))
    }

    /// The error of a limit that passed.
    pub(crate) fn passed(self) -> Error {
        Error::timeout(Dependency::Postgres, self.what)
    }
}

/// A connection of the pool, that goes back there if the last statement on it was answered.
pub(crate) struct Lent {
    connection: PoolConnection<Postgres>,
    is_answered: bool,
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    /// Whoever takes it like this asks something.
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.is_answered = false;
        &mut self.connection
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.close_on_drop();
        }
    }
}
