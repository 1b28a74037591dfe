//! Who holds the lock that a session of ours waits for: nobody can mend what nobody names.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::{Class, Code, Dependency, Error};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a wait says that it goes on.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Process 0 stands for a prepared transaction.
const HOLDERS: &str = "\
    SELECT string_agg(CASE blocker \
        WHEN 0 THEN 'a prepared transaction (pg_prepared_xacts)' \
        ELSE format('process %s (application \"%s\", %s for %s s)', blocker, application_name, \
                    coalesce(state, 'state unknown'), \
                    extract(epoch FROM clock_timestamp() - coalesce(state_change, backend_start))::bigint) \
        END, ', ') \
    FROM unnest(pg_blocking_pids($1)) AS blocker LEFT JOIN pg_stat_activity ON pid = blocker";

/// Waits for work of the session with this server process, and says who holds a lock that it waits for.
///
/// # Errors
/// When the work takes longer than `limit`. The work is dropped then, and its connection has to be.
pub(crate) async fn within<T>(
    pool: &PgPool,
    process: i32,
    (limit, what): (Duration, &str),
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        late = watch(pool, process, Instant::now() + limit, what) => Err(late),
    }
}

async fn watch(pool: &PgPool, process: i32, end: Instant, what: &str) -> Error {
    let mut holders: Option<String> = None;
    let mut said_at: Option<Instant> = None;
    loop {
        sleep_until(end.min(Instant::now() + LOOK_EVERY)).await;
        if Instant::now() >= end {
            return late(what, holders.as_deref());
        }
        let asked = sqlx::query_scalar(HOLDERS).bind(process).fetch_one(pool);
        let Ok(Ok(found)) = timeout_at(end, asked).await else {
            continue; // Who runs the work hears of it, too.
        };
        holders = found;
        if let Some(holders) = &holders
            && said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY)
        {
            tracing::warn!(holders, "waiting for a lock: {what}");
            said_at = Some(Instant::now());
        }
    }
}

fn late(what: &str, holders: Option<&str>) -> Error {
    let Some(holders) = holders else {
        return Error::timeout(Dependency::Postgres, what);
    };
    Error::new(
        Dependency::Postgres,
        Class::Transient,
        Code::Timeout,
        format!(
            "{what}: waiting for a lock held by {holders}. End it (SELECT pg_terminate_backend(its number)), \
             or try again later"
        ),
    )
}
