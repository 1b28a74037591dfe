//! What a server must be, and the migrations.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::Executor;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnection, PgPool};

use super::blockers;
use super::classify::classify;
use super::deadline::Deadline;
use super::session::{self, quoted};
use crate::error::{Class, Code, Dependency, Error};

/// The files of migrations/, oldest first. `sqlx::migrate!` would find them by itself, but compiles sqlx and
/// tokio a second time, for the compiler's own use.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator {
    migrations: Cow::Owned(vec![
        migration(
            1,
            "events",
            include_str!("../../migrations/0001_events.sql"),
        ),
        migration(
            2,
            "cache_epoch",
            include_str!("../../migrations/0002_cache_epoch.sql"),
        ),
        migration(3, "fates", include_str!("../../migrations/0003_fates.sql")),
        migration(
            4,
            "trials",
            include_str!("../../migrations/0004_trials.sql"),
        ),
        migration(5, "tail", include_str!("../../migrations/0005_tail.sql")),
    ]),
    // During a rolling update a newer version has applied more (migrations/README.md), and this one starts again.
    ignore_missing: true,
    ..Migrator::DEFAULT
});

fn migration(version: i64, description: &'static str, sql: &'static str) -> Migration {
    Migration::new(
        version,
        description.into(),
        MigrationType::Simple,
        sql.into(),
        false,
    )
}

#[derive(Debug)]
pub(crate) struct ServerFacts {
    /// `server_version_num`, such as 170010.
    pub(crate) version_num: i32,
    pub(crate) full_page_writes: bool,
    /// Whether it refuses writes: a standby, or a read-only database.
    pub(crate) read_only: bool,
}

pub(crate) async fn facts(connection: &mut PgConnection) -> Result<ServerFacts, sqlx::Error> {
    let facts = "SELECT current_setting('server_version_num')::int AS version_num, \
                        current_setting('full_page_writes')::bool AS full_page_writes, \
                        current_setting('transaction_read_only')::bool AS read_only";
    let (version_num, full_page_writes, read_only) =
        sqlx::query_as(facts).fetch_one(connection).await?;
    Ok(ServerFacts {
        version_num,
        full_page_writes,
        read_only,
    })
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

/// Makes the schema, and applies the migrations that are missing, for `limit` at most.
///
/// # Errors
/// When one fails, or takes longer: that names who holds a lock. Those before it stay applied.
pub(crate) async fn migrate_within(
    pool: &PgPool,
    schema: &str,
    limit: Duration,
) -> Result<(), Error> {
    let what = "migrations";
    let open = async {
        // Out of the pool: see `migrate`.
        let mut connection = pool.acquire().await?.detach();
        let process = session::process_of(&mut connection).await?;
        Ok((connection, process))
    };
    let (mut connection, process) = Deadline::new(limit, what).run(open).await?;
    let work = async {
        make_schema(&mut connection, schema).await?;
        MIGRATIONS.run(&mut connection).await.map_err(migrate_error)
    };
    blockers::within(pool, process, (limit, what), work).await?
}

/// Makes the schema where it is missing.
async fn make_schema(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let made = async {
        let is_missing = "SELECT to_regnamespace($1) IS NULL";
        let quoted = quoted(schema);
        let is_missing: bool = sqlx::query_scalar(is_missing)
            .bind(&quoted)
            .fetch_one(&mut *connection)
            .await?;
        if is_missing {
            // Another replica may be making it.
            let make = format!("CREATE SCHEMA IF NOT EXISTS {quoted}");
            connection.execute(make.as_str()).await?;
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

/// How many migrations of a newer version the database has, which this one does not know.
pub(crate) async fn newer_migrations(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let newest = MIGRATIONS.iter().map(|one| one.version).max();
    sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE success AND version > $1")
        .bind(newest)
        .fetch_one(pool)
        .await
}

fn migrate_error(error: MigrateError) -> Error {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::MIGRATIONS;

    #[test]
    fn every_file_of_migrations_is_applied() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).expect("migrations/ exists") {
            let path = entry.expect("it can be listed").path();
            if path.extension().is_some_and(|extension| extension == "sql") {
                let name = path.file_name().expect("it is a file");
                let text = fs::read_to_string(&path).expect("it can be read");
                files.push((name.to_string_lossy().into_owned(), text));
            }
        }
        files.sort();
        let listed = MIGRATIONS.iter().map(|one| {
            let name = format!("{:04}_{}.sql", one.version, one.description);
            (name, one.sql.to_string())
        });
        assert_eq!(listed.collect::<Vec<_>>(), files);
    }
}
