//! What a server must be, and the migrations.

use sqlx::Executor;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnection, PgPool};

use super::classify::classify;
use super::session::quoted;
use crate::error::{Class, Code, Dependency, Error};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// The oldest version that the tests run against.
pub(crate) const POSTGRES_MIN_MAJOR_VERSION: i32 = 17;

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ServerFacts {
    /// `server_version_num`, such as 170010.
    pub(crate) version_num: i32,
    pub(crate) fsync: bool,
    pub(crate) full_page_writes: bool,
    /// Whether it refuses writes: a standby.
    pub(crate) read_only: bool,
}

pub(crate) async fn facts(connection: &mut PgConnection) -> Result<ServerFacts, sqlx::Error> {
    let facts = "SELECT current_setting('server_version_num')::int AS version_num, \
                        current_setting('fsync')::bool AS fsync, \
                        current_setting('full_page_writes')::bool AS full_page_writes, \
                        pg_is_in_recovery() AS read_only";
    sqlx::query_as(facts).fetch_one(connection).await
}

impl ServerFacts {
    /// Settings that break a promise, each with a fix.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        if self.version_num / 10_000 < POSTGRES_MIN_MAJOR_VERSION {
            violations.push(format!(
                "POSTGRES_URL: the server is version {}.{}: expected {POSTGRES_MIN_MAJOR_VERSION} or later",
                self.version_num / 10_000,
                self.version_num % 10_000
            ));
        }
        if !self.fsync {
            violations.push(
                "POSTGRES_URL: the server runs with fsync = off: a commit would not be durable. \
                 Set fsync = on"
                    .to_owned(),
            );
        }
        violations
    }
}

/// Applies the migrations that are missing. Replicas that start together take turns.
///
/// # Errors
/// When one fails; those before it stay applied.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    // Out of the pool: after an error it has the lock still, and only its end gives it up.
    let mut connection = pool.acquire().await?.detach();
    MIGRATIONS.run(&mut connection).await
}

/// Makes the schema where it is missing.
pub(crate) async fn make_schema(pool: &PgPool, schema: &str) -> Result<(), Error> {
    let made = async {
        let is_missing = "SELECT to_regnamespace($1) IS NULL";
        let quoted = quoted(schema);
        let is_missing: bool = sqlx::query_scalar(is_missing)
            .bind(&quoted)
            .fetch_one(pool)
            .await?;
        if is_missing {
            // Another replica may be making it.
            let make = format!("CREATE SCHEMA IF NOT EXISTS {quoted}");
            pool.execute(make.as_str()).await?;
        }
        Ok(())
    };
    let made = made.await.map_err(|error| classify(&error));
    made.map_err(|mut error| {
        if error.class == Class::Fatal {
            error.detail = format!(
                "{}: schema {schema} does not exist: CREATE SCHEMA {quoted} AUTHORIZATION this role, or \
                 correct GANESH_POSTGRES_SCHEMA",
                error.detail,
                quoted = quoted(schema)
            );
        }
        error
    })
}

/// How many migrations the database lacks; all of them when it has no table for them.
pub(crate) async fn missing_migrations(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let applied: Result<Vec<i64>, sqlx::Error> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(pool)
            .await;
    let applied = match applied {
        Ok(applied) => applied,
        // 42P01: undefined_table.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(error),
    };
    let missing = MIGRATIONS
        .iter()
        .filter(|one| !applied.contains(&one.version));
    Ok(missing.count())
}

pub(crate) fn migrate_error(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(&error),
        other => Error::new(
            Dependency::Postgres,
            Class::Fatal,
            Code::Setup,
            format!("migrations: {other}"),
        ),
    }
}
